"""Laws of the predicted step: faster links and memory never slow it down, more work never speeds it up."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.runtime import load_runtime, runtime_names
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import SPLIT_BACKWARD, predict
from meshwright.costmodel.strategy import AxisOrder, Dispatch, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.plan_orders import plan_orders

replace = msgspec.structs.replace
CLUSTER = load_cluster("h100")
ANOMALY = 1.002
"""With its order held, a longer operator may move communication to where it slows computation less."""

SLACK = 1 + 1e-9

ATTENTION = AttentionSpec(num_heads=8, num_kv_heads=8, head_dim=128, value_head_dim=128)
DENSE = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=4096))
MOE = LayerSpec(attention=ATTENTION, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=2048))

PIPES = (
    (ScheduleKind.ONE_F_ONE_B, 1, 1),
    (ScheduleKind.ONE_F_ONE_B, 2, 1),
    (ScheduleKind.ONE_F_ONE_B, 4, 1),
    (ScheduleKind.GPIPE, 2, 1),
    (ScheduleKind.ZB_H1, 2, 1),
    (ScheduleKind.INTERLEAVED, 2, 2),
    (ScheduleKind.ZB_V, 2, 2),
    (ScheduleKind.DUALPIPE_V, 2, 2),
)
OVERLAPPING = (ScheduleKind.DUALPIPE_V,)


@st.composite
def configurations(
    draw: st.DrawFn, pipes: tuple[tuple[ScheduleKind, int, int], ...] = PIPES, *, offloads: bool = True
) -> TrainingConfiguration:
    """Four layers on 16 GPUs in nodes of 4 or 8."""
    kind, pp, virtual_stages = draw(st.sampled_from(pipes))
    tp, sp = draw(st.sampled_from(((1, 1), (2, 1), (1, 4))))
    dp = 16 // (pp * tp * sp)
    ep = draw(st.sampled_from([degree for degree in (1, 2, 4, 8) if (dp * tp * sp) % degree == 0]))
    layers = tuple(draw(st.lists(st.sampled_from((DENSE, MOE)), min_size=4, max_size=4)))
    strategies = tuple(
        LayerStrategy(
            tp=tp,
            sp=sp,
            ffn_tp=tp,
            ep=ep if layer.is_moe else 1,
            dispatch=draw(st.sampled_from(Dispatch)),
            recompute=draw(st.sampled_from(Recompute)),
            offload=offloads and draw(st.booleans()),
        )
        for layer in layers
    )
    share = 4 // (pp * virtual_stages)
    order = draw(st.sampled_from(AxisOrder)) if ep <= tp * sp else AxisOrder.PP_OUTERMOST
    micro_batch = draw(st.sampled_from((1, 2)))
    rounds = draw(st.sampled_from((2 * pp, 3 * pp)))
    return TrainingConfiguration(
        model=ModelSpec(name="made-up", hidden=1024, vocab=8192, layers=layers),
        cluster=replace(CLUSTER, num_gpus=16, gpus_per_node=draw(st.sampled_from((4, 8)))),
        workload=Workload(global_batch=dp * micro_batch * rounds, seq_len=draw(st.sampled_from((1024, 4096)))),
        runtime=load_runtime(draw(st.sampled_from(runtime_names()))),
        mesh=Mesh(pp=pp, dp=dp, tp=tp, sp=sp, ep=ep, order=order),
        sharding=Sharding(zero=draw(st.sampled_from(ZeroStage)), offload_optimizer=draw(st.booleans())),
        pipeline=Pipeline(schedule=kind, virtual_stages=virtual_stages, micro_batch=micro_batch),
        stages=tuple(strategies[stage * share : (stage + 1) * share] for stage in range(pp * virtual_stages)),
    )


PLAIN_PIPES = tuple(pipe for pipe in PIPES if pipe[0] not in OVERLAPPING)
without_overlapped_passes = configurations(PLAIN_PIPES)
# Offload takes the network's traffic on PCIe to be at full rate while a collective runs: too much where latency rules.
without_offload = configurations(PLAIN_PIPES, offloads=False)
factors = st.floats(1.0, 8.0)


def _on(configuration: TrainingConfiguration, cluster: ClusterSpec) -> float:
    return predict(replace(configuration, cluster=cluster)).step_time_s


def _with_gpu(cluster: ClusterSpec, **factors: float) -> ClusterSpec:
    gpu = replace(cluster.gpu, **{name: getattr(cluster.gpu, name) * factor for name, factor in factors.items()})
    return replace(cluster, profile=replace(cluster.profile, gpu=gpu))


@settings(max_examples=40)
@given(configuration=without_offload, factor=factors)
def test_a_faster_network_is_never_slower(configuration: TrainingConfiguration, factor: float) -> None:
    cluster = configuration.cluster
    faster = replace(cluster, network_bytes_per_s=cluster.network_bytes_per_s * factor)
    assert _on(configuration, faster) <= _on(configuration, cluster) * SLACK


@settings(max_examples=25)
@given(configuration=without_offload, factor=factors)
def test_less_oversubscription_and_latency_are_never_slower(
    configuration: TrainingConfiguration, factor: float
) -> None:
    cluster = configuration.cluster
    worse = replace(cluster, oversubscription=factor, network_latency_s=cluster.network_latency_s * factor)
    assert _on(configuration, cluster) <= _on(configuration, worse) * SLACK


@settings(max_examples=40)
@given(configuration=without_overlapped_passes, factor=factors)
def test_faster_nvlink_is_never_slower(configuration: TrainingConfiguration, factor: float) -> None:
    cluster = configuration.cluster
    faster = _with_gpu(cluster, nvlink_bytes_per_s=factor)
    assert _on(configuration, faster) <= _on(configuration, cluster) * SLACK


@settings(max_examples=40)
@given(configuration=without_overlapped_passes, factor=factors)
def test_faster_memory_is_never_slower(configuration: TrainingConfiguration, factor: float) -> None:
    cluster = configuration.cluster
    faster = _with_gpu(cluster, memory_bytes_per_s=factor, copy_bytes_per_s=factor)
    assert _on(configuration, faster) <= _on(configuration, cluster) * SLACK


@settings(max_examples=40)
@given(configuration=configurations())
def test_no_step_is_shorter_than_its_work(configuration: TrainingConfiguration) -> None:
    """Every device works through its micro-batches and its optimizer, less what passes save that run together."""
    costs, prediction = stage_costs(configuration), predict(configuration)
    split = configuration.pipeline.schedule in SPLIT_BACKWARD
    passes_s = sum(
        cost.forward.total_s + (cost.dgrad.total_s + cost.wgrad.total_s if split else cost.backward.total_s)
        for cost in costs
    )
    if configuration.pipeline.schedule in OVERLAPPING:
        passes_s -= sum(cost.overlap_saving_s for cost in costs)
    work_s = configuration.num_micro_batches * passes_s + sum(cost.optimizer_s for cost in costs)
    assert prediction.step_time_s >= work_s / configuration.mesh.pp / SLACK


@settings(max_examples=40)
@given(configuration=configurations())
def test_the_breakdown_sums_to_the_step_and_nothing_in_it_is_negative(configuration: TrainingConfiguration) -> None:
    prediction = predict(configuration)
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s, rel=1e-12)
    assert min(prediction.breakdown_s.values()) >= -1e-9 * prediction.step_time_s
    assert min(prediction.hidden_s.values()) >= 0.0


@settings(max_examples=40)
@given(configuration=configurations())
def test_a_prediction_does_not_depend_on_what_was_predicted_before(configuration: TrainingConfiguration) -> None:
    first = predict(configuration)
    predict(replace(configuration, workload=replace(configuration.workload, expert_imbalance=1.5)))
    assert predict(configuration) == first


@settings(max_examples=30)
@given(configuration=without_overlapped_passes)
def test_more_micro_batches_take_longer_but_train_no_fewer_tokens_a_second(
    configuration: TrainingConfiguration,
) -> None:
    workload = configuration.workload
    double = replace(configuration, workload=replace(workload, global_batch=2 * workload.global_batch))
    once, twice = predict(configuration), predict(double)
    assert twice.step_time_s > once.step_time_s
    assert twice.tokens_per_s >= once.tokens_per_s / SLACK
    for few, many in zip(once.memory, twice.memory, strict=True):
        assert many.activations >= few.activations


@settings(max_examples=30)
@given(configuration=configurations(), imbalance=st.floats(1.0, 3.0))
def test_uneven_experts_are_never_faster_nor_smaller(configuration: TrainingConfiguration, imbalance: float) -> None:
    if configuration.pipeline.schedule in OVERLAPPING:
        return
    held = replace(configuration, orders=plan_orders(configuration))
    uneven = predict(replace(held, workload=replace(held.workload, expert_imbalance=imbalance)))
    even = predict(held)
    assert uneven.step_time_s >= even.step_time_s / ANOMALY
    assert max(uneven.peak_memory_bytes) >= max(even.peak_memory_bytes) / SLACK
