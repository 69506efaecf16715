from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.measure_hardware.base_profile import base_profile
from meshwright.hardware_profiles import load_profile


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA H800", "h800"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
    ],
)
def test_by_the_name_of_the_gpu(name: str, profile: str) -> None:
    assert base_profile(name) == load_profile(profile)


def test_by_choice() -> None:
    assert base_profile("NVIDIA H100 80GB HBM3", "h200") == load_profile("h200")


def test_a_gpu_that_no_profile_is_of() -> None:
    with pytest.raises(InputError, match=r"no shipped profile is of 'NVIDIA B200'.*h100"):
        base_profile("NVIDIA B200")
