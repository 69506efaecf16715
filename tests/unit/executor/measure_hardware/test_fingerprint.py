"""An interrupted run goes on only on the same machine, with the same versions and the same survey."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshwright.executor.measure_hardware import Extent, build_survey
from meshwright.executor.measure_hardware.fingerprint import OF_THE_MOMENT, fingerprint
from meshwright.hardware_profiles.measurements import Machine, load_measurements

MEASURED = Path(__file__).parents[4] / "hardware_profiles" / "measurements" / "h100.json"
MACHINE = load_measurements(MEASURED).machine
SURVEY = build_survey(Extent.TINY, num_gpus=1, gpus_per_node=1)


@pytest.mark.parametrize("field", Machine.__struct_fields__)
def test_only_facts_of_the_moment_may_differ(field: str) -> None:
    value = getattr(MACHINE, field)
    other = msgspec.structs.replace(MACHINE, **{field: f"{value}0" if isinstance(value, str) else value + 1})
    same = fingerprint(other, ["a"], SURVEY, "k") == fingerprint(MACHINE, ["a"], SURVEY, "k")
    assert same == (field in OF_THE_MOMENT)


def test_another_gpu_of_the_same_kind_is_another_machine() -> None:
    assert fingerprint(MACHINE, ["a"], SURVEY, "k") != fingerprint(MACHINE, ["b"], SURVEY, "k")


def test_other_kernels_are_another_survey() -> None:
    assert len({fingerprint(MACHINE, ["a"], SURVEY, kernels) for kernels in ("", "k", "l")}) == 3


def test_another_seed_extent_or_entry_is_another_survey() -> None:
    surveys = (
        SURVEY,
        build_survey(Extent.TINY, num_gpus=1, gpus_per_node=1, seed=1),
        build_survey(Extent.QUICK, num_gpus=1, gpus_per_node=1),
        msgspec.structs.replace(SURVEY, local=SURVEY.local[1:]),
    )
    assert len({fingerprint(MACHINE, ["a"], survey, "k") for survey in surveys}) == len(surveys)
