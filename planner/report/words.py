"""The plan in words: a few paragraphs that need no knowledge of the tool."""

from __future__ import annotations

from collections import Counter

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.units import format_bandwidth
from meshwright.planner.describe.headline import model_words, seconds
from meshwright.planner.describe.layers import ZERO_WORDS
from meshwright.planner.describe.section import gib, percent
from meshwright.planner.describe.step_time import TERMS
from meshwright.planner.layer_splits import layers_mesh, other_splits, plan_strategies
from meshwright.planner.layer_words import RECOMPUTE_WORDS
from meshwright.planner.plan import Plan

SCHEDULE_WORDS = {
    ScheduleKind.GPIPE: "all forwards, then all backwards (GPipe)",
    ScheduleKind.ONE_F_ONE_B: "one forward, one backward in turn (1F1B)",
    ScheduleKind.INTERLEAVED: "one forward, one backward in turn over interleaved virtual stages",
    ScheduleKind.ZB_H1: "1F1B with weight gradients put off into the gaps (ZB-H1)",
    ScheduleKind.ZB_V: "zero bubble in a V: down the stages and back, weight gradients fill the gaps (ZB-V)",
    ScheduleKind.DUALPIPE_V: "DualPipe in a V: forwards run beside the backwards of other micro-batches",
}
GPU_LINKS = ("nvlink", "network")
NUM_TERMS = 3
SECONDS_PER_DAY = 86400.0


def plan_words(plan: Plan) -> tuple[str, ...]:
    """Paragraphs: the job, the mesh, the pipeline, memory, time, what was proven."""
    return (_job(plan), _mesh(plan), _pipeline(plan), _memory(plan), _time(plan), _proof(plan))


def headline(plan: Plan) -> str:
    """The plan in one sentence."""
    prediction, cluster = plan.prediction, plan.cluster
    return (
        f"{plan.model.name} trains on {cluster.num_gpus:,} GPUs at {prediction.tokens_per_s:,.0f} tokens/s:"
        f" {seconds(prediction.step_time_s)} a step, {percent(prediction.mfu)} of the GPUs' peak. The search proved"
        f" its choices within {plan.search.gap * 100:.2f} % of the best of {plan.search.candidates:,} candidates."
    )


def days_to_tokens(plan: Plan, num_tokens: float) -> float:
    """Days of uninterrupted training."""
    return num_tokens / plan.prediction.tokens_per_s / SECONDS_PER_DAY


