"""What a rank says when its device has no room."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from msgspec.structs import replace

from meshwright.executor.train import rank
from meshwright.executor.train.rank import RankMemoryError, run_rank
from meshwright.executor.train.request import DeviceChoice, RunRequest
from meshwright.planner.plan import Plan


def test_out_of_memory_says_what_was_predicted_and_what_helps(
    tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_room(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(rank, "_train", no_room)
    alone = replace(tiny_plan, mesh=replace(tiny_plan.mesh, dp=1, sp=1, ep=1))
    request = RunRequest(plan=tmp_path, output=tmp_path, num_steps=1, device=DeviceChoice.CPU)
    with pytest.raises(RankMemoryError, match=r"rank 0 \(pipeline stage 0\) .* predicted were .*--fix mbs=\d"):
        run_rank(request, alone, lambda _: None)
