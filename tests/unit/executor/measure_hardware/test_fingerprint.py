"""An interrupted run goes on only on the same machine, with the same versions and the same survey."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.executor.measure_hardware import Extent, build_survey
from meshwright.executor.measure_hardware.fingerprint import OF_THE_MOMENT, fingerprint
from meshwright.hardware_profiles.measurements import Machine

MACHINE = Machine(
    gpu="NVIDIA H100 80GB HBM3",
    num_gpus=1,
    num_sms=132,
    total_memory_bytes=85_017_493_504,
    usable_memory_bytes=84_000_000_000,
    driver="580.159.04",
    cuda="13.0",
    cudnn="91900",
    nccl="2.28.9",
    torch="2.11.0",
    python="3.12.3",
    host_cpu="a processor, 16 logical",
    sm_clock_mhz=1980.0,
    memory_clock_mhz=2619.0,
    power_w=690.0,
    power_limit_w=700.0,
    temperature_celsius=60.0,
    date="2026-11-28",
    command="meshwright profile",
)
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
