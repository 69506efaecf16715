from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime, runtime_names


@pytest.mark.parametrize("name", runtime_names())
def test_every_shipped_description_loads_and_says_where_it_is_from(name: str) -> None:
    runtime = load_runtime(name)
    assert runtime.name == name
    assert len(runtime.source) > 20


def test_the_planners_own_runtime_is_shipped() -> None:
    runtime = load_runtime("meshwright")
    assert runtime.overlap.expert is OverlapLevel.FUSED
    assert runtime.gradient_reduce_bytes == 2


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'deepspeed9' is unknown; expected one of .*meshwright"):
        load_runtime("deepspeed9")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("attention_time_factor", 0.0, "a positive number"),
        ("host_operators_per_kernel", -1.0, "a positive number"),
        ("step_host_s_per_layer", -1e-3, "a number >= 0"),
        ("routing_wait_s", float("nan"), "a number >= 0"),
        ("expert_load_deviation", -0.1, "a number >= 0"),
        ("gradient_reduce_bytes", 3, "1, 2 or 4"),
        ("parameter_gather_bytes", 8, "1, 2 or 4"),
    ],
)
def test_absurd_figures_are_refused(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"runtime: {field}: .* is not {expected}"):
        msgspec.structs.replace(RuntimeSpec(name="x", source="y"), **{field: value})
