from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.pass_problem import NO_LINK, STREAMS, PassProblem
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.program.operators import Resource

Make = Callable[..., PassProblem]
COSTLY = Interference(
    collective_sms=20,
    compute_slowdown=1.25,
    communication_slowdown=1.1,
    network_compute_slowdown=1.1,
    network_communication_slowdown=1.05,
)


def test_communication_has_a_stream_only_where_it_overlaps(made_up_pass: Make) -> None:
    lines = (
        ("product", "gemm", ("x",), 1.0),
        ("gather", "tp gather", ("product",), 1.0),
        ("dispatch", "ep exchange, nodes", ("product",), 1.0),
        ("offload", "copy", (), 1.0),
    )
    nvlink, network, copies = (
        STREAMS.index(link) for link in (Resource.NVLINK, Resource.NETWORK, Resource.COPY_ENGINE)
    )
    assert made_up_pass(*lines).link == (NO_LINK, nvlink, network, copies)
    blocking = made_up_pass(*lines, level=OverlapLevel.NONE)
    assert blocking.link == (NO_LINK, NO_LINK, NO_LINK, copies), "copies always have their engine"
    assert blocking.shape.is_compute == (True, False, False, False)


def test_rates_follow_from_the_profile(made_up_pass: Make) -> None:
    problem = made_up_pass(("gather", "tp gather", ("x",), 1.0), interference=COSTLY)
    assert problem.loss == pytest.approx((0.0, 0.2, 1.0 - 1.0 / 1.1, 0.0))
    assert problem.stretch == (1.0, 1.1, 1.05, 1.0)
    assert problem.num_sms == (0, 20, 9, 0), "the share of its SMs that the network costs: (1 - 1 / 1.1) / 0.2"


def test_copies_take_of_the_speed_that_collectives_leave(made_up_pass: Make) -> None:
    problem = made_up_pass(("offload", "copy", (), 1.0), interference=COSTLY, copying_loss=0.1)
    left = 1.0 - 0.2 - (1.0 - 1.0 / 1.1)
    assert problem.loss[STREAMS.index(Resource.COPY_ENGINE)] == pytest.approx(0.1 * left)


def test_an_operator_waits_for_all_that_write_what_it_reads(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("a", "gemm", ("x",), 1.0),
        ("b", "gemm", ("x",), 1.0),
        ("sum", "memory", ("a", "b", "a"), 1.0),
        ("alone", "wgrad", ("x",), 1.0),
        ("end", "memory", ("sum",), 1.0),
    )
    assert problem.shape.before == ((), (), (0, 1), (), (2,))
    assert problem.shape.apart == (0b01010, 0b01001, 0b01000, 0b10111, 0b01000)


def test_what_may_cover_a_communication(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("before", "gemm", ("x",), 1.0),
        ("scatter", "tp scatter", ("before",), 1.0),
        ("apart", "wgrad", ("x",), 1.0),
        ("gather", "tp gather", ("scatter",), 1.0),
        ("after", "gemm", ("gather",), 1.0),
        level=OverlapLevel.FUSED,
    )
    first, second = problem.shape.communications
    assert (first.index, second.index) == (1, 3)
    assert (first.beside, second.beside) == (0b00100, 0b00100)
    assert (first.cover, second.cover) == (0b00101, 0b10100), "and the products that they can be fused with"
    assert (first.follows, second.follows) == ((), (0,))


def test_interference_that_stops_computation_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"interference.compute_slowdown: 0.9 is not a factor of 1 or more"):
        Interference(collective_sms=0, compute_slowdown=0.9, communication_slowdown=1.0)
    with pytest.raises(ProfileError, match=r"network_compute_slowdown: 2.0 beside compute_slowdown 2.0 stops compute"):
        Interference(collective_sms=0, compute_slowdown=2.0, communication_slowdown=1.0, network_compute_slowdown=2.0)
