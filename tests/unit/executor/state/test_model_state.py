"""What a rank holds of the state under each kind of sharding, and when it moves, without other ranks."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.program import Weights
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime
from meshwright.costmodel.strategy import LayerStrategy, Mesh, ZeroStage
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import ParameterSpec
from meshwright.executor.state import gradients, weights
from meshwright.executor.state.choice import StateChoice
from meshwright.executor.state.flat import FlatKind, FlatParameters, Holders, OwnedParameter
from meshwright.executor.state.model_state import ModelState
from meshwright.executor.stopwatch import StepPart
from meshwright.hardware_profiles import load_cluster

RUNTIME = load_runtime("meshwright")
SHARDS, ELEMENTS = 4, 64 * 64
PARTS = ("embedding", "layer 0", "layer 1", "head")


def choice(zero: int, runtime: RuntimeSpec = RUNTIME, dtype: torch.dtype = torch.bfloat16) -> StateChoice:
    return StateChoice(sharding=Sharding(zero=ZeroStage(str(zero))), runtime=runtime, dtype=dtype)


def timed(_part: StepPart) -> nullcontext[None]:
    return nullcontext()


def make_state(chosen: StateChoice, shards: int = SHARDS, num_micro_batches: int = 2) -> ModelState:
    """Four parts with a matrix each on one of so many ranks."""
    flats = {}
    for part in PARTS:
        spec = ParameterSpec(name=part, shape=(64, 64))
        flats[part] = FlatParameters(
            FlatKind(split=1, decays=True),
            [OwnedParameter(name=part, spec=spec, groups=LayerGroups())],
            Holders(shards=Communicator(size=shards)) if chosen.sharding.stage else Holders(),
            keeps_whole=not chosen.shards_weights or shards == 1,
            dtype=chosen.dtype,
            device=torch.device("cpu"),
        )
    parts = {part: (flat,) for part, flat in flats.items()}
    return ModelState(tuple(flats.values()), parts, chosen, timed, num_micro_batches=num_micro_batches)


def num_bytes(*tensors: Tensor) -> int:
    """Of their memory, each piece once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def pass_through(state: ModelState, kind: PassKind) -> None:
    """A pass of all parts, in which every backward gives a gradient of one."""
    parts = PARTS if kind is PassKind.FORWARD else PARTS[::-1]
    for part, following in zip(parts, (*parts[1:], None), strict=True):
        with state.passing(kind, part, following):
            if kind in (PassKind.BACKWARD, PassKind.WGRAD):
                for accumulator in state.accumulators_of(part).values():
                    accumulator.add(torch.ones(64, 64, dtype=torch.bfloat16))


