"""What goes with weights comes along, and nothing is made up."""

from __future__ import annotations

from pathlib import Path

from meshwright.executor.weights.companions import NO_COMPANIONS, TOKEN_IDS, find_companions


def test_ids_that_are_named_and_files_that_are_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("tokenizer.json", "generation_config.json", "model.safetensors", "README.md"):
        (source / name).write_text(name)
    found = find_companions({"eos_token_id": [7, 9], "bos_token_id": None, "vocab_size": 16}, source)
    assert found.token_ids == {"bos_token_id": None, "eos_token_id": [7, 9]}
    found.write_to(target)
    assert {file.name: file.read_text() for file in target.iterdir()} == {
        name: name for name in ("generation_config.json", "tokenizer.json")
    }


def test_without_a_source_no_token_is_special() -> None:
    assert NO_COMPANIONS.token_ids == dict.fromkeys(TOKEN_IDS)
    assert NO_COMPANIONS.files == {}
