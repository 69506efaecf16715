from __future__ import annotations

import pytest

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order_memory import RESERVE, order_memory
from meshwright.costmodel.program.operators import GemmWork, Operator, Pass, Tensor
from meshwright.costmodel.program.program import LayerProgram, Weights
from meshwright.costmodel.strategy import Recompute


def _op(name: str, reads: tuple[str, ...], writes: tuple[str, ...], phase: Pass = Pass.FORWARD) -> Operator:
    return Operator(name=name, module="ffn", phase=phase, work=GemmWork(m=1, n=1, k=1), reads=reads, writes=writes)


@pytest.fixture
def program() -> LayerProgram:
    """Two products in a row, 10 and 100 bytes wide, with the weight gradient of each behind its dgrad."""
    return LayerProgram(
        forward=(_op("fc1", ("hidden",), ("middle",)), _op("fc2", ("middle",), ("next_hidden",))),
        backward=(
            _op("fc2.dgrad", ("grad:next_hidden",), ("grad:middle",), Pass.DGRAD),
            _op("fc2.wgrad", ("middle", "grad:next_hidden"), (), Pass.WGRAD),
            _op("fc1.dgrad", ("grad:middle",), ("grad:hidden",), Pass.DGRAD),
            _op("fc1.wgrad", ("hidden", "grad:middle"), (), Pass.WGRAD),
        ),
        tensors=tuple(
            Tensor(name=name, num_bytes=size) for name, size in (("hidden", 10), ("middle", 100), ("next_hidden", 10))
        ),
        auxiliary=(),
        weights=Weights(),
        output="next_hidden",
    )


def test_program_order_and_others_by_hand(program: LayerProgram) -> None:
    """`hidden` and `middle` are kept. At most grad:next_hidden 10, grad:middle 100 and, where the first wgrad waits,
    grad:hidden 10 are alive together."""
    memory = order_memory(program, Recompute.NONE, PassKind.BACKWARD)
    assert memory.bytes_of((0, 1, 2, 3)) == 110
    assert memory.bytes_of((0, 2, 3, 1)) == 120
    assert memory.reserved_bytes == RESERVE * 110
    assert memory.fits((0, 2, 3, 1))


def test_what_takes_more_than_the_reserve_does_not_fit(program: LayerProgram) -> None:
    wide = LayerProgram(
        forward=program.forward,
        backward=(
            _op("a", ("grad:next_hidden",), ("grad:middle",), Pass.DGRAD),
            _op("a.end", ("grad:middle",), (), Pass.WGRAD),
            _op("b", ("grad:next_hidden",), ("grad:wide",), Pass.DGRAD),
            _op("b.end", ("grad:wide",), (), Pass.WGRAD),
            _op("c", ("grad:next_hidden",), ("grad:last",), Pass.DGRAD),
            _op("c.end", ("grad:last",), (), Pass.WGRAD),
        ),
        tensors=(*program.tensors, Tensor(name="wide", num_bytes=100), Tensor(name="last", num_bytes=100)),
        auxiliary=(),
        weights=Weights(),
        output="next_hidden",
    )
    memory = order_memory(wide, Recompute.NONE, PassKind.BACKWARD)
    assert memory.bytes_of((0, 1, 2, 3, 4, 5)) == 110
    assert memory.bytes_of((0, 2, 4, 1, 3, 5)) == 310 > memory.reserved_bytes
    assert memory.fits((0, 1, 2, 3, 4, 5))
    assert not memory.fits((0, 2, 4, 1, 3, 5))


def test_two_micro_batches_reserve_for_both(program: LayerProgram) -> None:
    reserved = {
        kind: order_memory(program, Recompute.FULL, kind).reserved_bytes
        for kind in (PassKind.FORWARD, PassKind.BACKWARD, PassKind.JOINT)
    }
    assert reserved[PassKind.JOINT] == reserved[PassKind.FORWARD] + reserved[PassKind.BACKWARD]
    memory = order_memory(program, Recompute.FULL, PassKind.JOINT)
    assert memory.operators == pass_operators(program, Recompute.FULL, PassKind.JOINT)
    assert memory.fits(range(len(memory.operators)))