class Log:
    """Stands in for the collectives and remembers who called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        monkeypatch.setattr(weights, "all_gather_into", self._gather)
        monkeypatch.setattr(gradients, "reduce_to_shard", self._reduce)

    def _gather(self, out: Tensor, x: Tensor, _ranks: Communicator) -> None:
        self.calls.append("gather")
        out.view(-1, x.numel())[:] = x.clone()

    def _reduce(self, whole: Tensor, holders: Holders, _wire: torch.dtype) -> Tensor:
        self.calls.append("reduce")
        return whole.chunk(holders.shards.size)[0].float()


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_memory_that_stays_is_what_the_cost_model_charges(zero: int) -> None:
    state = make_state(choice(zero), num_micro_batches=1)
    model = StateModel(
        cluster=load_cluster("h100").with_gpus(SHARDS),
        mesh=Mesh(dp=SHARDS),
        sharding=Sharding(zero=ZeroStage(str(zero))),
        runtime=RUNTIME,
    )
    cost = model.cost(Weights(dense=len(PARTS) * ELEMENTS), LayerStrategy())
    assert num_bytes(*(flat.weights for flat in state.flats)) == cost.parameter_bytes
    assert 3 * num_bytes(*(flat.master for flat in state.flats)) == cost.optimizer_bytes  # and both moments
    if zero >= 2:
        state.restart()
        assert num_bytes(*state.gradient_shards()) == cost.gradient_bytes
    else:
        totals = [one.total for part in PARTS for one in state.accumulators_of(part).values()]
        assert num_bytes(*totals) == cost.gradient_bytes


def test_of_sharded_weights_and_gradients_two_parts_are_whole_at_once() -> None:
    state = make_state(choice(3))
    whole = [view for part in PARTS for view in state.weights_of(part).values()]
    totals = [one.total for part in PARTS for one in state.accumulators_of(part).values()]
    assert num_bytes(*whole) == 2 * ELEMENTS * 2
    assert num_bytes(*totals) == 2 * ELEMENTS * 2  # in the 16 bits that travel
    one = make_state(choice(3, replace(RUNTIME, overlap_parameter_gather=False)))
    assert num_bytes(*(view for part in PARTS for view in one.weights_of(part).values())) == ELEMENTS * 2


def test_what_nobody_shares_is_kept_whole_whatever_is_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    state = make_state(choice(3), shards=1)
    assert {view.data_ptr() for view in state.weights_of("head").values()} == {state.flats[-1].weights.data_ptr()}
    state.spread()
    pass_through(state, PassKind.FORWARD)
    assert log.calls == []


@pytest.mark.parametrize(("overlaps", "reduced"), [(True, [0, 4]), (False, [0, 0])])
def test_a_buffer_is_reduced_when_its_last_gradient_is_there(
    overlaps: bool, reduced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(monkeypatch)
    state = make_state(choice(1, replace(RUNTIME, overlap_gradient_reduce=overlaps)))
    for _ in range(2):
        state.restart()
        log.calls.clear()
        counts = []
        for _ in range(2):
            pass_through(state, PassKind.DGRAD)
            pass_through(state, PassKind.WGRAD)
            counts.append(len(log.calls))
        assert counts == reduced
        shards = state.gradient_shards()
        assert len(log.calls) == 4
        assert all(bool((shard == 2.0).all()) for shard in shards)


@pytest.mark.parametrize("zero", [2, 3])
def test_sharded_gradients_are_reduced_in_every_backward_and_never_after_dgrad_alone(
    zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(monkeypatch)
    state = make_state(choice(zero))
    for _ in range(2):
        state.restart()
        log.calls.clear()
        for kind in (PassKind.BACKWARD, PassKind.DGRAD, PassKind.WGRAD):
            pass_through(state, kind)
        assert log.calls.count("reduce") == 2 * len(PARTS)
        assert all(bool((shard == 2.0).all()) for shard in state.gradient_shards())


@pytest.mark.parametrize("zero", [1, 2])
def test_whole_weights_are_gathered_once_after_an_update(zero: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(monkeypatch)
    state = make_state(choice(zero))
    state.spread()
    pass_through(state, PassKind.FORWARD)
    assert log.calls == ["gather"] * len(PARTS)


def test_sharded_weights_are_gathered_a_part_ahead_and_not_while_they_are_still_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log(monkeypatch)
    state = make_state(choice(3))
    state.spread()
    assert log.calls == []
    gathered = []
    for part, following in zip(PARTS, (*PARTS[1:], None), strict=True):
        with state.passing(PassKind.FORWARD, part, following):
            gathered.append(len(log.calls))
    assert gathered == [2, 3, 4, 4]
    log.calls.clear()
    pass_through(state, PassKind.DGRAD)
    assert log.calls == ["gather"] * 2  # head and layer 1 still are
    pass_through(state, PassKind.WGRAD)
    assert log.calls.count("gather") == 2


def test_a_part_sees_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    Log(monkeypatch)
    state = make_state(choice(3))
    for turn in range(2):
        for number, flat in enumerate(state.flats):
            flat.weight_shard.fill_(float(10 * turn + number))
        state.spread()
        for kind in (PassKind.FORWARD, PassKind.BACKWARD):
            parts = PARTS if kind is PassKind.FORWARD else PARTS[::-1]
            for part, following in zip(parts, (*parts[1:], None), strict=True):
                with state.passing(kind, part, following):
                    (view,) = state.weights_of(part).values()
                    assert set(view.flatten().tolist()) == {10.0 * turn + PARTS.index(part)}


@pytest.mark.parametrize(("fp32", "expected"), [(True, 258.0), (False, 256.0)])
@pytest.mark.parametrize("zero", [0, 2])
def test_gradients_of_micro_batches_add_up_in_float32_where_the_plan_says_so(
    fp32: bool, expected: float, zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Log(monkeypatch)
    state = make_state(choice(zero, replace(RUNTIME, fp32_gradients=fp32)))
    state.restart()
    for value in (256.0, 1.0, 1.0):
        with state.passing(PassKind.BACKWARD, "head", None):
            for accumulator in state.accumulators_of("head").values():
                accumulator.add(torch.full((64, 64), value, dtype=torch.bfloat16))
    head, other = state.gradient_shards()[-1], state.gradient_shards()[0]
    assert head.dtype is torch.float32
    assert float(head[0]) == expected  # in bfloat16, 256 + 1 is 256
    assert float(other.abs().sum()) == 0.0  # what got no gradient has one of zero


def test_what_overlaps_is_what_the_predictor_assumes() -> None:
    blocking = replace(RUNTIME, overlap=LayerOverlap(data=OverlapLevel.NONE))
    no_gather = replace(RUNTIME, overlap_parameter_gather=False)
    no_reduce = replace(RUNTIME, overlap_gradient_reduce=False)
    found = {
        name: [(one.gathers_beside, one.reduces_beside) for one in (choice(zero, runtime) for zero in (1, 2, 3))]
        for name, runtime in {"blocking": blocking, "no gather": no_gather, "no reduce": no_reduce}.items()
    }
    assert found == {
        "blocking": [(True, True), (True, False), (False, False)],
        "no gather": [(False, True), (False, False), (False, False)],
        "no reduce": [(True, False), (True, True), (True, True)],
    }


def test_gradients_travel_in_16_bits_only_where_plan_and_weights_have_them() -> None:
    wide = replace(RUNTIME, gradient_reduce_bytes=4)
    assert choice(1).wire is torch.bfloat16
    assert choice(1, wide).wire is torch.float32
    assert choice(1, dtype=torch.float32).wire is torch.float32
    assert choice(1, dtype=torch.float64).wire is torch.float64


def test_a_runtime_that_accumulates_unsharded_keeps_whole_gradients() -> None:
    whole = replace(RUNTIME, accumulates_unsharded=True)
    assert choice(3).shards_gradients
    assert not choice(3, whole).shards_gradients
    assert choice(3, whole).shards_weights
