"""MegaScale-MoE's ablation on 240 H800, as this cost model has it.

    .venv/bin/python benchmarks/paper_ablation.py

Ablation (arXiv 2505.11432): 352B, 720 sequences a step, PP 15 x DP 2 x 8; throughput over the system's own TP+TP
without overlap. Then what each thing that the paper does not tell, or that we know badly, would change. Prints tables,
and writes the figures with their date beside this file. About half a minute. docs/paper.md says what they mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.order.order_book import OrderBook, OrderEntry
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute, ZeroStage
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.dated_record import origin_of, write_record
from meshwright.planner.operator_order import ordered_configuration
from meshwright.planner.operator_order.hand_order import hand_pass_order

RESULT = Path(__file__).with_suffix(".json")
NONE, INTER, FUSED = OverlapLevel.NONE, OverlapLevel.INTER_OPERATOR, OverlapLevel.FUSED
LEVELS = {"SP+EP": NONE, "+ inter-operator": INTER, "+ intra-operator": FUSED}
PAPER = {"SP+EP": 1.13, "+ inter-operator": 1.22, "+ intra-operator": 1.28}
WITHIN = 0.05
LAYER_WAIT_S = 2.5e-3
"""Wait for the counts of routing, once a layer however many experts a GPU has.

The paper's grouped kernels are one launch; `megascale-moe` has it for the four experts a GPU of its SP+EP.
"""
LAYERS, PP, DP, GLOBAL_BATCH, SEQ_LEN = 60, 15, 2, 720, 8192
TP_TP = LayerStrategy(tp=8, ffn_tp=8, etp=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.SELECTIVE)
SP_EP = LayerStrategy(sp=8, ep=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.SELECTIVE)
ROWS = msgspec.structs.replace(SP_EP, dispatch=Dispatch.ALL_TO_ALL)
replace = msgspec.structs.replace


class Setting(NamedTuple):
    """What the ablation rests on; each field is something that the paper does not tell, or a figure of ours."""

    model: str = "internal-352b"
    base: LayerStrategy = TP_TP
    best: LayerStrategy = SP_EP
    virtual_stages: int = 4
    cluster: ClusterSpec = load_cluster("h800")
    runtime: tuple[tuple[str, float], ...] = ()
    fused_share: float = 0.8
    layer_wait_s: float = LAYER_WAIT_S


def overlap(level: OverlapLevel, fused_share: float = 0.8) -> LayerOverlap:
    """The same level for every axis inside a layer."""
    return LayerOverlap(tensor=level, sequence=level, context=level, expert=level, fused_share=fused_share)


def configuration(setting: Setting, strategy: LayerStrategy, level: OverlapLevel) -> TrainingConfiguration:
    """The 352B on 240 GPUs, every layer alike."""
    virtual, mesh = setting.virtual_stages, _mesh(strategy)
    stage = (strategy,) * (LAYERS // (PP * virtual))
    model = load_model(setting.model)
    runtime = replace(
        load_runtime("megascale-moe"),
        routing_wait_s=setting.layer_wait_s / experts_of_a_gpu(model, strategy),
        **dict(setting.runtime),
    )
    return TrainingConfiguration(
        model=model,
        cluster=setting.cluster.with_gpus(PP * DP * 8),
        workload=Workload(global_batch=GLOBAL_BATCH, seq_len=SEQ_LEN),
        runtime=replace(runtime, overlap=overlap(level, setting.fused_share)),
        mesh=replace(mesh, pp=PP, dp=DP),
        sharding=Sharding(zero=ZeroStage.OPTIMIZER),
        pipeline=Pipeline(
            schedule=ScheduleKind.INTERLEAVED if virtual > 1 else ScheduleKind.ONE_F_ONE_B, virtual_stages=virtual
        ),
        stages=(stage,) * (PP * virtual),
    )


def experts_of_a_gpu(model: ModelSpec, strategy: LayerStrategy) -> int:
    """Routed experts that a GPU holds, whole or sliced."""
    ffn = model.layers[-1].ffn
    assert isinstance(ffn, MoeFfnSpec)  # the paper's models are
    return ffn.num_experts // strategy.ep


def _mesh(strategy: LayerStrategy) -> Mesh:
    return Mesh(tp=strategy.tp, sp=strategy.sp, ep=strategy.ep, etp=strategy.etp)


def by_hand(config: TrainingConfiguration, level: OverlapLevel) -> TrainingConfiguration:
    """The configuration with its layers in the order written by hand."""
    layer, strategy = config.model.layers[0], config.stages[0][0]
    passes = cost_context(config).ordered(layer, strategy)
    order = LayerOrder(
        **{
            kind.value: hand_pass_order(passes[kind].problem, fused=level is FUSED)
            for kind in (PassKind.FORWARD, PassKind.BACKWARD)
        }
    )
    return replace(config, orders=OrderBook(entries=(OrderEntry(part=layer, strategy=strategy, order=order),)))


def solved_s(config: TrainingConfiguration) -> float:
    """Seconds of a step with solved orders."""
    return predict(ordered_configuration(config)).step_time_s


def ratios(setting: Setting, dispatch: tuple[Dispatch, ...] = ()) -> dict[str, float]:
    """Throughput over TP+TP without overlap, orders solved; of several ways of dispatch the best at each level."""
    base_s = predict(configuration(setting, setting.base, NONE)).step_time_s
    ways = [replace(setting.best, dispatch=way) for way in dispatch or (setting.best.dispatch,)]
    return {
        name: base_s / min(solved_s(configuration(setting, way, level)) for way in ways)
        for name, level in LEVELS.items()
    }


def hand_ratios(setting: Setting) -> dict[str, float]:
    """The same with the order written by hand: one without fused kernels, one with all of them."""
    base_s = predict(configuration(setting, setting.base, NONE)).step_time_s
    times_s = {}
    for name, level in LEVELS.items():
        config = configuration(setting, setting.best, level)
        times_s[name] = predict(config if level is NONE else by_hand(config, level)).step_time_s
    return {name: base_s / time_s for name, time_s in times_s.items()}


def with_one_reduction(setting: Setting, dispatch: tuple[Dispatch, ...] = ()) -> dict[str, float]:
    """As `ratios`, if TP+TP summed shared and routed experts before one reduce-scatter, and gathered gradients once.

    Nothing overlaps in the base, so its step shrinks by the seconds of the collectives that it would save, in each of
    (m + (p - 1) / v) layers' slots of a device.
    """
    config = configuration(setting, setting.base, NONE)
    context, layer = cost_context(config), config.model.layers[0]
    program = context.program(layer, setting.base)
    spared = ("reduce_scatter.shared_out", "all_gather.grad_shared_out", "reduce_scatter.shared_grad_ln2_out")
    operators = tuple(op for op in (*program.forward, *program.backward) if op.name in spared)
    assert len(operators) == len(spared)
    spared_s = sum(problem_of(operators, config.cluster, config.runtime).time_s)
    slots = LAYERS // PP * (config.num_micro_batches + (PP - 1) / setting.virtual_stages)
    base_s = predict(config).step_time_s
    return {name: ratio * (1.0 - slots * spared_s / base_s) for name, ratio in ratios(setting, dispatch).items()}


def _interference(compute_loss: float, stretch: float) -> ClusterSpec:
    cluster = load_cluster("h800")
    beside = replace(
        cluster.profile.interference, compute_slowdown=1.0 / (1.0 - compute_loss), communication_slowdown=stretch
    )
    return replace(cluster, profile=replace(cluster.profile, interference=beside))


def _nvlink(bytes_per_s: float) -> ClusterSpec:
    cluster = load_cluster("h800")
    gpu = replace(cluster.profile.gpu, nvlink_bytes_per_s=bytes_per_s)
    return replace(cluster, profile=replace(cluster.profile, gpu=gpu))


def sensitivities() -> Iterator[tuple[str, dict[str, float]]]:
    """One thing changed at a time, everything else as in the ablation by all-gather and reduce-scatter."""
    split = replace(SP_EP, ffn_tp=8)
    default = Setting()
    loss = 1.0 - 1.0 / default.cluster.profile.interference.compute_slowdown
    settings = {
        "as above, AG/RS": default,
        "dispatch: all-to-all": Setting(best=ROWS),
        "shared expert split over TP in SP+EP too": Setting(best=split),
        "no shared expert (table 2 as printed)": Setting(model="internal-352b-no-shared"),
        "TP+TP dispatches rows, then gathers": Setting(base=replace(TP_TP, dispatch=Dispatch.ALL_TO_ALL)),
        "1 virtual stage": Setting(virtual_stages=1),
        "2 virtual stages": Setting(virtual_stages=2),
        "nothing recomputed": Setting(
            base=replace(TP_TP, recompute=Recompute.NONE), best=replace(SP_EP, recompute=Recompute.NONE)
        ),
        "experts evenly loaded": Setting(runtime=(("expert_load_deviation", 0.0),)),
        "no wait for routing": Setting(layer_wait_s=0.0),
        "NVLink reaches 10 % less": Setting(cluster=_nvlink(180e9)),
        "NVLink reaches 10 % more": Setting(cluster=_nvlink(220e9)),
        f"interference: loss {loss:.2f}, stretch 1": Setting(cluster=_interference(loss, 1.0)),
        "interference: loss 0.54, stretch 1": Setting(cluster=_interference(0.54, 1.0)),
        "no interference": Setting(cluster=_interference(0.0, 1.0)),
        "fused kernels hide at most 0.6": Setting(fused_share=0.6),
        "fused kernels hide up to all": Setting(fused_share=1.0),
    }
    for name, setting in settings.items():
        yield name, ratios(setting)
    yield "TP+TP reduces shared and routed as one", with_one_reduction(default)


def readings() -> dict[str, dict[str, float]]:
    """The ablation: the dispatch of the fused kernels throughout, and the faster dispatch at each level."""
    default = Setting()
    return {
        "AG/RS, hand order": hand_ratios(default),
        "AG/RS, solved": ratios(default),
        "best dispatch, solved": ratios(default, tuple(Dispatch)),
    }


WAYS = {"AG/RS": (Dispatch.ALL_GATHER,), "all-to-all": (Dispatch.ALL_TO_ALL,), "faster": tuple(Dispatch)}
SHARED = {
    "whole in SP+EP": Setting(),
    "split in SP+EP": Setting(best=replace(SP_EP, ffn_tp=8)),
    "none": Setting(model="internal-352b-no-shared"),
}


def grid() -> Iterator[tuple[str, dict[str, float]]]:
    """Every combination of what the paper leaves open: dispatch, the shared expert, what TP+TP reduces as one."""
    for way, dispatch in WAYS.items():
        for shared, setting in SHARED.items():
            yield f"{way}, shared expert {shared}", ratios(setting, dispatch)
            if shared != "none":
                yield f"{way}, {shared}, TP+TP reduces as one", with_one_reduction(setting, dispatch)


def meets(found: dict[str, float]) -> bool:
    """Whether all three ratios are within 0.05 of the paper's."""
    return all(abs(found[level] - paper) <= WITHIN for level, paper in PAPER.items())


