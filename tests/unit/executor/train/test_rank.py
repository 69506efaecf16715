"""What a rank says when its device has no room."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch
import torch.distributed as dist
from msgspec.structs import replace

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.strategy import Recompute
from meshwright.executor.train import rank
from meshwright.executor.train.inputs import open_inputs
from meshwright.executor.train.rank import RankMemoryError, run_rank
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.planner.plan import Plan


def test_out_of_memory_says_what_was_predicted_and_what_helps(
    tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_room(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(rank, "Job", no_room)
    alone = replace(tiny_plan, mesh=replace(tiny_plan.mesh, dp=1, sp=1, ep=1))
    request = RunRequest(plan=tmp_path, output=tmp_path, num_steps=1, device=DeviceChoice.CPU)
    with pytest.raises(RankMemoryError, match=r"rank 0 \(pipeline stage 0\) .* predicted were .*; plan again") as said:
        run_rank(request, alone, open_inputs(request, tiny_plan), lambda _: None)
    assert "\n" not in str(said.value)


def with_memory(plan: Plan, micro_batch: int, recompute: Recompute) -> Plan:
    layers = tuple(replace(one, strategy=replace(one.strategy, recompute=recompute)) for one in plan.layers)
    return replace(plan, pipeline=replace(plan.pipeline, micro_batch_size=micro_batch), layers=layers)


@pytest.mark.parametrize(
    ("micro_batch", "recompute", "ways"),
    [
        (4, Recompute.NONE, "--fix mbs=2 or --fix recompute=full"),
        (1, Recompute.NONE, "--fix recompute=full"),
        (1, Recompute.FULL, "more GPUs than 4"),
    ],
)
def test_only_what_helps_is_advised(tiny_plan: Plan, micro_batch: int, recompute: Recompute, ways: str) -> None:
    assert rank._what_needs_less(with_memory(tiny_plan, micro_batch, recompute)) == ways


def test_ranks_on_different_gpus_are_refused(tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(names: list[str], _own: str) -> None:
        names[:] = ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    with pytest.raises(InputError) as refused:
        rank._check_same_device(torch.device("cpu"), tiny_plan, 0)
    assert str(refused.value) == (
        "run: ranks are on different devices (NVIDIA H100 80GB HBM3: ranks 0, 2-3; NVIDIA A100-SXM4-80GB: ranks 1);"
        " the plan is for H100 SXM 80GB alone"
    )


@pytest.mark.parametrize(("name", "warns"), [("NVIDIA H200", True), ("NVIDIA H100 80GB HBM3", False)])
def test_other_gpus_than_planned_are_said(
    tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *, warns: bool
) -> None:
    monkeypatch.setattr(dist, "all_gather_object", lambda names, own: names.__setitem__(slice(None), [own] * 4))
    monkeypatch.setattr(rank, "device_name", lambda _: name)
    rank._check_same_device(torch.device("cuda"), tiny_plan, 0)
    said = capsys.readouterr().err
    assert said == (
        f"meshwright: run: on {name}, the plan is for H100 SXM 80GB: its predictions do not hold here\n"
        if warns
        else ""
    )
