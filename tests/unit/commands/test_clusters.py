from __future__ import annotations

import json

import pytest

from meshwright.cli import main
from meshwright.hardware_profiles import preset_names


def _clusters(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float | str]]:
    assert main(["clusters", "--json"]) == 0
    return {cluster["name"]: cluster for cluster in json.loads(capsys.readouterr().out)["clusters"]}


def test_json_has_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(_clusters(capsys)) == preset_names()


def test_json_of_h800(capsys: pytest.CaptureFixture[str]) -> None:
    h800 = _clusters(capsys)["h800"]
    # Source: MegaScale-MoE, arXiv 2505.11432, table 4: 80 GB, 3.4 TB/s (rounded), NVLink 400 GB/s both ways.
    assert h800["gpus_per_node"] == 8
    assert h800["nvlink_bytes_per_s"] == 200e9
    assert float(h800["bf16_flops_per_s"]) == pytest.approx(989e12, rel=1e-3)
    assert str(h800["peak_source"]).strip()
    assert str(h800["network_source"]).strip()


def test_the_table_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clusters"]) == 0
    printed = capsys.readouterr().out
    for name in preset_names():
        assert any(line.split()[:1] == [name] for line in printed.splitlines())
