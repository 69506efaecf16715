"""In which order, fused and overlapped how, the plan's layers run their operators, and how good that order is."""

from __future__ import annotations

from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import PassKind, PassOrder
from meshwright.costmodel.order.timeline import PassTimeline
from meshwright.costmodel.stage_cost import CostContext, cost_context
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.describe.section import Section
from meshwright.planner.layer_words import RECOMPUTE_WORDS, layer_kind
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of

PROVEN_GAP = 1e-6
PASS_WORDS = {
    PassKind.FORWARD: "forward",
    PassKind.BACKWARD: "backward",
    PassKind.DGRAD: "dgrad",
    PassKind.WGRAD: "wgrad",
    PassKind.JOINT: "forward beside backward",
}


def orders_section(plan: Plan) -> Section:
    """One row for each pass of each kind of layer in which communication runs beside computation."""
    configuration = configuration_of(plan)
    context = cost_context(configuration)
    rows: list[tuple[str, ...]] = []
    for entry in configuration.orders.entries:
        if isinstance(entry.part, LayerSpec):
            rows += _rows(context, entry.part, entry.strategy)
    return Section(
        title="Order of operators",
        columns=("kind", "recomputed", "pass", "ms", "serial ms", "fused exchanges", "from the best order"),
        rows=tuple(rows),
    )


def _rows(context: CostContext, layer: LayerSpec, strategy: LayerStrategy) -> list[tuple[str, ...]]:
    order = context.orders.find(layer, strategy)
    ordered, serial = context.timelines(layer, strategy), context.program_order_timelines(layer, strategy)
    rows: list[tuple[str, ...]] = []
    for kind in PassKind:
        timeline: PassTimeline | None = getattr(ordered, kind.value)
        launches = order.of(kind) if order is not None else None
        if timeline is not None and launches is not None and any(span.is_communication for span in timeline.spans):
            rows.append(
                (
                    layer_kind(layer),
                    RECOMPUTE_WORDS[strategy.recompute],
                    PASS_WORDS[kind],
                    f"{timeline.end_s * 1e3:.3f}",
                    f"{getattr(serial, kind.value).end_s * 1e3:.3f}",
                    _fused(launches, timeline),
                    _distance(launches),
                )
            )
    return rows


def _fused(order: PassOrder, timeline: PassTimeline) -> str:
    """How many of the communications are part of a fused kernel."""
    number = sum(1 for launch in order.launches if len(launch.operators) > 1)
    return f"{number} of {sum(span.is_communication for span in timeline.spans)}"


def _distance(order: PassOrder) -> str:
    return "proven best" if order.gap <= PROVEN_GAP else f"at most {order.gap * 100:.2f} %"
