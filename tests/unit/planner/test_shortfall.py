from __future__ import annotations

import pytest

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Mesh
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.point import MemoryShortfall, TooFewLayers
from meshwright.planner.shortfall import Shortfalls
from meshwright.planner.space import LayerShape, OuterPoint, Problem

GIB = 2.0**30
LIMIT_BYTES = 70 * GIB
MESH = Mesh(pp=2, dp=4)


def _shortfalls(*fixes: str) -> Shortfalls:
    problem = Problem(
        model=load_model("llama-3.1-8b"),
        cluster=load_cluster("h100", num_gpus=8),
        workload=Workload(global_batch=8, seq_len=8192),
        fixes=parse_fixes(fixes),
    )
    return Shortfalls(problem, LIMIT_BYTES)


POINT = OuterPoint(
    shape=LayerShape(group=1, cp=1, ep=1, etp=1, micro_batch=1),
    mesh=MESH,
    schedule=ScheduleKind.ONE_F_ONE_B,
    virtual_stages=1,
    sharding=Sharding(),
    num_micro_batches=2,
)


def _lacks(needed_gib: float, device: int = 0) -> MemoryShortfall:
    return MemoryShortfall(device=device, needed_bytes=needed_gib * GIB, limit_bytes=LIMIT_BYTES, lower_bound_bytes=0.0)


def test_the_nearest_attempt_is_named_with_the_limit_and_what_is_over() -> None:
    shortfalls = _shortfalls()
    for needed_gib, device in ((95, 0), (80, 1), (90, 0)):
        shortfalls.note(POINT, _lacks(needed_gib, device))
    error = shortfalls.error(None)
    assert isinstance(error, InfeasibleError)
    assert error.exit_status == 1
    assert str(error).startswith(
        "no plan fits: the best attempt needs 80 GiB a GPU for pipeline stage 1 of pp2 dp4, ZeRO-1,"
        " 10 GiB over the limit of 70 GiB; "
    )
    assert shortfalls.num_noted == 3


def test_one_micro_batch_is_said_to_be_that_and_counts_for_more_than_state_alone() -> None:
    shortfalls = _shortfalls()
    shortfalls.note_activations(MESH, Sharding(), 90 * GIB)
    shortfalls.note_state(MESH, Sharding(), 75 * GIB)
    assert "needs 90 GiB a GPU for the least of one micro-batch (layer inputs and state, or the head; ZeRO-1)" in str(
        shortfalls.error(None)
    )


def test_state_alone_is_said_to_be_state_alone() -> None:
    shortfalls = _shortfalls()
    shortfalls.note_state(Mesh(), Sharding(), 128 * GIB)
    assert "model state alone (parameters, gradients, optimizer; ZeRO-1) on one GPU, 58 GiB over" in str(
        shortfalls.error(None)
    )


def test_an_attempt_with_its_activations_tells_more_than_state_alone() -> None:
    shortfalls = _shortfalls()
    shortfalls.note_state(MESH, Sharding(), 71 * GIB)
    shortfalls.note(POINT, _lacks(80))
    assert "needs 80 GiB a GPU for pipeline stage 0" in str(shortfalls.error(None))


def test_the_way_out_is_what_was_checked() -> None:
    shortfalls = _shortfalls()
    shortfalls.note(POINT, _lacks(80))
    assert str(shortfalls.error(32)).endswith("a plan was found for 32 GPUs of this kind")
    assert str(shortfalls.error(None)).endswith(
        "GPUs with more memory, shorter sequences or a smaller model are needed"
    )


def test_pinned_choices_are_offered_to_be_freed() -> None:
    shortfalls = _shortfalls("pp=2")
    shortfalls.note(POINT, _lacks(80))
    for enough in (32, None):
        assert str(shortfalls.error(enough)).endswith("freeing pinned choices may do, too")


@pytest.mark.parametrize("reason", [None, TooFewLayers(num_layers=4, needed_layers=8)])
def test_where_nothing_is_legal_the_divisibility_is_explained(reason: TooFewLayers | None) -> None:
    shortfalls = _shortfalls()
    shortfalls.note(POINT, reason)
    text = str(shortfalls.error(None))
    assert text.startswith("no legal combination of degrees for 8 GPUs and a global batch of 8 sequences")
    assert "dp x micro-batch must divide the global batch" in text


@pytest.mark.parametrize("what", ["activations", "optimizer"])
def test_the_host_is_named_where_something_must_wait_there(what: str) -> None:
    assert f"of a node's host must hold what offload={what} puts there" in str(
        _shortfalls(f"offload={what}").error(None)
    )
    assert "host" not in str(_shortfalls("offload=none").error(None))
