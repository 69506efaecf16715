"""Collectives by hand: bytes on the wire, rings, trees, pairs."""

from __future__ import annotations

import pytest

from meshwright.costmodel.formulas.collectives import (
    all_to_all_network_s,
    ring_latency_s,
    ring_network_s,
    scaled_link_s,
    tree_latency_s,
    wire_bytes,
)
from meshwright.costmodel.program.operators import Collective


@pytest.mark.parametrize(
    ("collective", "expected"),
    [
        (Collective.ALL_GATHER, 75.0),
        (Collective.REDUCE_SCATTER, 75.0),
        (Collective.ALL_TO_ALL, 75.0),
        (Collective.ALL_REDUCE, 150.0),
        (Collective.SEND_RECV, 100.0),
    ],
)
def test_wire_bytes_of_four_ranks(collective: Collective, expected: float) -> None:
    assert wire_bytes(collective, 100.0, 4) == expected


def test_a_group_with_one_rank_a_node_has_one_adapter() -> None:
    assert ring_network_s(100.0, 1, 50.0) == 8 * ring_network_s(100.0, 8, 50.0)


def test_pairwise_exchange_keeps_its_nodes_share_off_the_network() -> None:
    assert all_to_all_network_s(64.0, 8, 8, 1.0) == 0.0
    assert all_to_all_network_s(64.0, 16, 8, 1.0) == 32.0
    assert all_to_all_network_s(64.0, 16, 1, 1.0) == 60.0


def test_latency_is_linear_for_rings_and_logarithmic_for_trees() -> None:
    assert ring_latency_s(63, 7, 1.0, 0.5, 2.0) == 1.0 + 56 * 0.5 + 7 * 2.0
    assert tree_latency_s(8, 16, 1.0, 0.5, 2.0) - tree_latency_s(8, 8, 1.0, 0.5, 2.0) == pytest.approx(4.0)


def test_only_the_bandwidth_part_of_a_measured_time_scales() -> None:
    assert scaled_link_s(measured_s=10.0, wire_s_measured=7.0, wire_s=14.0, peak_share=1.0) == 17.0
    assert scaled_link_s(measured_s=10.0, wire_s_measured=7.0, wire_s=7.0, peak_share=1.0) == 10.0
