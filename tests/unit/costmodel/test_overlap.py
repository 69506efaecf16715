from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.overlap import Hiding, LayerOverlap, OverlapLevel, hide_communication
from meshwright.costmodel.program.operators import (
    Axis,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
)

NODE, NETWORK = Group(size=8, ranks_per_node=8), Group(size=8, ranks_per_node=1)
HARMLESS = Interference(
    collective_sms=0, compute_slowdown=1.0, communication_slowdown=1.0, network_compute_slowdown=1.0
)
COSTLY = Interference(
    collective_sms=20,
    compute_slowdown=1.25,
    communication_slowdown=1.1,
    network_compute_slowdown=1.1,
    network_communication_slowdown=1.0,
)


def _product(name: str, reads: str, writes: str) -> Operator:
    work = GemmWork(m=1, n=1, k=1)
    return Operator(name=name, module="m", phase=Pass.FORWARD, work=work, reads=(reads,), writes=(writes,))


def _memory_bound(name: str, reads: str, writes: str) -> Operator:
    work = MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1.0, write_bytes=1.0)
    return Operator(name=name, module="m", phase=Pass.FORWARD, work=work, reads=(reads,), writes=(writes,))


def _gather(name: str, reads: str, writes: str, group: Group = NODE, axis: Axis = Axis.TENSOR) -> Operator:
    work = CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=1.0, group=group)
    return Operator(name=name, module="m", phase=Pass.FORWARD, work=work, reads=(reads,), writes=(writes,), axis=axis)


def _chain(group: Group = NODE) -> tuple[Operator, ...]:
    """before -> gather -> after, and one product that has nothing to do with it."""
    return (
        _product("before", "a", "b"),
        _gather("gather", "b", "c", group),
        _product("after", "c", "d"),
        _product("apart", "a", "e"),
    )


def _hide(
    operators: tuple[Operator, ...],
    time_s: dict[str, float],
    level: OverlapLevel,
    interference: Interference = HARMLESS,
    fused_share: float = 0.8,
) -> Hiding:
    return hide_communication(operators, time_s, LayerOverlap(tensor=level, fused_share=fused_share), interference)


SECONDS = {"before": 1.0, "gather": 10.0, "after": 2.0, "apart": 3.0}


@pytest.mark.parametrize(
    ("level", "group", "hidden_s"),
    [
        (OverlapLevel.NONE, NODE, 0.0),
        (OverlapLevel.INTER_OPERATOR, NODE, 3.0),  # only the product apart from it
        (OverlapLevel.FUSED, NODE, 6.0),  # also its neighbours
        (OverlapLevel.FUSED, NETWORK, 3.0),  # fused kernels reach no other node
        (OverlapLevel.INTER_BATCH, NODE, 6.0),
        (OverlapLevel.INTER_BATCH, NETWORK, 6.0),
    ],
)
def test_each_level_hides_under_what_it_may(level: OverlapLevel, group: Group, hidden_s: float) -> None:
    hiding = _hide(_chain(group), SECONDS, level)
    assert dict(hiding.hidden_s) == pytest.approx({"gather": hidden_s})
    assert dict(hiding.exposed_s) == pytest.approx({"gather": 10.0 - hidden_s})
    assert hiding.slowdown_s == 0.0


def test_a_fused_kernel_leaves_a_part_exposed() -> None:
    short = SECONDS | {"gather": 1.0}
    assert dict(_hide(_chain(), short, OverlapLevel.FUSED, fused_share=0.8).exposed_s) == pytest.approx({"gather": 0.2})
    assert _hide(_chain(), short, OverlapLevel.INTER_OPERATOR).exposed_s == (("gather", 0.0),)


def test_fused_neighbours_are_reached_through_memory_bound_operators_but_these_lend_nothing() -> None:
    operators = (
        _product("far", "z", "y"),
        _product("before", "y", "a"),
        _memory_bound("norm", "a", "b"),
        _gather("gather", "b", "c"),
    )
    seconds = {"far": 5.0, "before": 1.0, "norm": 2.0, "gather": 10.0}
    assert _hide(operators, seconds, OverlapLevel.FUSED).hidden_s == (("gather", 1.0),)


def test_a_second_of_computation_is_lent_once() -> None:
    operators = (_gather("one", "b", "c"), _gather("two", "d", "e"), _product("apart", "a", "f"))
    hiding = _hide(operators, {"one": 2.0, "two": 2.0, "apart": 3.0}, OverlapLevel.INTER_OPERATOR)
    assert hiding.hidden_s == (("one", 2.0), ("two", 1.0))
    assert hiding.exposed_s == (("one", 0.0), ("two", 1.0))


def test_axes_have_levels_of_their_own() -> None:
    operators = (_gather("tensor", "b", "c"), _gather("expert", "d", "e", axis=Axis.EXPERT), _product("p", "a", "f"))
    policy = LayerOverlap(expert=OverlapLevel.INTER_OPERATOR)
    hiding = hide_communication(operators, {"tensor": 1.0, "expert": 1.0, "p": 5.0}, policy, HARMLESS)
    assert hiding.hidden_s == (("tensor", 0.0), ("expert", 1.0))


def test_interference_lengthens_the_window_and_slows_the_computation_in_it() -> None:
    # 2 s of communication take 2.2 s beside computation, which does 2.2 / 1.25 s of work in them.
    hiding = _hide(_chain(), SECONDS | {"gather": 2.0, "apart": 100.0}, OverlapLevel.INTER_OPERATOR, COSTLY)
    assert dict(hiding.exposed_s) == pytest.approx({"gather": 0.0})
    assert hiding.slowdown_s == pytest.approx(2.2 - 2.2 / 1.25)


def test_too_little_computation_hides_in_proportion() -> None:
    # 3 s of work lent take 3 x 1.25 s, in which 3 x 1.25 / 1.1 s of communication get done.
    hiding = _hide(_chain(), SECONDS, OverlapLevel.INTER_OPERATOR, COSTLY)
    (_, hidden_s), (_, exposed_s) = hiding.hidden_s[0], hiding.exposed_s[0]
    assert hidden_s == pytest.approx(3.0 * 1.25 / 1.1)
    assert exposed_s == pytest.approx(10.0 - hidden_s)
    assert hiding.slowdown_s == pytest.approx(3.0 * 0.25)


def test_the_network_interferes_in_its_own_way() -> None:
    seconds = SECONDS | {"gather": 2.0, "apart": 100.0}
    hiding = _hide(_chain(NETWORK), seconds, OverlapLevel.INTER_OPERATOR, COSTLY)
    assert hiding.slowdown_s == pytest.approx(2.0 - 2.0 / 1.1)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(InputError, match="fused_share"):
        LayerOverlap(fused_share=share)
