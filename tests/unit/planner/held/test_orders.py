from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.step import predict
from meshwright.planner.held.orders import held_orders, num_solved_anew
from meshwright.planner.operator_order import order_gap
from meshwright.planner.plan import Plan
from meshwright.planner.what_if import baseline_of, changed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cluster.network_bytes_per_s", "2x"),
        ("workload.seq_len", "4096"),
        ("model.top_k", "4"),
        ("model.hidden", "2048"),
        ("pipeline.micro_batch_size", "2"),
        ("mesh.pp", "1"),
    ],
)
def test_orders_stay_where_operators_stay(tiny_plan: Plan, key: str, value: str) -> None:
    baseline = baseline_of(tiny_plan)
    after = changed(baseline, {key: value}).configuration
    assert num_solved_anew(baseline.configuration.orders, after.orders) == 0
    assert {entry.order for entry in after.orders.entries} == {
        entry.order for entry in baseline.configuration.orders.entries
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [("layers.dispatch", "allgather"), ("mesh.ep", "2"), ("runtime.overlap_expert", "inter-operator")],
)
def test_another_strategy_or_overlap_is_solved_anew(tiny_plan: Plan, key: str, value: str) -> None:
    baseline = baseline_of(tiny_plan)
    after = changed(baseline, {key: value}).configuration
    assert num_solved_anew(baseline.configuration.orders, after.orders) > 0
    assert order_gap(after) < 0.1
    fixed_by_nobody = predict(replace(after, orders=OrderBook()))
    assert predict(after).step_time_s <= fixed_by_nobody.step_time_s * (1 + 1e-9)


def test_another_schedule_brings_the_passes_it_runs(tiny_plan: Plan) -> None:
    values = {"pipeline.schedule": "zb-v", "pipeline.virtual_stages": "2"}
    after = changed(baseline_of(tiny_plan), values).configuration
    assert all(entry.order.dgrad is not None for entry in after.orders.entries)


def test_a_configuration_without_orders_gets_none(tiny_plan: Plan) -> None:
    configuration = replace(baseline_of(tiny_plan).configuration, orders=OrderBook())
    assert held_orders(configuration, configuration.runtime.overlap) == OrderBook()
