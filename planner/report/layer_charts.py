"""A layer's streams as charts, one for each pass: its operators in program order, and in the order of the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.timeline import OperatorSpan, PassTimeline
from meshwright.costmodel.program.operators import BESIDE, Pass, Resource
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.costmodel.value import Value
from meshwright.planner.layer_words import layer_kind
from meshwright.planner.report.charts import ChartRow, Slice, TextPool, TimeChart
from meshwright.planner.runners_up import strategy_text
from meshwright.planner.trace.action_slices import merged_spans

MAX_LAYERS = 4
BEFORE, AFTER = "program order, nothing overlapped", "the plan's order"
PASSES = {
    "forward": "Forward",
    "backward": "Backward",
    "dgrad": "Backward, gradients of inputs (dgrad)",
    "wgrad": "Backward, gradients of weights (wgrad)",
    "joint": "A forward beside the backward of another micro-batch",
}
STREAM_WORDS = {
    Resource.COMPUTE: "compute",
    Resource.NVLINK: "NVLink",
    Resource.NETWORK: "network",
    Resource.COPY_ENGINE: "copy engine",
}
PHASE_COLORS = {Pass.FORWARD: "forward", Pass.DGRAD: "dgrad", Pass.WGRAD: "wgrad"}


class PassChart(Value, frozen=True, kw_only=True):
    """A pass before and after scheduling, on one time axis."""

    name: str
    title: str
    before_s: float
    after_s: float
    chart: TimeChart


class LayerCharts(Value, frozen=True, kw_only=True):
    """The passes of one kind of layer under one strategy; `count` layers are like it."""

    title: str
    count: int
    passes: tuple[PassChart, ...]


def layer_charts(configuration: TrainingConfiguration) -> tuple[LayerCharts, ...]:
    """The most frequent layers of the plan, at most `MAX_LAYERS` kinds."""
    alike: Counter[tuple[LayerSpec, LayerStrategy]] = Counter()
    for stage in range(len(configuration.stages)):
        alike.update(configuration.layers_of(stage))
    return tuple(
        LayerCharts(
            title=f"{layer_kind(layer)}: {strategy_text(strategy)}",
            count=count,
            passes=tuple(_passes(configuration, layer, strategy)),
        )
        for (layer, strategy), count in alike.most_common(MAX_LAYERS)
    )


def _passes(configuration: TrainingConfiguration, layer: LayerSpec, strategy: LayerStrategy) -> Iterator[PassChart]:
    context = cost_context(configuration)
    planned, serial = context.timelines(layer, strategy), context.program_order_timelines(layer, strategy)
    split = planned.backward is None
    for name, title in PASSES.items():
        if name in ("dgrad", "wgrad") and not split:
            continue
        before: PassTimeline | None = getattr(serial, name)
        after: PassTimeline | None = getattr(planned, name)
        if before is not None and after is not None:
            chart = _chart(before, after)
            yield PassChart(name=name, title=title, before_s=before.end_s, after_s=after.end_s, chart=chart)


def _chart(before: PassTimeline, after: PassTimeline) -> TimeChart:
    """Rows for the streams that either uses, first before, then after."""
    pool = TextPool()
    used = [stream for stream in Resource if before.on_stream(stream) or after.on_stream(stream)]
    rows = tuple(
        ChartRow(label=STREAM_WORDS[stream], slices=_slices(timeline, stream, pool), group=group)
        for group, timeline in ((BEFORE, before), (AFTER, after))
        for stream in used
    )
    return TimeChart(end_s=max(before.end_s, after.end_s), rows=rows, texts=pool.texts())


def _slices(timeline: PassTimeline, stream: Resource, pool: TextPool) -> tuple[Slice, ...]:
    found = [(name, span) for name, span in merged_spans(timeline) if span.stream is stream]
    return tuple(_slice(name, span, pool) for name, span in sorted(found, key=lambda entry: entry[1].start_s))


def _slice(name: str, span: OperatorSpan, pool: TextPool) -> Slice:
    return (
        round(span.start_s, 9),
        round(span.end_s, 9),
        _color(span),
        name.replace(BESIDE, ""),
        pool.number(_words(name, span)),
        1.0,
    )


def _color(span: OperatorSpan) -> str:
    if span.is_communication:
        return "communication"
    return "recompute" if span.recomputes else PHASE_COLORS[span.phase]


def _words(name: str, span: OperatorSpan) -> str:
    words = [name.replace(BESIDE, ""), span.module]
    words += ["recomputed"] if span.recomputes else []
    words += ["forward of the other micro-batch"] if BESIDE in name else []
    words += ["one fused kernel"] if span.fused_with else []
    words += [f"communication takes {span.num_sms} SMs"] if span.num_sms else []
    return ", ".join(words)
