"""Errors of operators: what is compared with what, and how it is summed up."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import Collective, CollectiveWork, GemmWork, Group, GroupedGemmWork, Work
from meshwright.hardware_profiles import load_profile
from meshwright.hardware_profiles.build.alone import one_node
from meshwright.hardware_profiles.measurements import (
    MEASUREMENTS_SCHEMA_VERSION,
    Implementation,
    Machine,
    Measurements,
    Purpose,
    Sample,
)
from meshwright.planner.validation.operators import held_apart_errors, target_of

PROFILE = load_profile("h100")
SHAPE = GemmWork(m=3000, n=5120, k=5120)


def taking(work: Work, factor: float, purpose: Purpose = Purpose.CHECK, rows_per_group: tuple[int, ...] = ()) -> Sample:
    """A sample that takes `factor` times what the profile predicts."""
    time_s = factor * operator_timing(work, one_node(PROFILE)).time_s
    return Sample(
        work=work,
        implementation=Implementation.CUBLAS,
        purpose=purpose,
        time_s=time_s,
        low_s=time_s,
        high_s=time_s,
        repeats=5,
        rows_per_group=rows_per_group,
    )


def errors_of(*samples: Sample) -> dict[str, tuple[int, float, float]]:
    machine = msgspec.convert(
        {
            field: 2 if kind == "int" else 1.0 if kind == "float" else ""
            for field, kind in Machine.__annotations__.items()
        },
        Machine,
    )
    raw = Measurements(schema_version=MEASUREMENTS_SCHEMA_VERSION, machine=machine, samples=samples)
    return {row.family: (row.samples, row.median_ape, row.bias) for row in held_apart_errors(raw, PROFILE)}


def test_an_error_is_predicted_over_measured_time_less_one() -> None:
    errors = errors_of(taking(SHAPE, 2.0), taking(SHAPE, 1.0), taking(SHAPE, 0.8))
    assert list(errors) == ["product bf16"]
    assert errors["product bf16"] == pytest.approx((3, 0.25, 0.0))


def test_samples_that_tables_are_built_from_do_not_count() -> None:
    assert errors_of(taking(SHAPE, 2.0, Purpose.FIT)) == {}


def test_skewed_products_are_a_family_of_their_own() -> None:
    work = GroupedGemmWork(num_groups=4, rows=4096, n=2048, k=2048)
    errors = errors_of(taking(work, 1.0), taking(work, 1.25, rows_per_group=(2048, 1024, 512, 512)))
    assert errors["grouped product bf16"] == (1, 0.0, 0.0)
    assert errors["grouped product bf16, skewed"] == pytest.approx((1, 0.2, -0.2))


def test_small_collectives_have_no_target() -> None:
    small, large = (
        CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=size, group=Group(size=2, ranks_per_node=2))
        for size in (2.0**20, 2.0**20 + 1)
    )
    assert target_of(small) is None
    large_target = target_of(large)
    assert large_target is not None
    assert large_target.median_ape == 0.10
