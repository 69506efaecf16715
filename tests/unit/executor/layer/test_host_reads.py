"""Collectives inside an operator of another kind are told of where there are ranks to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meshwright.executor.layer.groups import ALONE, Communicator
from meshwright.executor.layer.host_reads import HostReads


def test_an_exchange_of_several_ranks_is_timed_and_reads_are_counted() -> None:
    told = []

    @contextmanager
    def exchanging() -> Iterator[None]:
        told.append("begins")
        yield
        told.append("ends")

    host = HostReads(exchanging)
    with host.exchange(ALONE):
        pass
    assert told == []
    with host.exchange(Communicator(size=2, rank=1)):
        told.append("runs")
    assert told == ["begins", "runs", "ends"]
    assert host.read(torch.tensor([[3, 4]])) == [3, 4]
    assert host.count == 1
