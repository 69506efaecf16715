from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime, runtime_names
from meshwright.planner.explain.assumptions import assumptions, field_meanings


def test_every_field_of_a_runtime_has_a_meaning() -> None:
    meanings = field_meanings()
    assert meanings.keys() >= set(RuntimeSpec.__struct_fields__)
    assert meanings["step_host_s_per_layer"].endswith("parameter tensors one by one.")
    assert meanings["overlap"] == "what communication may hide under inside a layer."


@pytest.mark.parametrize("name", runtime_names())
def test_the_runtime_is_told_field_by_field(tiny_configuration: TrainingConfiguration, name: str) -> None:
    runtime = load_runtime(name)
    found = {entry.name: entry for entry in assumptions(msgspec.structs.replace(tiny_configuration, runtime=runtime))}
    for field in RuntimeSpec.__struct_fields__:
        if field not in ("name", "source"):
            assert found[f"runtime.{field}"].source == runtime.source
    assert found["runtime.fp32_gradients"].value == ("yes" if runtime.fp32_gradients else "no")
    assert f"tensor {runtime.overlap.tensor}" in found["runtime.overlap"].value


def test_limits_and_interference_are_told(tiny_configuration: TrainingConfiguration) -> None:
    found = {entry.name: entry for entry in assumptions(tiny_configuration)}
    beside = tiny_configuration.cluster.profile.interference
    assert f"x {beside.compute_slowdown:g} slower" in found["interference"].value
    assert "measured on 2 x H200" in found["interference"].source
    assert "1.5 GiB and 3 %" in found["memory limit"].meaning
    assert all(entry.value and entry.meaning and entry.source for entry in found.values())