def counted(number: int, one: str, many: str = "") -> str:
    """A count with its word.

    >>> counted(1, "layer"), counted(1440, "GPU")
    ('1 layer', '1,440 GPUs')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _job(plan: Plan) -> str:
    cluster, workload = plan.cluster, plan.workload
    nodes = -(-cluster.num_gpus // cluster.gpus_per_node)
    network = f" and {format_bandwidth(cluster.network_bytes_per_s)} of network" if nodes > 1 else ""
    return (
        f"{plan.model.name} has {model_words(plan)} in {counted(len(plan.model.layers), 'layer')}. It is trained on"
        f" {counted(nodes, 'node')} of {counted(cluster.gpus_per_node, 'GPU')} ({plan.cluster.name}), each GPU with"
        f" {format_bandwidth(cluster.nvlink_bytes_per_s)} of NVLink{network} in one direction. A step takes"
        f" {counted(workload.global_batch, 'sequence')} of {workload.seq_len:,} tokens in"
        f" {workload.precision.value.upper()}: {workload.global_batch * workload.seq_len:,} tokens."
    )


def _mesh(plan: Plan) -> str:
    strategies = plan_strategies(plan)
    mesh = layers_mesh(plan.mesh, strategies)
    ways = (
        (mesh.tp, "split each weight matrix (tensor parallelism)"),
        (mesh.sp, "share each sequence and exchange heads for tokens around attention (Ulysses)"),
        (mesh.cp, "share each sequence and exchange keys and values (context parallelism)"),
    )
    shares = [(degree, words) for degree, words in ways if degree > 1]
    replicas = f"{counted(mesh.dp, 'replica')} of the model {'work' if mesh.dp > 1 else 'works'} on different sequences"
    stages = f", each cut into {counted(mesh.pp, 'pipeline stage')}" if mesh.pp > 1 else ""
    holders = f"{mesh.replica_gpus} GPUs that hold {'one stage of ' if mesh.pp > 1 else ''}a replica"
    if len(shares) > 1:
        inside = f"; of the {holders}, groups of {', groups of '.join(f'{degree} {words}' for degree, words in shares)}"
    else:
        inside = "".join(f"; the {holders} {words}" for _, words in shares)
    experts = f" The experts of a layer lie on {counted(mesh.ep, 'GPU')}" if mesh.ep > 1 else ""
    if mesh.etp > 1:
        experts += f"{', each expert' if experts else ' Each expert is'} split over {mesh.etp}"
    others = "; ".join(f"{who} over {split}" for who, split in other_splits(plan.mesh, strategies).items())
    otherwise = f" Split otherwise: {others}." if others else ""
    zero = ZERO_WORDS[plan.sharding.zero]
    return f"{replicas}{stages}{inside}.{experts}{'.' if experts else ''}{otherwise} {zero[0].upper()}{zero[1:]}."


def _pipeline(plan: Plan) -> str:
    pipeline, prediction = plan.pipeline, plan.prediction
    batches = counted(pipeline.num_micro_batches, "micro-batch", "micro-batches")
    each = f"{batches} of {counted(pipeline.micro_batch_size, 'sequence')}"
    if plan.mesh.pp == 1:
        return f"There is no pipeline: a replica runs {each} a step, one after another."
    chunks = f", each with {pipeline.virtual_stages} virtual stages" if pipeline.virtual_stages > 1 else ""
    bubble = percent(prediction.breakdown_s["bubble"] / prediction.step_time_s)
    return (
        f"A replica runs {each} through its {plan.mesh.pp} stages{chunks}: {SCHEDULE_WORDS[pipeline.schedule]}."
        f" Stages wait for each other during {bubble} of the step."
    )


def _memory(plan: Plan) -> str:
    prediction = plan.prediction
    peaks = prediction.peak_memory_bytes
    stage = peaks.index(max(peaks))
    used = percent(peaks[stage] / prediction.memory_limit_bytes)
    recomputed: Counter[str] = Counter()
    for group in plan.layers:
        recomputed[RECOMPUTE_WORDS[group.strategy.recompute]] += group.num_layers
    by_layers = "; ".join(f"{words} in {counted(count, 'layer')}" for words, count in recomputed.most_common())
    offloads = any(group.strategy.offload for group in plan.layers)
    waits = " Some activations wait in host memory." if offloads else ""
    holder = f"A GPU of the fullest stage ({stage})" if plan.mesh.pp > 1 else "Each GPU"
    return (
        f"{holder} holds {gib(peaks[stage])} GiB at its peak, {used} of the"
        f" {gib(prediction.memory_limit_bytes)} GiB that a plan may fill. The backward pass recomputes:"
        f" {by_layers}.{waits}"
    )


def _time(plan: Plan) -> str:
    prediction = plan.prediction
    step_s, low_s, high_s = prediction.step_time_s, *prediction.step_time_interval_s
    largest = sorted(TERMS, key=lambda name: -prediction.breakdown_s.get(name, 0.0))[:NUM_TERMS]
    parts = ", ".join(f"{TERMS[name]} {percent(prediction.breakdown_s.get(name, 0.0) / step_s)}" for name in largest)
    hidden_s = sum(prediction.hidden_s.get(link, 0.0) for link in GPU_LINKS)
    exposed_s = sum(prediction.breakdown_s.get(f"exposed_{link}", 0.0) for link in GPU_LINKS)
    communication = (
        f" Of {(hidden_s + exposed_s) * 1e3:,.0f} ms of communication between GPUs inside the layers,"
        f" {percent(hidden_s / (hidden_s + exposed_s))} runs hidden beside computation."
        if hidden_s + exposed_s > 0
        else ""
    )
    return (
        f"A step is predicted to take {seconds(step_s)}; the measured time lies between {seconds(low_s)} and"
        f" {seconds(high_s)} with 90 % probability. The largest parts are {parts}.{communication}"
    )


def _proof(plan: Plan) -> str:
    search = plan.search
    return (
        f"{search.candidates:,} candidates were looked at. Compared with their operators in list-scheduled order, this"
        f" plan takes {seconds(search.objective_s)} and none of the searched space less than"
        f" {seconds(search.lower_bound_s)}: a gap of {search.gap * 100:.2f} %. Its own order of operators was then"
        f" improved; another one could shorten its layers by {search.order_gap * 100:.2f} % at most. How far the model"
        " itself is from measurements is what the interval says."
    )
