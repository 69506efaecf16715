from __future__ import annotations

import csv
from pathlib import Path

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.presets import load_model
from meshwright.planner.validation.rows import (
    COLUMNS,
    DEFAULT_GPUS_PER_NODE,
    DEFAULT_NETWORK_GBIT_PER_S,
    RowText,
    packaged_path,
    parse_row,
    read_table,
)

FIRST = read_table(packaged_path())[0]


def changed(**cells: str) -> RowText:
    return RowText(number=2, cells={**FIRST.cells, **cells})


def test_a_row_reads_as_it_stands_in_the_file() -> None:
    row = parse_row(FIRST)
    assert (row.id, row.kind, row.model, row.num_layers) == ("T0052", "moe", "grok1-314b", 4)
    assert (row.num_gpus, row.tp, row.dp, row.ep, row.pp) == (32, 4, 8, 8, 1)
    assert row.tokens_per_s_per_gpu == 12318.8
    assert row.num_micro_batches == 1024 // 8


def test_blank_cells_mean_what_is_stated() -> None:
    row = parse_row(changed(gpus_per_node="", nic_gbps_per_gpu="", vp="", layers="", micro_batch=""))
    assert row.gpus_per_node == DEFAULT_GPUS_PER_NODE
    assert row.network_gbit_per_s == DEFAULT_NETWORK_GBIT_PER_S
    assert (row.virtual_stages, row.num_layers, row.micro_batch) == (0, 0, 1)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"gpus": "-8"}, "gpus: '-8' is not a positive number"),
        ({"measured_tokens_per_s_per_gpu": "1e300"}, "1e+300 tokens/s cannot be; expected 0.001 to 1e+09"),
        ({"gpus": "nan"}, "gpus: 'nan'"),
        ({"seq_len": ""}, "seq_len: ''"),
        ({"seq_len": "inf"}, "seq_len: 'inf'"),
        ({"tp": "2.5"}, "tp: '2.5' is not a whole number"),
        ({"tp": "four"}, "tp: 'four'"),
        ({"gpus": "33"}, "33 GPUs, but tp x sp x cp x pp x dp is 32"),
        ({"global_batch": "1023"}, "1023 is not a multiple of dp 8 x micro_batch 1"),
        ({"measured_tokens_per_s_per_gpu": "0"}, "measured_tokens_per_s_per_gpu: '0'"),
        ({"nic_gbps_per_gpu": "-1"}, "nic_gbps_per_gpu: '-1'"),
    ],
)
def test_an_absurd_cell_is_named(cells: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_row(changed(**cells))
    assert "T0052" in str(caught.value)
    assert words in str(caught.value)


def write(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def test_every_missing_column_is_named(tmp_path: Path) -> None:
    header = [name for name in COLUMNS if name not in ("gpus", "precision")]
    with pytest.raises(InputError, match="lacks the column precision, gpus"):
        read_table(write(tmp_path / "runs.csv", header, [["x"] * len(header)]))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no row"):
        read_table(write(tmp_path / "runs.csv", list(COLUMNS), []))


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"runs\.csv: cannot be read"):
        read_table(tmp_path / "runs.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "nowhere.csv")


def test_a_short_line_is_a_row_with_blank_cells(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "runs.csv", list(COLUMNS), [["x", "dense"]]))
    with pytest.raises(InputError, match="x: gpus: ''"):
        parse_row(table[0])


def test_presets_have_the_shapes_of_the_models_table() -> None:
    with packaged_path("models.csv").open(encoding="utf-8", newline="") as stream:
        for cells in csv.DictReader(stream):
            model = load_model(cells["model_key"])
            assert model.hidden == float(cells["hidden"]), cells["model_key"]
            assert model.num_layers == float(cells["layers"]), cells["model_key"]
            assert total_parameters(model) > 0
