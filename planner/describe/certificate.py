"""The runners-up and why they lost, and what was proven about the best."""

from __future__ import annotations

from meshwright.planner.describe.headline import seconds
from meshwright.planner.describe.section import Section, gib, percent
from meshwright.planner.plan import Alternative, Plan

MODEL_ERROR = (
    "the gap is against the model of the step; the model's own error on published runs: see `meshwright validate`"
)
AXES = ("pp", "dp", "tp", "sp", "cp", "ep", "etp")


def runners_up_section(plan: Plan) -> Section:
    """The best plans of other meshes and schedules."""
    return Section(
        title="Runners-up",
        columns=("step", "slower by", "mesh", "schedule", "mbs", "peak GiB", "lost by"),
        rows=tuple(_row(alternative, plan) for alternative in plan.alternatives),
    )


def _row(alternative: Alternative, plan: Plan) -> tuple[str, ...]:
    chunks = f" x {alternative.virtual_stages}" if alternative.virtual_stages > 1 else ""
    axes = [f"{axis}{getattr(alternative.mesh, axis)}" for axis in AXES if getattr(alternative.mesh, axis) > 1]
    sharding = [f"zero{alternative.zero}"] if alternative.zero != plan.sharding.zero else []
    return (
        seconds(alternative.step_time_s),
        percent(alternative.step_time_s / plan.prediction.step_time_s - 1.0),
        " ".join((*axes, *sharding)) or "one GPU",
        f"{alternative.schedule}{chunks}",
        str(alternative.micro_batch_size),
        gib(alternative.peak_memory_bytes),
        alternative.reason or "-",
    )


def certificate_section(plan: Plan) -> Section:
    """Bound and gap, the space, what became of the candidates, solvers."""
    search = plan.search
    bound_s = search.objective_s * (1.0 - search.gap)
    beyond = ", on other SMs than the bound's" if plan.prediction.step_time_s < bound_s else ""
    return Section(
        title="Certificate",
        lines=(
            f"found {seconds(search.objective_s)}, lower bound {seconds(bound_s)}:"
            f" no plan of the space is faster by more than {search.gap * 100:.2f} %",
            f"then its operators were ordered anew{beyond}: {seconds(plan.prediction.step_time_s)};"
            f" better orders could shorten its layers by {search.order_gap * 100:.2f} % at most",
            f"candidates: {search.candidates:,}, of which {search.rejected:,} broke a rule or the memory limit,"
            f" {search.pruned:,} were bounded away, {search.solved:,} solved in full",
            f"solved in {search.solve_time_s:.1f} s by {', '.join(search.solvers)}",
            MODEL_ERROR,
            "the space:",
            *(f"- {rule}" for rule in search.space.split("; ")),
        ),
    )
