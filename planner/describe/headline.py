"""What is trained on what, and how fast."""

from __future__ import annotations

from meshwright.costmodel.formulas.flops import mtp_flops_per_token
from meshwright.costmodel.formulas.parameters import mtp_active_parameters, mtp_parameters
from meshwright.planner.describe.section import Section
from meshwright.planner.plan import Plan, PredictionRecord
from meshwright.planner.plan_conversion import model_of

_RUNTIME_WORDS = {"meshwright": ", as designed; its overlap is not measured yet (--runtime evaluates another)"}


def headline_section(plan: Plan, remark: str = "") -> Section:
    """Model, cluster, workload, and the figures that people compare; a remark behind them."""
    workload, cluster = plan.workload, plan.cluster
    batch = f"{workload.global_batch:,} x {workload.seq_len:,} tokens a step"
    rows = (
        ("model", model_words(plan)),
        ("cluster", f"{cluster.num_gpus:,} GPUs, {cluster.name}, {cluster.gpus_per_node} a node"),
        ("workload", ", ".join((batch, workload.precision.value.upper(), *_imbalance(plan)))),
        *speed_rows(plan.prediction),
        ("runtime", plan.runtime.name + _RUNTIME_WORDS.get(plan.runtime.name, "")),
    )
    width = max(len(label) for label, _ in rows)
    title = f"{plan.model.name} on {cluster.num_gpus:,} x {cluster.profile}"
    lines = (f"{label:<{width}}  {text}" for label, text in rows)
    return Section(title=title, lines=tuple(lines), notes=(remark,) if remark else ())


def model_words(plan: Plan) -> str:
    """Parameters and FLOPs of the model as published, and what modules for multi-token prediction add to both."""
    record = plan.model
    model = model_of(record)
    added_flops = mtp_flops_per_token(model, plan.workload.seq_len)
    flops = plan.prediction.flops_per_token - added_flops
    words = _counts(record.total_parameters, record.active_parameters, flops, "parameters")
    if not record.mtp_depth:
        return words
    return f"{words}; MTP adds {_counts(mtp_parameters(model), mtp_active_parameters(model), added_flops)}"


def _counts(total: int, active: int, flops: float, what: str = "") -> str:
    counted = f"{billions(total)} {what}".strip()
    activated = f", {billions(active)} active" if billions(active) != billions(total) else ""
    return f"{counted}{activated}, {flops / 1e9:,.1f} GFLOP/token"


def billions(number: int) -> str:
    """A count of parameters.

    >>> billions(351_860_133_888), billions(760_000_000)
    ('351.9 B', '760.0 M')
    """
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def speed_rows(prediction: PredictionRecord) -> tuple[tuple[str, str], ...]:
    """Label and text of step time, throughput and utilisation."""
    low_s, high_s = prediction.step_time_interval_s
    per_gpu = f"{prediction.tokens_per_s_per_gpu:,.0f} tokens/s a GPU"
    return (
        ("step time", f"{seconds(prediction.step_time_s)}  (90 % interval: {seconds(low_s)} to {seconds(high_s)})"),
        ("throughput", f"{prediction.tokens_per_s:,.0f} tokens/s, {per_gpu}"),
        ("compute", f"{prediction.tflops_per_gpu:,.1f} TFLOP/s a GPU, MFU {prediction.mfu * 100:.1f} %"),
    )


def seconds(time_s: float) -> str:
    """A step time to the millisecond, short ones to ten microseconds.

    >>> seconds(4.1934), seconds(0.0123456)
    ('4.193 s', '12.35 ms')
    """
    return f"{time_s:,.3f} s" if time_s >= 1 else f"{time_s * 1e3:.2f} ms"


def _imbalance(plan: Plan) -> tuple[str, ...]:
    imbalance = plan.workload.expert_imbalance
    return (f"busiest expert rank at {imbalance:g} x the mean",) if imbalance > 1 else ()
