"""Why a row may be off: what its source leaves open, and what the prediction of it rests on."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Recompute
from meshwright.planner.validation.predictor import described
from meshwright.planner.validation.printed_settings import settings_of
from meshwright.planner.validation.rows import NETWORK, RowText, TrainingRow, parse_row

HOST_SHARE = 0.1
EXPOSED_SHARE = 0.25
BUBBLE_SHARE = 0.2
EXTRAPOLATED_SHARE = 0.3


def reasons(text: RowText) -> tuple[str, ...]:
    """What is known against the prediction of a row, most telling first; the row must be predictable."""
    row = parse_row(text)
    return (*_from_the_note(row), *_from_the_prediction(row), *_from_blanks(text, row))


def _from_the_note(row: TrainingRow) -> Iterator[str]:
    if row.notes:
        yield f"the source's note: {row.notes}"


def _from_the_prediction(row: TrainingRow) -> Iterator[str]:
    prediction = predict(described(row))
    shares = {name: seconds / prediction.step_time_s for name, seconds in prediction.breakdown_s.items()}
    exposed = sum(share for name, share in shares.items() if name.startswith("exposed"))
    if not prediction.fits:
        yield "predicted not to fit in memory: the run has settings that are not known"
    if shares["host"] > HOST_SHARE:
        yield f"the GPU waits for the host {shares['host']:.0%} of the step, which depends on software and processor"
    if exposed > EXPOSED_SHARE:
        yield f"{exposed:.0%} of the step is communication that nothing hides"
    if shares["bubble"] > BUBBLE_SHARE:
        yield f"{shares['bubble']:.0%} of the step is pipeline bubble, which virtual stages decide"
    if prediction.basis["extrapolated"] > EXTRAPOLATED_SHARE:
        yield f"{prediction.basis['extrapolated']:.0%} of operator time is extrapolated"


def _from_blanks(text: RowText, row: TrainingRow) -> Iterator[str]:
    if row.recompute == "unknown":
        stages = described(row).stages
        policy = next((strategy.recompute for stage in stages for strategy in stage), Recompute.NONE)
        yield f"recomputation is not printed, {policy.value} assumed"
    if row.kind == "moe" and not row.routing:
        yield "routing is not printed"
    if not settings_of(row):
        yield "nothing that is known of its software is printed"
    if not text.cells.get(NETWORK, "").strip():
        yield "the network is not printed"
