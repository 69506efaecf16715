"""What is not run yet is refused with the field that asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.strategy import Dispatch
from meshwright.executor.train.refusals import check_runs

Change = Callable[[TrainingConfiguration], TrainingConfiguration]


def model(**changes: object) -> Change:
    return lambda configuration: replace(configuration, model=replace(configuration.model, **changes))


def layers(**changes: object) -> Change:
    return lambda configuration: replace(
        configuration,
        stages=tuple(tuple(replace(one, **changes) for one in stage) for stage in configuration.stages),
    )


def _with_attention(configuration: TrainingConfiguration, **changes: object) -> TrainingConfiguration:
    layers = tuple(
        replace(layer, attention=replace(layer.attention, **changes)) for layer in configuration.model.layers
    )
    return replace(configuration, model=replace(configuration.model, layers=layers))


REFUSED: dict[str, tuple[Change, str]] = {
    "prediction modules": (model(mtp_depth=1), "model.mtp_depth: "),
    "learned positions": (model(learned_positions=64), "model.learned_positions: "),
    "offload": (layers(offload=True), "layer 0: offload: "),
    "one copy a rank": (layers(dispatch=Dispatch.ALL_TO_ALL_DEDUP), "layer 0: dispatch: .*--fix dispatch=alltoall"),
    "a window": (
        lambda configuration: _with_attention(configuration, window=4),
        "layer 0: window: .*sliding windows",
    ),
    "other axes than the mesh": (layers(tp=2, sp=1, ffn_tp=2), "layer 0: tp: .*tp 2 x sp 1 in a mesh of tp 1 x sp 2"),
    "a bounded capacity": (
        lambda configuration: replace(configuration, workload=replace(configuration.workload, capacity_factor=1.5)),
        "workload.capacity_factor: ",
    ),
    "an odd sequence": (
        lambda configuration: replace(configuration, workload=replace(configuration.workload, seq_len=17)),
        "workload.seq_len: ",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_its_field(tiny_configuration: TrainingConfiguration, change: Change, message: str) -> None:
    with pytest.raises(PlanError, match=f"^plan.json: {message}"):
        check_runs(change(tiny_configuration), "plan.json")


def test_the_rest_is_not(tiny_configuration: TrainingConfiguration) -> None:
    check_runs(tiny_configuration)


def test_key_heads_fewer_than_tensor_ranks(tiny_configuration: TrainingConfiguration) -> None:
    mesh = replace(tiny_configuration.mesh, tp=4, sp=1, dp=1)
    changed = replace(layers(tp=4, sp=1, ffn_tp=4)(tiny_configuration), mesh=mesh)
    with pytest.raises(PlanError, match=r"layer 0: tp: .*2 key heads over tp 4.*--fix tp=2"):
        check_runs(changed)
