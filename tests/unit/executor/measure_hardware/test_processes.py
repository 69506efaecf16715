"""Processes that wait for a task end with whoever started them."""

from __future__ import annotations

import multiprocessing

from meshwright.executor.measure_hardware.team import LocalTeam


def test_processes_that_nobody_needs_are_ended() -> None:
    team = LocalTeam(2, on_gpus=False)
    team.prepare()
    team.prepare()
    assert len(multiprocessing.active_children()) == 2
    team.dismiss()
    assert multiprocessing.active_children() == []
    team.dismiss()
