"""The pipeline of a step as a chart: what each stage does when."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.simulate import Span, SpanKind
from meshwright.planner.report.charts import ChartRow, Slice, TextPool, TimeChart
from meshwright.planner.simulated_step import ACTION_KINDS, SimulatedStep

COLORS = {
    SpanKind.FORWARD: "forward",
    SpanKind.BACKWARD: "backward",
    SpanKind.BACKWARD_INPUT: "dgrad",
    SpanKind.BACKWARD_WEIGHT: "wgrad",
    SpanKind.PARAM_GATHER: "gather",
    SpanKind.GRAD_REDUCE: "reduce",
    SpanKind.OPTIMIZER: "optimizer",
}
WORDS = {
    SpanKind.FORWARD: "forward",
    SpanKind.BACKWARD: "backward",
    SpanKind.BACKWARD_INPUT: "backward, gradient of the input (dgrad)",
    SpanKind.BACKWARD_WEIGHT: "backward, gradient of the weights (wgrad)",
    SpanKind.PARAM_GATHER: "parameter gather",
    SpanKind.GRAD_REDUCE: "gradient reduction",
    SpanKind.OPTIMIZER: "optimizer",
}
BESIDE_LABEL = "beside"
LEAST_OPACITY = 0.55


def pipeline_chart(step: SimulatedStep) -> TimeChart:
    """Rows for each stage: its actions, forwards that run beside a backward, data-parallel communication."""
    pool = TextPool()
    rows = tuple(row for device in range(step.schedule.num_stages) for row in _rows(step, device, pool))
    return TimeChart(end_s=step.timeline.step_time_s, rows=rows, texts=pool.texts())


def colors_of(step: SimulatedStep) -> tuple[str, ...]:
    """The kinds of slices that occur, in the order of the legend."""
    kinds = {span.kind for spans in step.spans for span in spans if span.end_s > span.start_s}
    return tuple(COLORS[kind] for kind in SpanKind if kind in kinds)


def _rows(step: SimulatedStep, device: int, pool: TextPool) -> Iterator[ChartRow]:
    actions, beside, communication = _lanes(step, device)
    yield ChartRow(label=f"stage {device}", slices=_slices(step, actions, pool))
    if beside:
        yield ChartRow(label=BESIDE_LABEL, slices=_slices(step, beside, pool))
    if communication:
        yield ChartRow(label="data-parallel", slices=_slices(step, communication, pool), thin=True)


def _lanes(step: SimulatedStep, device: int) -> tuple[list[Span], list[Span], list[Span]]:
    """Actions and optimizer; forwards that run beside a backward; communication."""
    beside = []
    taken: set[int] = set()
    actions = [span for span in step.spans[device] if span.kind in ACTION_KINDS]
    position = 0
    for slot in step.schedule.order[device]:
        if len(slot) > 1:
            beside.append(actions[position])
            taken.add(position)
        position += len(slot)
    lane = [span for number, span in enumerate(actions) if number not in taken]
    others = [span for span in step.spans[device] if span.kind not in ACTION_KINDS and span.end_s > span.start_s]
    lane += [span for span in others if not span.is_communication]
    return lane, beside, [span for span in others if span.is_communication]


def _slices(step: SimulatedStep, spans: list[Span], pool: TextPool) -> tuple[Slice, ...]:
    return tuple(_slice(step, span, pool) for span in spans)


def _slice(step: SimulatedStep, span: Span, pool: TextPool) -> Slice:
    chunks = step.schedule.num_chunks
    words, opacity, label = WORDS[span.kind], 1.0, ""
    if span.chunk >= 0:
        words += f", virtual stage {step.schedule.placement[span.device][span.chunk]}" if chunks > 1 else ""
        opacity = 1.0 - (1.0 - LEAST_OPACITY) * span.chunk / max(1, chunks - 1)
    if span.kind in ACTION_KINDS:
        words += f", micro-batch {span.micro_batch}"
        label = f"{span.kind.value}{span.micro_batch}"
    return (
        round(span.start_s, 9),
        round(span.end_s, 9),
        COLORS[span.kind],
        label,
        pool.number(words),
        round(opacity, 2),
    )
