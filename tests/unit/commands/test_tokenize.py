"""`meshwright tokenize` as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from meshwright.cli import main


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "one": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_text_becomes_tokens(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, output = tmp_path / "a.txt", tmp_path / "tokens.bin"
    text.write_text("one more one")
    assert main(["tokenize", str(text), "--tokenizer", str(tokenizer), "--eos", "</s>", "-o", str(output)]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"4 tokens of 1 documents written to {output}\n", "")
    assert output.read_bytes() == bytes([2, 0, 0, 0, 2, 0, 1, 0])
    assert json.loads((tmp_path / "tokens.bin.json").read_text())["tokenizer"] == str(tokenizer)


def test_torch_is_not_loaded(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    words = ["tokenize", "a.txt", "--tokenizer", tokenizer.name, "--eos", "one", "-o", "t.bin"]
    code = f"import sys; from meshwright.cli import main; sys.exit(main({words}) or 'torch' in sys.modules)"
    source = str(Path(__file__).resolve().parents[3] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONSAFEPATH": "1"}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert (tmp_path / "t.bin").stat().st_size == 4


def test_a_missing_text_is_bad_input(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "none.txt"), "--tokenizer", str(tokenizer), "--eos", "one", "-o", str(tmp_path / "t")]
    assert main(["tokenize", *arguments]) == 2
    assert capsys.readouterr().err.endswith("none.txt: no such file, expected text\n")
