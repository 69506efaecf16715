"""Recorded layers beside present predictions: measurements stay, predictions follow the model."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec
import pytest

from meshwright.costmodel.errors import InputError
from meshwright.executor.layer_timing.predict_again import predicted_again
from meshwright.executor.layer_timing.record import LayerTimesRecord, OverlappedPass, read_record

RECORDS = Path(__file__).parents[4] / "benchmarks"


def errors_of(record: LayerTimesRecord) -> list[float]:
    return [abs(one.error) for layer in record.layers for one in (layer.forward, layer.backward)]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("layer_times_h100", 0.08),
        ("layer_times_h100_compiled", 0.08),
        ("layer_times_h200", 0.08),
        ("layer_times_h200_x2", 0.11),
    ],
)
def test_measured_layers_are_predicted_at_the_median(name: str, limit: float) -> None:
    """Layers of eight models on one GPU, on two H200 with EP, SP and TP; no figure of the model was fitted to them.

    Wanted are 8 %. Those of two GPUs ran SwiGLU of experts kernel by kernel, at a third of the profile's speed, and are
    missed by 10.3 % (docs/accuracy.md).
    """
    recorded = read_record(RECORDS / f"{name}.json")
    again = predicted_again(recorded, recorded.profile)
    assert median(errors_of(again)) < limit
    measured = [(op.name, op.measured) for layer in recorded.layers for op in layer.operators]
    assert [(op.name, op.measured) for layer in again.layers for op in layer.operators] == measured


def test_overlapped_passes_are_predicted_again_with_overlap() -> None:
    recorded = read_record(RECORDS / "layer_times_h200_x2.json")
    layer = next(one for one in recorded.layers if one.strategy == "tp2")
    beside = OverlappedPass(measured=layer.forward.measured, predicted_s=1.0)
    timed = msgspec.structs.replace(layer, overlapped_forward=beside, overlapped_backward=beside)
    (again,) = predicted_again(msgspec.structs.replace(recorded, layers=(timed,)), recorded.profile).layers
    assert again.overlapped_forward is not None
    assert again.overlapped_backward is not None
    assert again.overlapped_forward.measured == layer.forward.measured
    assert again.overlapped_backward.predicted_s < again.backward.predicted_s


def test_another_profile_gives_other_predictions() -> None:
    recorded = read_record(RECORDS / "layer_times_h100.json")
    few = msgspec.structs.replace(recorded, layers=recorded.layers[:1])
    (slow,) = predicted_again(few, "h20").layers
    (fast,) = predicted_again(few, "h100").layers
    assert slow.forward.predicted_s > 3 * fast.forward.predicted_s


def test_a_layer_that_was_cut_cannot_be_rebuilt() -> None:
    recorded = read_record(RECORDS / "layer_times_h100.json")
    moe = next(layer for layer in recorded.layers if layer.num_experts)
    cut = msgspec.structs.replace(recorded, layers=(msgspec.structs.replace(moe, num_experts=1),))
    with pytest.raises(InputError, match="cannot be rebuilt"):
        predicted_again(cut, "h100")
