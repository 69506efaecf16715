"""Recompute plans of a program small enough to follow by hand.

hidden -norm-> x -gather-> x_ag -up-> u -activate-> a -down-> y -residual2-> out
"""

from __future__ import annotations

import pytest

from meshwright.costmodel.program.operators import GemmWork, Operator, Pass, Tensor
from meshwright.costmodel.program.program import LayerProgram, Weights, with_prefix
from meshwright.costmodel.program.recompute import plan_backward
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


def test_passing_bytes_with_everything_kept() -> None:
    """Most at activation.backward: the gathered copy (needed by fc1.wgrad), both gradients around the activation, and
    the output's gradient, which the norm's backward still adds."""
    assert plan_backward(_program(), Recompute.NONE).transient_bytes == 40 + 300 + 100 + 1


def test_passing_bytes_with_nothing_kept() -> None:
    """Most at fc2.wgrad, the gradient of fc2_in written: its input, and what later steps read, have been regained."""
    assert plan_backward(_program(), Recompute.FULL).transient_bytes == 40 + 100 + 300 + 300 + 1


def test_a_prefix_renames_every_operator_and_tensor() -> None:
    program = with_prefix(_program(), "mtp1.")
    assert program.forward[1].reads == ("mtp1.ln2_out",)
    assert program.backward[0].writes == ("grad:mtp1.fc2_in",)
    assert program.output == "mtp1.next_hidden"
    plan, plain = plan_backward(program, Recompute.ACTIVATION), plan_backward(_program(), Recompute.ACTIVATION)
    assert plan.kept == {f"mtp1.{name}" for name in plain.kept}
    assert plan.transient_bytes == plain.transient_bytes
