"""`meshwright explain`: where a plan's figures come from, what another choice would cost or break, what to buy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json
from meshwright.commands.sections import print_sections

if TYPE_CHECKING:
    from meshwright.planner.describe import Section
    from meshwright.planner.explain import Explanation, Marginal
    from meshwright.planner.plan import Plan
    from meshwright.planner.search import SearchProgress

EXAMPLES = """\b
Examples:
  meshwright explain plan.json
  meshwright explain plan.json --layer 0
  meshwright explain plan.json --why-not ep=8
  meshwright explain plan.json --why-not "schedule=zb-v,recompute=sar"
  meshwright explain plan.json --diff other.json
  meshwright explain plan.json --marginal
"""


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json that `meshwright plan -o` wrote.")],
    full: Annotated[
        bool, typer.Option("--full", help="Every operator, stage, assumption, formula and source.")
    ] = False,
    layer: Annotated[int | None, typer.Option(metavar="N", help="One layer in full, numbered from 0.")] = None,
    stage: Annotated[int | None, typer.Option(metavar="N", help="One pipeline stage in full, numbered from 0.")] = None,
    why_not: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="What breaks with this choice, or what the best plan that has it loses. Takes what `plan --fix`"
            " takes; several are asked about together.",
        ),
    ] = None,
    diff: Annotated[
        Path | None, typer.Option(metavar="OTHER_PLAN", help="Compare with another plan, term by term.")
    ] = None,
    marginal: Annotated[
        bool, typer.Option("--marginal", help="Plan again with 10 % more of each resource: what is worth buying.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with everything.")] = False,
) -> None:
    """Show what a plan's prediction is made of: every term with its value, formula and source.

    Without options a summary: the path that decides the step, where the time goes, the heaviest operators,
    communication, the fullest stage's memory, and what a little more of each resource would save. --why-not and
    --marginal search again, for the plan's own model, cluster, workload and runtime with nothing else pinned.
    """
    from meshwright.planner.serialise import read_plan

    asked = {
        "--full": full or None,
        "--layer": layer,
        "--stage": stage,
        "--why-not": why_not,
        "--diff": diff,
        "--marginal": marginal or None,
    }
    _check_one_mode([option for option, value in asked.items() if value is not None])
    planned = read_plan(plan)
    if why_not:
        _answer(planned, tuple(why_not), as_json)
    elif diff is not None:
        _compare(plan, planned, diff, as_json)
    elif marginal:
        _value(planned, as_json)
    else:
        _explain(planned, full, layer, stage, as_json)


def _check_one_mode(options: list[str]) -> None:
    from meshwright.costmodel.errors import InputError

    if len(options) > 1:
        raise InputError(options[0], "", f"cannot be given together with {', '.join(options[1:])}; ask one at a time")


def _explain(plan: Plan, full: bool, layer: int | None, stage: int | None, as_json: bool) -> None:
    from meshwright.planner.explain import explain, marginal_values, selected
    from meshwright.planner.explain.plain import plain

    explanation = selected(explain(plan), layer=layer, stage=stage)
    marginal = marginal_values(plan, resolve=False)
    if as_json:
        print_json({**_object(plain(explanation)), "marginal": plain(marginal)})
    else:
        print_sections(_sections(explanation, marginal, full=full, layer=layer, stage=stage))


def _object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)  # a struct as plain data
    return value


def _sections(
    explanation: Explanation, marginal: Marginal, *, full: bool, layer: int | None, stage: int | None
) -> tuple[Section, ...]:
    from meshwright.planner.explain import describe_explanation as describe
    from meshwright.planner.explain.describe_marginal import held_section

    if layer is not None:
        return describe.describe_layer(explanation)
    if stage is not None:
        return describe.describe_stage(explanation, stage)
    whole = describe.describe_full if full else describe.describe_summary
    return (*whole(explanation), held_section(marginal))


def _answer(plan: Plan, texts: tuple[str, ...], as_json: bool) -> None:
    from meshwright.planner.explain import why_not
    from meshwright.planner.explain.describe_why_not import describe_why_not
    from meshwright.planner.explain.plain import plain

    with _searching() as progress:
        answer = why_not(plan, texts, progress)
    if as_json:
        print_json(plain(answer))
    else:
        print_sections(describe_why_not(answer))


@contextmanager
def _searching() -> Iterator[Callable[[SearchProgress], None] | None]:
    """On a terminal, a line on stderr that tells how far a search has come."""
    from rich.console import Console

    from meshwright.commands.plan import progress_text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("opening the space") as status:
        yield lambda progress: status.update(progress_text(progress))


def _compare(path: Path, plan: Plan, other_path: Path, as_json: bool) -> None:
    from meshwright.planner.explain import diff_plans
    from meshwright.planner.explain.describe_difference import describe_difference
    from meshwright.planner.explain.plain import plain
    from meshwright.planner.serialise import read_plan

    difference = diff_plans(plan, read_plan(other_path))
    if as_json:
        print_json(plain(difference))
    else:
        names = ("plan", "other") if path.name == other_path.name else (path.name, other_path.name)
        print_sections(describe_difference(difference, names))


def _value(plan: Plan, as_json: bool) -> None:
    from meshwright.planner.explain import marginal_values
    from meshwright.planner.explain.describe_marginal import describe_marginal
    from meshwright.planner.explain.plain import plain

    with _bar() as progress:
        marginal = marginal_values(plan, resolve=True, progress=progress)
    if as_json:
        print_json(plain(marginal))
    else:
        print_sections(describe_marginal(marginal))


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """On a terminal, a bar on stderr: one step for each search."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("planning again")
        yield lambda name, done, of: bar.update(task, description=f"planning with {name}", completed=done, total=of)
