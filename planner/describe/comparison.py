"""Two predictions side by side, term by term."""

from __future__ import annotations

from collections.abc import Callable

from meshwright.costmodel.units import Dimension, format_bandwidth, format_bytes, format_flops, format_time
from meshwright.planner.changes import CHANGES
from meshwright.planner.describe.headline import headline_section, seconds
from meshwright.planner.describe.memory import memory_section
from meshwright.planner.describe.outlook import outlook_sections
from meshwright.planner.describe.section import Section, gib, milliseconds, percent, ranges
from meshwright.planner.describe.step_time import TERMS, VISIBLE_FRACTION, step_time_section
from meshwright.planner.plan import Plan
from meshwright.planner.what_if import FieldChange, WhatIf

FORMATS: dict[Dimension, Callable[[float], str]] = {
    Dimension.BYTES: format_bytes,
    Dimension.BYTES_PER_S: format_bandwidth,
    Dimension.SECONDS: format_time,
    Dimension.FLOPS_PER_S: lambda value: f"{format_flops(value)}/s",
}


SUFFIXES = {
    "_bytes_per_s": Dimension.BYTES_PER_S,
    "_flops_per_s": Dimension.FLOPS_PER_S,
    "_bytes": Dimension.BYTES,
    "_s": Dimension.SECONDS,
}


def describe_what_if(plan: Plan, result: WhatIf) -> tuple[Section, ...]:
    """The changes, both predictions, what grew and shrank, memory; one prediction where both are the same."""
    if result.reproduces:
        same = "predicted again: the plan's own figures, to the last digit"
        return (headline_section(plan, same), memory_section(plan), step_time_section(plan))
    compared = (_changes_section(result), _speed_section(result), _terms_section(result), _memory_section(result))
    return (*compared, *outlook_sections(result.outlook)) if result.outlook is not None else compared


def _changes_section(result: WhatIf) -> Section:
    lines = tuple(change_words(change) for change in result.changes)
    return Section(
        title=f"{result.model}: the plan, and the plan with changes" if lines else f"{result.model}: predicted again",
        lines=lines or ("the prediction differs from the plan's own",),
        notes=tuple(f"note: {warning}" for warning in result.warnings),
    )


def change_words(change: FieldChange) -> str:
    """A changed field, from what to what.

    >>> change_words(FieldChange(key="cluster.network_bytes_per_s", before=50e9, after=100e9))
    'cluster.network_bytes_per_s: 50 GB/s -> 100 GB/s'
    """
    before, after = (value_words(change.key, value) for value in (change.before, change.after))
    return f"{change.key}: {before} -> {after}"


def value_words(key: str, value: float | str | bool) -> str:
    """The value of a field, in the unit that suits it.

    >>> value_words("cluster.network_latency_s", 2.5e-6), value_words("runtime.cuda_graphs", True)
    ('2.5 us', 'on')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    dimension = dimension_of(key)
    return FORMATS[dimension](float(value)) if dimension and not isinstance(value, str) else str(value)


def dimension_of(key: str) -> Dimension | None:
    """What a field measures, also where its key takes words besides, as its name says; None for counts and words.

    >>> dimension_of("run.checkpoint_interval_s").name, dimension_of("model.top_k")
    ('SECONDS', None)
    """
    return CHANGES[key].dimension or next((found for end, found in SUFFIXES.items() if key.endswith(end)), None)


def _speed_section(result: WhatIf) -> Section:
    old, new = result.planned, result.prediction
    rows = (
        ("step time", seconds(old.step_time_s), seconds(new.step_time_s), _relative(old.step_time_s, new.step_time_s)),
        (
            "90 % interval",
            *(" to ".join(map(seconds, record.step_time_interval_s)) for record in (old, new)),
            "",
        ),
        *(
            (label, f"{getattr(old, name) * scale:,.{digits}f}", f"{getattr(new, name) * scale:,.{digits}f}", change)
            for label, name, scale, digits in FIGURES
            for change in (_relative(getattr(old, name), getattr(new, name)),)
        ),
    )
    return Section(title="Speed", columns=("", "plan", "now", "change"), rows=rows)


FIGURES = (
    ("tokens/s", "tokens_per_s", 1.0, 0),
    ("tokens/s a GPU", "tokens_per_s_per_gpu", 1.0, 0),
    ("TFLOP/s a GPU", "tflops_per_gpu", 1.0, 1),
    ("MFU [%]", "mfu", 100.0, 1),
)


def _relative(old: float, new: float) -> str:
    return f"{(new / old - 1.0) * 100:+z.1f} %"


def _terms_section(result: WhatIf) -> Section:
    old, new = result.planned, result.prediction
    rows = [
        (words, *_three(old_s, new_s, old.step_time_s))
        for name, words in TERMS.items()
        for old_s, new_s in ((old.breakdown_s.get(name, 0.0), new.breakdown_s.get(name, 0.0)),)
        if max(abs(old_s), abs(new_s)) >= VISIBLE_FRACTION * old.step_time_s
    ]
    total = ("step", *_three(old.step_time_s, new.step_time_s, old.step_time_s))
    return Section(
        title="Where the step goes, in ms (mean over stages)",
        columns=("term", "plan", "now", "change"),
        rows=(*rows, total),
    )


def _three(old_s: float, new_s: float, of_s: float) -> tuple[str, str, str]:
    """Before, now and the difference in ms."""
    return milliseconds(old_s, of_s), milliseconds(new_s, of_s), milliseconds(new_s - old_s, of_s, sign="+")


def _memory_section(result: WhatIf) -> Section:
    """The fullest stage before and now; every stage that no longer fits."""
    old, new = result.planned, result.prediction
    rows = tuple(
        (label, str(stage), gib(peaks[stage]), gib(record.memory_limit_bytes), percent(share))
        for label, record in (("plan", old), ("now", new))
        for peaks in (record.peak_memory_bytes,)
        for stage in (peaks.index(max(peaks)),)
        for share in (peaks[stage] / record.memory_limit_bytes,)
    )
    return Section(
        title="Memory of the fullest stage in GiB",
        columns=("", "stage", "peak", "limit", "of limit"),
        rows=rows,
        notes=_over_limit_notes(result),
    )


def _over_limit_notes(result: WhatIf) -> tuple[str, ...]:
    if not result.over_limit:
        return ()
    worst = max(result.over_limit, key=lambda over: over.over_bytes)
    others = ranges(over.stage for over in result.over_limit if over.stage != worst.stage)
    also = f"; over the limit too: stages {others}" if others else ""
    over = f"{format_bytes(worst.over_bytes)} ({worst.over_bytes:,.0f} bytes) over the limit"
    return (f"does not fit: stage {worst.stage} is {over}{also}",)
