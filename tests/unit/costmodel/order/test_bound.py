from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.bound import load_bound_s, pass_bound_s
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.overlap import OverlapLevel

Make = Callable[..., PassProblem]
NOTHING = (0.0, 0.0, 0.0, 0.0)
COSTLY = Interference(
    collective_sms=20, compute_slowdown=1.25, communication_slowdown=1.1, network_compute_slowdown=1.0
)


def test_computation_alone_is_its_own_bound(made_up_pass: Make) -> None:
    assert pass_bound_s(made_up_pass(("a", "gemm", ("x",), 2.0), ("b", "gemm", ("a",), 3.0))) == 5.0


def test_what_blocks_counts_in_full(made_up_pass: Make) -> None:
    lines = (("a", "gemm", ("x",), 2.0), ("gather", "tp gather", ("x",), 3.0))
    assert pass_bound_s(made_up_pass(*lines, level=OverlapLevel.NONE)) == 5.0
    assert pass_bound_s(made_up_pass(*lines)) == 3.0


def test_a_chain_is_exposed_but_for_what_is_apart_from_it(made_up_pass: Make) -> None:
    """Two exchanges of 4 s round a product, and a wgrad of 3 s that can hide only that much of them."""
    problem = made_up_pass(
        ("in", "sp exchange", ("x",), 4.0),
        ("product", "attention", ("in",), 10.0),
        ("out", "sp exchange", ("product",), 4.0),
        ("wgrad", "wgrad", ("y",), 3.0),
    )
    assert pass_bound_s(problem) == pytest.approx(10.0 + 8.0)
    longer = made_up_pass(
        ("in", "sp exchange", ("x",), 4.0),
        ("product", "attention", ("in",), 10.0),
        ("out", "sp exchange", ("product",), 4.0),
        ("wgrad", "wgrad", ("y",), 9.0),
    )
    assert pass_bound_s(longer) == pytest.approx(10.0 + 9.0)


def test_a_fused_kernel_hides_its_share(made_up_pass: Make) -> None:
    lines = (("gather", "tp gather", ("x",), 5.0), ("product", "gemm", ("gather",), 10.0))
    assert pass_bound_s(made_up_pass(*lines)) == pytest.approx(15.0)
    assert pass_bound_s(made_up_pass(*lines, level=OverlapLevel.FUSED)) == pytest.approx(11.0)


def test_hidden_communication_costs_computation(made_up_pass: Make) -> None:
    """Nothing needs to idle, and then 2 s of communication last 2.2 s, in which a fifth of computation is lost."""
    problem = made_up_pass(("gather", "tp gather", ("x",), 2.0), ("product", "gemm", ("x",), 10.0), interference=COSTLY)
    assert pass_bound_s(problem) == pytest.approx(10.0 + 0.2 * 2.2)


def test_what_a_chain_hides_costs_computation_however_long_it_idles(made_up_pass: Make) -> None:
    """3 s over the network stand idle; 1 s over NVLink hides for 1.1 s, in which a fifth of computation is lost."""
    problem = made_up_pass(
        ("send", "ep exchange, nodes", ("x",), 3.0),
        ("product", "gemm", ("send",), 2.0),
        ("out", "sp exchange", ("product",), 1.0),
        ("other", "gemm", ("send",), 5.0),
        interference=COSTLY,
    )
    assert pass_bound_s(problem) == pytest.approx(7.0 + 3.0 + 0.2 * 1.1)


@pytest.mark.parametrize(
    ("compute_s", "moved_s", "occupied_s", "idle_s", "expected"),
    [
        # All 2 s hide beside 10 s: loss 0.2 x stretch 1.1 x 2 s.
        (10.0, 2.0, 0.0, 0.0, 10.44),
        # Half a second is exposed anyway: 10 + 0.5 + 0.2 x 1.1 x 1.5.
        (10.0, 2.0, 0.0, 0.5, 10.83),
        # The link is the limit: with I idle it takes 1.1 (20 - I) + I, computation 10 + I + 0.22 (20 - I).
        (10.0, 20.0, 0.0, 0.0, 10.0 + (22.0 - 14.4) / 0.88 + 0.22 * (20.0 - (22.0 - 14.4) / 0.88)),
        # Fused kernels hold the link for 9 of the 10 s: 9 + 1.1 (5 - I) + I = 10 + I + 0.22 (5 - I) at I = 3.4 / 0.88.
        (10.0, 5.0, 9.0, 0.0, 11.1 + 0.78 * 3.4 / 0.88),
    ],
)
def test_load_by_hand(compute_s: float, moved_s: float, occupied_s: float, idle_s: float, expected: float) -> None:
    found = load_bound_s(
        compute_s,
        (0.0, moved_s, 0.0, 0.0),
        (0.0, occupied_s, 0.0, 0.0),
        idle_s,
        (0.0, 0.2, 0.0, 0.0),
        (1.0, 1.1, 1.0, 1.0),
    )
    assert found == pytest.approx(expected)


def test_where_hiding_costs_more_than_waiting_nothing_is_hidden() -> None:
    """A loss of 0.8 for 1.5 times as long: 2 s cost 2.4 s hidden and 2 s exposed."""
    assert load_bound_s(10.0, (0.0, 2.0, 0.0, 0.0), NOTHING, 0.0, (0.0, 0.8, 0.0, 0.0), (1.0, 1.5, 1.0, 1.0)) == 12.0
