from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.hardware import SmShare
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.order.order_book import ModelEnd, OrderBook
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.program.operators import Axis, Resource
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import cost_context, recompute_of
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.planner.operator_order import layer_order, order_gap, ordered_configuration, parts_of


def _of_schedule(configuration: TrainingConfiguration, kind: ScheduleKind) -> TrainingConfiguration:
    """The tiny model with two layers of one strategy a device."""
    virtual_stages = 2 if kind in (ScheduleKind.ZB_V, ScheduleKind.DUALPIPE_V) else 1
    strategy = LayerStrategy(sp=2, ep=4)
    return replace(
        configuration,
        mesh=Mesh(pp=2, dp=2, sp=2, ep=4),
        pipeline=Pipeline(schedule=kind, virtual_stages=virtual_stages),
        stages=((strategy,) * (2 // virtual_stages),) * (2 * virtual_stages),
    )


def test_parts_are_the_kinds_of_layers_between_the_ends(tiny_configuration: TrainingConfiguration) -> None:
    layer = tiny_configuration.model.layers[0]
    keep, recompute = tiny_configuration.stages[1]
    parts = parts_of(tiny_configuration)
    assert [part for part, _ in parts] == [ModelEnd.EMBEDDING, layer, layer, ModelEnd.HEAD]
    assert [strategy for _, strategy in parts[1:3]] == [keep, recompute]


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (ScheduleKind.ONE_F_ONE_B, {PassKind.FORWARD, PassKind.BACKWARD}),
        (ScheduleKind.ZB_V, {PassKind.FORWARD, PassKind.DGRAD, PassKind.WGRAD}),
        (ScheduleKind.DUALPIPE_V, {PassKind.FORWARD, PassKind.DGRAD, PassKind.WGRAD, PassKind.JOINT}),
    ],
)
def test_every_pass_gets_an_order_that_is_no_slower_and_fits(
    tiny_configuration: TrainingConfiguration, kind: ScheduleKind, stored: set[PassKind]
) -> None:
    plain = _of_schedule(tiny_configuration, kind)
    ordered = ordered_configuration(plain)
    assert replace(ordered, orders=OrderBook()) == plain
    found, listed = cost_context(ordered), cost_context(plain)
    for part, strategy in parts_of(plain):
        order = ordered.orders.find(part, strategy)
        assert order is not None
        expected = stored - {PassKind.JOINT} if isinstance(part, ModelEnd) else stored
        assert {one for one in PassKind if order.of(one) is not None} == expected
        program, policy = found.program(part, strategy), recompute_of(part, strategy)
        after, before = found.ordered(part, strategy), listed.ordered(part, strategy)
        for one in expected:
            assert after[one].total_s <= before[one].total_s
            assert order_memory(program, policy, one).fits(after[one].indices())
    prediction = predict(ordered)
    assert prediction.step_time_s <= predict(plain).step_time_s * (1 + 1e-9)
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s, rel=1e-12)


def test_the_gap_is_the_share_of_time_that_is_not_proven(tiny_configuration: TrainingConfiguration) -> None:
    """Weighed by the time of each pass; nothing is said of orders that nobody stored."""
    assert order_gap(tiny_configuration) == 0.0
    ordered = ordered_configuration(tiny_configuration)
    context = cost_context(ordered)

    def with_gaps(forward: float, backward: float) -> TrainingConfiguration:
        entries = []
        for entry in ordered.orders.entries:
            assert entry.order.forward is not None
            assert entry.order.backward is not None
            passes = {
                "forward": replace(entry.order.forward, gap=forward),
                "backward": replace(entry.order.backward, gap=backward),
            }
            entries.append(replace(entry, order=LayerOrder(**passes)))
        return replace(ordered, orders=OrderBook(entries=tuple(entries)))

    assert order_gap(with_gaps(0.0, 0.0)) == 0.0
    assert order_gap(with_gaps(0.1, 0.1)) == pytest.approx(0.1)
    seconds = {PassKind.FORWARD: 0.0, PassKind.BACKWARD: 0.0}
    for stage in ordered.stages:
        for strategy in stage:
            for kind, one in context.ordered(ordered.model.layers[0], strategy).items():
                if kind in seconds:
                    seconds[kind] += one.total_s
    share = seconds[PassKind.FORWARD] / sum(seconds.values())
    assert order_gap(with_gaps(0.2, 0.0)) == pytest.approx(0.2 * share)


