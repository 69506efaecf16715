"""Collectives run on the SMs that the plan's launches give them, pass by pass."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import SmShare
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.program.operators import Resource
from meshwright.costmodel.stage_cost import cost_context, recompute_of
from meshwright.executor.model.sm_shares import pass_sms, strategy_sms
from meshwright.planner.operator_order import ordered_configuration


@pytest.fixture
def shared(tiny_configuration: TrainingConfiguration) -> TrainingConfiguration:
    """Ordered on a cluster whose collectives are twice as fast on 8 SMs as on the 24 that the library takes."""
    profile = tiny_configuration.cluster.profile
    share = SmShare(num_sms=8, time_factor=0.5, compute_slowdown=1.05, communication_slowdown=1.1)
    interference = replace(profile.interference, collective_sms=24, shares=(share,))
    cluster = replace(tiny_configuration.cluster, profile=replace(profile, interference=interference))
    return ordered_configuration(replace(tiny_configuration, cluster=cluster))


def test_each_pass_has_the_figure_of_its_launches(shared: TrainingConfiguration) -> None:
    context = cost_context(shared)
    for entry in shared.orders.entries:
        found = pass_sms(
            shared, context.program(entry.part, entry.strategy), recompute_of(entry.part, entry.strategy), entry.order
        )
        for kind in (PassKind.FORWARD, PassKind.BACKWARD):
            order = entry.order.of(kind)
            assert order is not None
            inside = {one.num_sms for one in order.on_stream(Resource.NVLINK)} - {24}
            assert inside <= {found[kind]}
        assert found[PassKind.WGRAD] == 0


def test_strategies_are_listed_once_with_each_figure(shared: TrainingConfiguration) -> None:
    found = strategy_sms(shared)
    assert {num_sms for _, num_sms in found} == {8}
    assert len(set(found)) == len(found)
    assert {strategy for strategy, _ in found} <= {entry.strategy for entry in shared.orders.entries}


def test_without_orders_it_is_what_the_library_takes(shared: TrainingConfiguration) -> None:
    plain = replace(shared, orders=OrderBook())
    assert strategy_sms(plain) == ()
    entry = shared.orders.entries[1]
    program = cost_context(shared).program(entry.part, entry.strategy)
    assert set(pass_sms(plain, program, recompute_of(entry.part, entry.strategy), None).values()) == {0}
