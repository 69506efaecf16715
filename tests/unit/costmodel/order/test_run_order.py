"""Passes small enough to follow the clock by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.grouping import grouping_of
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order.run_order import Run, replay
from meshwright.costmodel.order.stream_use import stream_use
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.program.operators import Resource

Make = Callable[..., PassProblem]
COSTLY = Interference(
    collective_sms=20,
    compute_slowdown=1.25,  # computation loses a fifth of its speed beside NVLink
    communication_slowdown=1.1,
    network_compute_slowdown=1.0 / 0.9,  # and a tenth beside the network
    network_communication_slowdown=1.05,
)


def _run(problem: PassProblem, *names: str, fused: bool = False) -> Run:
    """The operators launched in this order; a fused kernel goes by its first operator."""
    grouping = grouping_of(problem, problem.pairs[:1] if fused else ())
    number_of = {problem.operators[members[0]].name: number for number, members in enumerate(grouping.groups)}
    return replay(problem, grouping, tuple(number_of[name] for name in names))


def test_computation_and_communication_slow_each_other(made_up_pass: Make) -> None:
    problem = made_up_pass(("gather", "tp gather", ("x",), 2.0), ("product", "gemm", ("x",), 10.0), interference=COSTLY)
    run = _run(problem, "gather", "product")
    # The gather lasts 2 x 1.1; the product does 0.8 x 2.2 of its 10 s meanwhile.
    assert run.end_s == pytest.approx([2.2, 2.2 + (10.0 - 0.8 * 2.2)])
    use = stream_use(problem, run)
    assert use.hidden_s[Resource.NVLINK] == pytest.approx(2.0)
    assert use.exposed_s[Resource.NVLINK] == 0.0
    assert use.slowdown_s == pytest.approx(0.2 * 2.2)


def test_what_outlasts_computation_runs_on_at_full_speed(made_up_pass: Make) -> None:
    problem = made_up_pass(("gather", "tp gather", ("x",), 10.0), ("product", "gemm", ("x",), 4.0), interference=COSTLY)
    run = _run(problem, "gather", "product")
    # The product lasts 4 / 0.8 = 5 s; 5 / 1.1 s of the gather are done then.
    assert run.total_s == pytest.approx(5.0 + 10.0 - 5.0 / 1.1)
    use = stream_use(problem, run)
    assert use.exposed_s[Resource.NVLINK] == pytest.approx(10.0 - 5.0 / 1.1)
    assert use.hidden_s[Resource.NVLINK] == pytest.approx(5.0 / 1.1)
    assert use.slowdown_s == pytest.approx(1.0)


def test_two_links_at_once_slow_computation_together(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("gather", "tp gather", ("x",), 2.0),
        ("dispatch", "ep exchange, nodes", ("x",), 4.0),
        ("product", "gemm", ("x",), 10.0),
        interference=COSTLY,
    )
    run = _run(problem, "gather", "dispatch", "product")
    # To 2.2: 0.7 of its speed; to 4.2, when the dispatch ends: 0.9.
    left_s = 10.0 - 0.7 * 2.2 - 0.9 * 2.0
    assert run.end_s == pytest.approx([2.2, 4.2, 4.2 + left_s])
    use = stream_use(problem, run)
    assert use.slowdown_s == pytest.approx(run.total_s - 10.0)
    assert use.hidden_s == pytest.approx(
        {Resource.COMPUTE: 0.0, Resource.NVLINK: 2.0, Resource.NETWORK: 4.0, Resource.COPY_ENGINE: 0.0}
    )


def test_links_share_the_time_in_which_nothing_computes(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("gather", "tp gather", ("x",), 2.0),
        ("dispatch", "ep exchange, nodes", ("x",), 5.0),
        ("product", "gemm", ("gather", "dispatch"), 1.0),
        interference=COSTLY,
    )
    run = _run(problem, "gather", "dispatch", "product")
    assert run.total_s == pytest.approx(6.0)
    use = stream_use(problem, run)
    assert use.exposed_s[Resource.NVLINK] == pytest.approx(1.0)
    assert use.exposed_s[Resource.NETWORK] == pytest.approx(1.0 + 3.0)
    assert use.hidden_s[Resource.NVLINK] + use.hidden_s[Resource.NETWORK] == pytest.approx(1.0 + 1.0)
    assert use.slowdown_s == 0.0


def test_copies_are_exposed_only_where_nothing_else_is(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("offload", "copy", (), 6.0), ("gather", "tp gather", ("x",), 2.0), ("product", "gemm", ("gather",), 1.0)
    )
    run = _run(problem, "offload", "gather", "product")
    assert run.total_s == pytest.approx(6.0)
    use = stream_use(problem, run)
    assert use.exposed_s[Resource.NVLINK] == pytest.approx(2.0)
    assert use.exposed_s[Resource.COPY_ENGINE] == pytest.approx(3.0)
    assert use.hidden_s[Resource.COPY_ENGINE] == pytest.approx(3.0)


def test_computation_beside_a_copy_is_slower(made_up_pass: Make) -> None:
    """5 of 10 s of computation run beside 6.25 s of the copy, at 80 % of their speed; the copy is as fast as ever."""
    problem = made_up_pass(
        ("offload", "copy", (), 6.25), ("first", "gemm", ("x",), 5.0), ("second", "gemm", ("x",), 5.0), copying_loss=0.2
    )
    run = _run(problem, "offload", "first", "second")
    assert run.total_s == pytest.approx(11.25)
    assert stream_use(problem, run).slowdown_s == pytest.approx(1.25)


def test_blocking_communication_takes_its_turn(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("gather", "tp gather", ("x",), 2.0),
        ("product", "gemm", ("x",), 10.0),
        level=OverlapLevel.NONE,
        interference=COSTLY,
    )
    run = _run(problem, "gather", "product")
    assert run.total_s == 12.0
    use = stream_use(problem, run)
    assert (use.exposed_s[Resource.NVLINK], use.hidden_s[Resource.NVLINK], use.slowdown_s) == (2.0, 0.0, 0.0)


def test_a_stream_runs_its_launches_first_come_first_served(made_up_pass: Make) -> None:
    """The second gather could start at once, but is launched behind one that waits."""
    problem = made_up_pass(
        ("product", "gemm", ("x",), 3.0), ("late", "tp gather", ("product",), 1.0), ("early", "tp gather", ("x",), 1.0)
    )
    assert _run(problem, "product", "late", "early").start_s == [0.0, 3.0, 4.0]
    assert _run(problem, "product", "early", "late").start_s == [0.0, 3.0, 0.0]


def test_a_fused_kernel_occupies_both_streams(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("scatter", "tp scatter", ("x",), 3.0),
        ("gather", "tp gather", ("x",), 5.0),
        ("product", "gemm", ("gather",), 10.0),
        ("apart", "wgrad", ("x",), 2.0),
        level=OverlapLevel.FUSED,
        interference=COSTLY,
    )
    run = _run(problem, "gather", "apart", "scatter", fused=True)
    kernel_s = 10.0 + 1.0 + 0.2 * 1.1 * 4.0
    # The scatter needs the kernel's link, the wgrad its compute stream; then they slow each other.
    assert run.grouping.groups == ((0,), (1, 2), (3,))
    assert run.start_s == pytest.approx([kernel_s, 0.0, kernel_s])
    beside_s = 2.0 / 0.8
    assert run.total_s == pytest.approx(kernel_s + beside_s + 3.0 - beside_s / 1.1)
    use = stream_use(problem, run)
    assert use.hidden_s[Resource.NVLINK] == pytest.approx(4.0 + beside_s / 1.1)
    assert use.exposed_s[Resource.NVLINK] == pytest.approx(1.0 + 3.0 - beside_s / 1.1)
    assert use.slowdown_s == pytest.approx(0.88 + 0.5)
    assert 12.0 + use.exposed_s[Resource.NVLINK] + use.slowdown_s == pytest.approx(run.total_s)


def test_a_fused_kernel_is_slowed_by_other_links(made_up_pass: Make) -> None:
    problem = made_up_pass(
        ("dispatch", "ep exchange, nodes", ("x",), 2.0),
        ("gather", "tp gather", ("x",), 5.0),
        ("product", "gemm", ("gather",), 10.0),
        level=OverlapLevel.FUSED,
        interference=COSTLY,
    )
    run = _run(problem, "dispatch", "gather", fused=True)
    # The dispatch lasts 2.1 s, in which the kernel loses a tenth.
    assert run.total_s == pytest.approx(11.88 + 0.1 * 2.1)