def _with_share(configuration: TrainingConfiguration, time_factor: float) -> TrainingConfiguration:
    """On a cluster whose collectives may take 8 SMs instead of 24."""
    plain = _of_schedule(configuration, ScheduleKind.ONE_F_ONE_B)
    profile = plain.cluster.profile
    share = SmShare(num_sms=8, time_factor=time_factor, compute_slowdown=1.05, communication_slowdown=1.1)
    interference = replace(profile.interference, collective_sms=24, shares=(share,))
    return replace(plain, cluster=replace(plain.cluster, profile=replace(profile, interference=interference)))


@pytest.mark.parametrize(("time_factor", "taken"), [(0.5, 8), (2.0, 24)])
def test_collectives_take_the_share_of_the_sms_that_is_faster(
    tiny_configuration: TrainingConfiguration, time_factor: float, taken: int
) -> None:
    plain = _with_share(tiny_configuration, time_factor)
    ordered = ordered_configuration(plain)
    part, strategy = parts_of(plain)[1]
    order = ordered.orders.find(part, strategy)
    assert order is not None
    assert order.forward is not None
    assert {launch.num_sms for launch in order.forward.on_stream(Resource.NVLINK)} == {taken}
    after = cost_context(ordered).ordered(part, strategy)[PassKind.FORWARD]
    before = cost_context(plain).ordered(part, strategy)[PassKind.FORWARD]
    assert (after.total_s < 0.999 * before.total_s) == (taken == 8)
    assert after.order().launches == order.forward.launches


def test_a_share_is_replayed_where_other_collectives_block(tiny_configuration: TrainingConfiguration) -> None:
    """What blocks has no stream of its own and no SMs in the order: that must not hide which share was solved."""
    plain = _with_share(tiny_configuration, 0.5)
    overlap = replace(plain.runtime.overlap, sequence=OverlapLevel.NONE)
    ordered = ordered_configuration(replace(plain, runtime=replace(plain.runtime, overlap=overlap)))
    part, strategy = parts_of(plain)[1]
    order = ordered.orders.find(part, strategy)
    assert order is not None
    assert order.forward is not None
    assert {launch.num_sms for launch in order.forward.launches if launch.operators[0] == "dispatch"} == {8}
    after = cost_context(ordered).ordered(part, strategy)[PassKind.FORWARD]
    assert any(op.resource is Resource.NVLINK for op in after.problem.operators if op.axis is Axis.SEQUENCE)
    assert after.order().launches == order.forward.launches


def test_copy_engines_take_no_share_of_the_sms(tiny_configuration: TrainingConfiguration) -> None:
    """An order that was solved for a share says when its operators run, not that SMs move what copy engines do."""
    ordered = ordered_configuration(_with_share(tiny_configuration, 0.5))
    engines = replace(ordered, runtime=replace(ordered.runtime, copy_engine_overlap=True))
    part, strategy = parts_of(engines)[1]
    found = cost_context(engines).ordered(part, strategy)[PassKind.FORWARD]
    listed = cost_context(replace(engines, orders=OrderBook())).ordered(part, strategy)[PassKind.FORWARD]
    assert found.problem.time_s == listed.problem.time_s
    assert found.problem.loss == listed.problem.loss


def test_an_order_is_solved_whatever_orders_there_are(tiny_configuration: TrainingConfiguration) -> None:
    """Those there are take a share that is slow by now."""
    slow = _with_share(tiny_configuration, 2.0)
    ordered = replace(ordered_configuration(_with_share(tiny_configuration, 0.5)), cluster=slow.cluster)
    part, strategy = parts_of(slow)[1]
    assert layer_order(cost_context(ordered), part, strategy) == layer_order(cost_context(slow), part, strategy)
