"""Recompute plans of a program small enough to follow by hand.

hidden -norm-> x -gather-> x_ag -up-> u -activate-> a -down-> y -residual2-> out
"""

from __future__ import annotations

import pytest

from meshwright.costmodel.program.operators import BESIDE, GemmWork, Operator, Pass, Tensor
from meshwright.costmodel.program.program import LayerProgram, Weights, with_prefix
from meshwright.costmodel.program.recompute import plan_backward, transient_bytes
from meshwright.costmodel.strategy import Recompute

SIZES = {"hidden": 1, "ln2_out": 2, "ln2_out_ag": 40, "fc1_out": 100, "fc2_in": 300, "ffn_out": 5, "next_hidden": 1}


def _op(name: str, reads: tuple[str, ...], writes: tuple[str, ...], phase: Pass = Pass.FORWARD) -> Operator:
    work = GemmWork(m=1, n=1, k=1)
    return Operator(name=name, module="ffn", phase=phase, work=work, reads=reads, writes=writes)


def _program() -> LayerProgram:
    forward = (
        _op("norm2", ("hidden",), ("ln2_out",)),
        _op("gather", ("ln2_out",), ("ln2_out_ag",)),
        _op("fc1", ("ln2_out_ag",), ("fc1_out",)),
        _op("activation", ("fc1_out",), ("fc2_in",)),
        _op("fc2", ("fc2_in",), ("ffn_out",)),
        _op("residual2", ("hidden", "ffn_out"), ("next_hidden",)),
    )
    backward = (
        _op("fc2.dgrad", ("grad:next_hidden",), ("grad:fc2_in",), Pass.DGRAD),
        _op("fc2.wgrad", ("fc2_in", "grad:next_hidden"), (), Pass.WGRAD),
        _op("activation.backward", ("fc1_out", "grad:fc2_in"), ("grad:fc1_out",), Pass.DGRAD),
        _op("fc1.dgrad", ("grad:fc1_out",), ("grad:ln2_out",), Pass.DGRAD),
        _op("fc1.wgrad", ("ln2_out_ag", "grad:fc1_out"), (), Pass.WGRAD),
        _op("norm2.backward", ("hidden", "grad:ln2_out", "grad:next_hidden"), ("grad:hidden",), Pass.DGRAD),
    )
    tensors = tuple(Tensor(name=name, num_bytes=size) for name, size in SIZES.items())
    return LayerProgram(
        forward=forward, backward=backward, tensors=tensors, auxiliary=(), weights=Weights(), output="next_hidden"
    )


@pytest.mark.parametrize(
    ("policy", "kept", "rerun"),
    [
        (Recompute.NONE, {"hidden", "ln2_out", "fc1_out", "fc2_in"}, ["gather"]),
        (Recompute.ACTIVATION, {"hidden", "ln2_out", "fc1_out"}, ["gather", "activation"]),
        (Recompute.NORM_ACTIVATION, {"hidden", "fc1_out"}, ["norm2", "gather", "activation"]),
        (Recompute.SELECTIVE, {"hidden", "fc1_out"}, ["norm2", "gather", "activation"]),
        (Recompute.CORE_ATTENTION, {"hidden", "ln2_out", "fc1_out", "fc2_in"}, ["gather"]),
        (Recompute.FFN, {"hidden"}, ["norm2", "gather", "fc1", "activation", "fc2"]),
        (Recompute.FULL, {"hidden"}, ["norm2", "gather", "fc1", "activation", "fc2"]),
    ],
)
def test_what_is_kept_and_what_runs_again(policy: Recompute, kept: set[str], rerun: list[str]) -> None:
    plan = plan_backward(_program(), policy)
    assert plan.kept == kept
    assert [op.name for op in plan.recomputed] == rerun
    assert plan.kept_bytes == sum(SIZES[name] for name in kept)


def _passing_bytes(program: LayerProgram, policy: Recompute) -> float:
    """Of the backward in program order, recomputation first."""
    plan = plan_backward(program, policy)
    return transient_bytes(program, plan, (*plan.recomputed, *program.backward))


def test_passing_bytes_with_everything_kept() -> None:
    """Most at activation.backward: the gathered copy (needed by fc1.wgrad), both gradients around the activation, and
    the output's gradient, which the norm's backward still adds."""
    assert _passing_bytes(_program(), Recompute.NONE) == 40 + 300 + 100 + 1


def test_passing_bytes_with_nothing_kept() -> None:
    """Most at fc2.wgrad, the gradient of fc2_in written: its input, and what later steps read, have been regained."""
    assert _passing_bytes(_program(), Recompute.FULL) == 40 + 100 + 300 + 300 + 1


def test_a_prefix_renames_every_operator_and_tensor() -> None:
    program = with_prefix(_program(), "mtp1.")
    assert program.forward[1].reads == ("mtp1.ln2_out",)
    assert program.backward[0].writes == ("grad:mtp1.fc2_in",)
    assert program.output == "mtp1.next_hidden"
    plan, plain = plan_backward(program, Recompute.ACTIVATION), plan_backward(_program(), Recompute.ACTIVATION)
    assert plan.kept == {f"mtp1.{name}" for name in plain.kept}
    assert _passing_bytes(program, Recompute.ACTIVATION) == _passing_bytes(_program(), Recompute.ACTIVATION)


def test_passing_bytes_of_the_forward() -> None:
    """Most at fc2: the activation's output, which is regained later and so only passes, and the product's own output.
    The gathered copy is gone by then; what is kept does not count."""
    program = _program()
    plan = plan_backward(program, Recompute.ACTIVATION)
    assert plan.kept == {"hidden", "ln2_out", "fc1_out"}
    assert transient_bytes(program, plan, program.forward) == 300 + 5


def test_a_wgrad_that_waits_holds_what_it_reads() -> None:
    """With both weight gradients last most is alive at activation.backward: the gathered copy, the gradients around the
    activation and that of the output. Gathered behind it, the copy is not there yet."""
    program = _program()
    plan = plan_backward(program, Recompute.NONE)
    wgrads = tuple(op for op in program.backward if op.phase is Pass.WGRAD)
    others = tuple(op for op in program.backward if op.phase is not Pass.WGRAD)
    assert transient_bytes(program, plan, (*plan.recomputed, *others, *wgrads)) == 40 + 300 + 100 + 1
    assert transient_bytes(program, plan, (*others, *plan.recomputed, *wgrads)) == 300 + 100 + 1


def test_a_forward_beside_a_backward_holds_its_own_tensors() -> None:
    """Two micro-batches: what is kept of either does not count, and the other's tensors have their own bytes."""
    program = _program()
    plan = plan_backward(program, Recompute.NONE)
    beside = with_prefix(program, BESIDE).forward
    backward = (*plan.recomputed, *program.backward)
    assert transient_bytes(program, plan, beside) == transient_bytes(program, plan, program.forward) == 40
    # The whole backward runs while the forward has its gathered copy.
    pausing = (*beside[:2], *backward, *beside[2:])
    assert transient_bytes(program, plan, pausing) == 40 + _passing_bytes(program, Recompute.NONE)
