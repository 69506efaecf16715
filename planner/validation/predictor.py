"""Predicts a published row with other values of its framework's free parameters than the packaged ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import step_time_s
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.costmodel.step import schedule_of, step_durations, step_overlap
from meshwright.planner.validation.fit import Points, Predict
from meshwright.planner.validation.free_parameters import Values
from meshwright.planner.validation.printed_settings import runtime_of, step_share
from meshwright.planner.validation.rows import TrainingRow
from meshwright.planner.validation.run_description import balanced, describe

described = lru_cache(maxsize=2048)(describe)
"""The run of a row. Free parameters do not decide it: they change no bytes, on which the choices in it rest."""


def predicted_step_s(configuration: TrainingConfiguration) -> float:
    """Seconds of a step: the prediction without its breakdown, which costs a second simulation."""
    schedule = schedule_of(configuration)
    durations = step_durations(configuration, schedule, stage_costs(configuration))
    return step_time_s(schedule, durations, step_overlap(configuration))


def configuration_of(row: TrainingRow, values: Values | None = None) -> TrainingConfiguration:
    """The run of a row, with the packaged description of its framework or other values in it."""
    run = described(row)
    if values is None:
        return run
    return msgspec.structs.replace(run, runtime=balanced(row, runtime_of(row, values)))


def predict_row(row: TrainingRow, values: Values | None = None) -> float:
    """Predicted tokens/s of one GPU, as the source measures them."""
    tokens_per_gpu = row.global_batch * row.seq_len / row.num_gpus
    return step_share(row) * tokens_per_gpu / predicted_step_s(configuration_of(row, values))


def log_errors(
    rows: Sequence[TrainingRow], names: tuple[str, ...], on_row: Callable[[int], None] = lambda _: None
) -> Predict:
    """What `fit` asks for: logarithms of predicted over measured tokens/s."""

    def predict(points: Points) -> list[float]:
        found, previous = [], -1
        for index, values in points:
            if index != previous:
                on_row(index)
                previous = index
            row = rows[index]
            predicted = predict_row(row, dict(zip(names, values, strict=True)))
            found.append(math.log(predicted / row.tokens_per_s_per_gpu))
        return found

    return predict
