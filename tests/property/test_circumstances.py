"""Laws of circumstances: what is worse is never faster, what is nothing changes nothing."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.circumstances import Circumstances, LinkPlace, SlowGpu, SlowLink
from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.expert_load import ExpertPlacement, HistogramLoad, ZipfLoad, routed_rows
from meshwright.costmodel.formulas.expert_load import chosen_shares
from meshwright.costmodel.formulas.goodput import daly_interval_s, effective_fraction
from meshwright.costmodel.model import AttentionSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import StepPrediction, predict
from meshwright.costmodel.strategy import AxisOrder, Dispatch, LayerStrategy, Mesh, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster

replace = msgspec.structs.replace
CLUSTER = load_cluster("h100")
SLACK = 1 + 1e-9
ROWS_SLACK = 1 + 2e-3
"""Measured products are not quite monotone in their rows: one tile more may reach a little more of the peak."""
MOE = MoeFfnSpec(num_experts=16, top_k=2, intermediate=2048)
LAYER = LayerSpec(attention=AttentionSpec(num_heads=8, num_kv_heads=8, head_dim=128, value_head_dim=128), ffn=MOE)
PIPES = ((ScheduleKind.ONE_F_ONE_B, 2, 1), (ScheduleKind.ONE_F_ONE_B, 4, 1), (ScheduleKind.INTERLEAVED, 2, 2))


@st.composite
def configurations(draw: st.DrawFn) -> TrainingConfiguration:
    """Four MoE layers on 16 GPUs in nodes of 2 or 8.

    Long sequences: below some 400 rows an expert, grouped products are bound by weights, and measured efficiencies
    are ragged there.
    """
    kind, pp, virtual_stages = draw(st.sampled_from(PIPES))
    sp = draw(st.sampled_from((1, 2)))
    dp = 16 // (pp * sp)
    ep = draw(st.sampled_from([degree for degree in (1, 2, 4) if degree <= dp * sp]))
    order = draw(st.sampled_from(AxisOrder)) if ep <= sp else AxisOrder.PP_OUTERMOST
    strategy = LayerStrategy(sp=sp, ep=ep, dispatch=draw(st.sampled_from(Dispatch)))
    share = 4 // (pp * virtual_stages)
    return TrainingConfiguration(
        model=ModelSpec(name="made-up", hidden=1024, vocab=8192, layers=(LAYER,) * 4),
        cluster=replace(CLUSTER, num_gpus=16, gpus_per_node=draw(st.sampled_from((2, 8)))),
        workload=Workload(global_batch=2 * dp * pp, seq_len=16384),
        runtime=load_runtime(draw(st.sampled_from(("meshwright", "megatron")))),
        mesh=Mesh(pp=pp, dp=dp, sp=sp, ep=ep, order=order),
        sharding=Sharding(zero=draw(st.sampled_from(ZeroStage))),
        pipeline=Pipeline(schedule=kind, virtual_stages=virtual_stages),
        stages=((strategy,) * share,) * (pp * virtual_stages),
    )


def _under(configuration: TrainingConfiguration, **circumstances: object) -> StepPrediction:
    return predict(replace(configuration, circumstances=Circumstances(**circumstances)))  # type: ignore[arg-type]


def _routed(configuration: TrainingConfiguration, **fields: object) -> StepPrediction:
    return predict(replace(configuration, workload=replace(configuration.workload, **fields)))


@settings(max_examples=30)
@given(configuration=configurations(), factors=st.tuples(st.floats(1.0, 3.0), st.floats(1.0, 3.0)))
def test_a_slower_gpu_is_never_faster(configuration: TrainingConfiguration, factors: tuple[float, float]) -> None:
    low, high = sorted(factors)
    nominal = predict(configuration)
    slow, slower = (_under(configuration, slow_gpu=SlowGpu(time_factor=factor)) for factor in (low, high))
    assert nominal.step_time_s <= slow.step_time_s * SLACK
    assert slow.step_time_s <= slower.step_time_s * SLACK
    assert slower.step_time_s <= high * nominal.step_time_s * SLACK
    assert slower.memory == nominal.memory
    assert sum(slower.breakdown_s.values()) == pytest.approx(slower.step_time_s, rel=1e-9)


@settings(max_examples=30)
@given(
    configuration=configurations(),
    fractions=st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)),
    place=st.sampled_from(LinkPlace),
)
def test_a_slower_link_is_never_faster(
    configuration: TrainingConfiguration, fractions: tuple[float, float], place: LinkPlace
) -> None:
    low, high = sorted(fractions)
    links = [SlowLink(bandwidth_fraction=fraction, place=place) for fraction in (1.0, high, low)]
    times = [_under(configuration, slow_link=link).step_time_s for link in links]
    assert times[0] == predict(configuration).step_time_s
    assert times[0] <= times[1] * SLACK
    assert times[1] <= times[2] * SLACK


@settings(max_examples=30)
@given(
    configuration=configurations(),
    exponents=st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 2.0)),
)
def test_a_steeper_load_is_never_faster_nor_smaller(
    configuration: TrainingConfiguration, exponents: tuple[float, float]
) -> None:
    predictions = [
        predict(configuration),
        *(_routed(configuration, expert_load=ZipfLoad(exponent=exponent)) for exponent in sorted(exponents)),
    ]
    for milder, steeper in pairwise(predictions):
        assert milder.step_time_s <= steeper.step_time_s * ROWS_SLACK
        assert max(milder.peak_memory_bytes) <= max(steeper.peak_memory_bytes) * SLACK
        assert milder.flops_per_token == steeper.flops_per_token
        assert steeper.mfu <= milder.mfu * ROWS_SLACK


@settings(max_examples=30)
@given(configuration=configurations(), factors=st.tuples(st.floats(0.5, 10.0), st.floats(0.5, 10.0)))
def test_more_capacity_is_never_faster_nor_smaller(
    configuration: TrainingConfiguration, factors: tuple[float, float]
) -> None:
    less, more = (_routed(configuration, capacity_factor=factor) for factor in sorted(factors))
    assert less.step_time_s <= more.step_time_s * ROWS_SLACK
    assert max(less.peak_memory_bytes) <= max(more.peak_memory_bytes) * SLACK


@settings(max_examples=30)
@given(configuration=configurations())
def test_a_balanced_load_is_none_to_the_last_digit(configuration: TrainingConfiguration) -> None:
    nominal = predict(configuration)
    even = HistogramLoad(shares=(1 / 16,) * 16, source="even.csv")
    for load in (ZipfLoad(exponent=0.0), even, replace(even, placement=ExpertPlacement.PACKED)):
        assert _routed(configuration, expert_load=load) == nominal
    assert _under(configuration, seed=7, tokens=1e12) == nominal


weights = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=24)


@settings(max_examples=50)
@given(weights=weights, data=st.data())
def test_shares_sum_to_one_and_follow_preferences(weights: list[float], data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, len(weights)))
    preferences = tuple(weight / sum(weights) for weight in weights)
    shares = chosen_shares(preferences, top_k)
    assert sum(shares) == pytest.approx(1.0, abs=1e-9)
    assert max(shares) <= (1 + 1e-9) / top_k
    ranked = sorted(zip(preferences, shares, strict=True))
    assert all(low[1] <= high[1] + 1e-12 for low, high in pairwise(ranked))


@settings(max_examples=50)
@given(exponent=st.floats(0.0, 3.0), factor=st.floats(0.1, 10.0), deviation=st.floats(0.0, 0.5))
def test_rows_are_trained_dropped_or_filled_up(exponent: float, factor: float, deviation: float) -> None:
    rows = routed_rows(MOE, ZipfLoad(exponent=exponent), factor, deviation)
    capacity = min(factor, 8.0)
    assert max(0.0, 1.0 - capacity) - 1e-9 <= rows.dropped_fraction < 1.0
    trained, computed = 1.0 - rows.dropped_fraction, capacity
    assert computed * (1.0 - rows.filled_fraction) == pytest.approx(trained, abs=1e-9)


@settings(max_examples=100)
@given(
    write_s=st.floats(0.01, 3000.0),
    downtime_s=st.floats(0.0, 7200.0),
    mean_s=st.floats(600.0, 1e6),
    interval_s=st.floats(1.0, 1e6),
)
def test_no_interval_beats_dalys_by_much(write_s: float, downtime_s: float, mean_s: float, interval_s: float) -> None:
    best = effective_fraction(daly_interval_s(write_s, mean_s), write_s, downtime_s, mean_s)
    other = effective_fraction(interval_s, write_s, downtime_s, mean_s)
    assert 0.0 <= other <= best * 1.02
    assert best < 1.0
