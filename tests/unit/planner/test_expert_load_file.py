from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.expert_load_file import read_histogram


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("loads.csv", "share\n0.4\n0.3\n0.2\n0.1\n"),
        ("loads.csv", "expert,share\n3,0.1\n0,0.4\n2,0.2\n1,0.3\n"),
        ("loads.csv", "\ufeffexpert, share, tokens\n0, 0.4, 7\n1, 0.3, 7\n2, 0.2, 7\n3, 0.1, 7\n"),
        ("loads.json", "[0.4, 0.3, 0.2, 0.1]"),
        ("loads.json", '{"model": "any", "shares": [0.4, 0.3, 0.2, 0.1]}'),
    ],
)
def test_a_histogram_is_read(tmp_path: Path, name: str, text: str) -> None:
    path = _file(tmp_path, name, text)
    load = read_histogram(path)
    assert load.shares == (0.4, 0.3, 0.2, 0.1)
    assert load.source == str(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "share\n0.5\n0.4\n", "a.csv: shares: 2 shares that sum to 0.9, expected 1 (within 0.001)"),
        ("a.csv", "share\n1.5\n-0.5\n", "a.csv: shares[0]: 1.5 is not a share between 0 and 1"),
        ("a.csv", "share\n0.5\nhalf\n", "a.csv: line 3: share: 'half' is not a number"),
        ("a.csv", "expert,share\n0,0.5\n1\n", "a.csv: line 3: share: None is not a number"),
        ("a.csv", "load\n0.5\n", "a.csv: share: no such column among load; expected a CSV file with a column 'share'"),
        ("a.csv", "", "a.csv: share: no such column among none"),
        ("a.csv", "share\n", "a.csv: shares: none given"),
        ("a.csv", "expert,share\n0,0.5\n2,0.5\n", "a.csv: line 3: expert: '2' is not a whole number from 0 to 1"),
        ("a.csv", "expert,share\n0,0.5\n0,0.5\n", "a.csv: expert: 0 is given twice"),
        ("a.json", "[0.5, 0.4]", "a.json: shares: 2 shares that sum to 0.9, expected 1"),
        ("a.json", "[0.5, true]", "a.json: shares[1]: True is not a number"),
        ("a.json", '{"loads": [1]}', "a.json: shares: is not a list"),
        ("a.json", "{", "a.json: not JSON: "),
        ("a.json", "[NaN, 1]", "a.json: shares[0]: nan is not a share"),
        ("a.json", "[]", "a.json: shares: none given"),
    ],
)
def test_what_is_no_histogram(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = _file(tmp_path, name, text)
    with pytest.raises(InputError) as error:
        read_histogram(path)
    assert str(error.value).startswith(f"{path.parent}/{message}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv: no such file; expected a CSV file"):
        read_histogram(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read: "):
        read_histogram(tmp_path)
    binary = tmp_path / "a.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a.csv: cannot be read: "):
        read_histogram(binary)