def _line(name: str, found: dict[str, float]) -> str:
    cells = (
        f"{found[level]:8.3f} {'ok' if abs(found[level] - paper) <= WITHIN else f'{found[level] - paper:+.3f}':>6s}"
        for level, paper in PAPER.items()
    )
    return f"{name:44s}" + "   ".join(cells)


def main() -> None:
    """Print the tables and write the record."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(f"{'throughput over TP+TP without overlap':44s}" + "   ".join(f"{name:>15s}" for name in LEVELS))
    print(f"{'paper':44s}" + "   ".join(f"{ratio:8.2f}       " for ratio in PAPER.values()))
    found = readings()
    for name, one in found.items():
        print(_line(name, one), flush=True)
    steps = {
        name: predict(configuration(Setting(), strategy, NONE))
        for name, strategy in (("TP+TP", TP_TP), ("SP+EP", SP_EP))
    }
    for name, step in steps.items():
        print(f"{name} without overlap: {step.step_time_s:.2f} s a step, {'fits' if step.fits else 'does not fit'}")
    changed = dict(sensitivities())
    for name, one in changed.items():
        print(_line(name, one), flush=True)
    combined = dict(grid())
    for name, one in combined.items():
        print(_line(name, one), flush=True)
    print(f"{sum(map(meets, combined.values()))} of {len(combined)} combinations are within {WITHIN} at all levels")
    record = origin_of(__file__).head | {
        "paper": PAPER,
        "readings": found,
        "step_without_overlap_s": {name: step.step_time_s for name, step in steps.items()},
        "sensitivities": changed,
        "combinations": combined,
    }
    write_record(record, RESULT)


if __name__ == "__main__":
    main()
