"""What is timed: operations on the table's shapes, what each must move, what it is measured against, what to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from meshwright.costmodel.model import RouterScore
from meshwright.costmodel.value import Value
from meshwright.kernels.checking import baselines
from meshwright.kernels.checking.shapes import MODELS, MoeShape, moe_shape
from meshwright.kernels.index import contract as index_contract
from meshwright.kernels.index.contract import RowMap, moved_bytes
from meshwright.kernels.index.operator import index
from meshwright.kernels.index.reference import index_reference
from meshwright.kernels.permute.contract import permute_bytes, weighted_backward_bytes
from meshwright.kernels.permute.operator import permute, permute_backward, unpermute, unpermute_backward
from meshwright.kernels.regroup.contract import moved_bytes as regroup_bytes
from meshwright.kernels.regroup.operator import regroup
from meshwright.kernels.route.contract import RouteOptions, backward_bytes, forward_bytes
from meshwright.kernels.route.operator import route, route_backward
from meshwright.kernels.swiglu import contract as swiglu_contract
from meshwright.kernels.swiglu.operator import swiglu, swiglu_backward
from meshwright.kernels.swiglu_fp8 import contract as fp8_contract
from meshwright.kernels.swiglu_fp8.operator import swiglu_fp8

Function = Callable[..., object]
Compile = Callable[[Function], Function]
BFLOAT16_BYTES: Final = 2
RANKS: Final = 2
"""That send rows to one another."""


class Target(Value, frozen=True, kw_only=True):
    """What to reach; 0 where nothing is asked. share: of the copy bandwidth. ratio: baseline's time over ours.

    against: the baseline that `ratio` is about; the fastest where empty.
    """

    share: float = 0.0
    ratio: float = 0.0
    most_s: float = 0.0
    against: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One operation on one shape. `make` draws a set of inputs, `run` and the baselines take it.

    num_bytes: what must move. baselines: each is given `torch.compile` (as it is to be called) and returns what runs.
    waits: baselines that wait for the device.
    """

    kernel: str
    what: str
    shape: str
    num_bytes: int
    make: Callable[[], tuple[object, ...]]
    run: Function
    baselines: Mapping[str, Callable[[Compile], Function]]
    target: Target = field(default_factory=Target)
    waits: frozenset[str] = frozenset()


def subjects(device: torch.device, models: tuple[str, ...] = MODELS) -> Iterator[Subject]:
    """Everything that is timed, what the targets name first."""
    shapes = [moe_shape(model) for model in models]
    yield from _route_subjects(device)
    for shape in shapes:
        yield _index_subject(shape, device)
    for shape in shapes[:1]:
        yield _regroup_subject(shape, device)
        yield from _arrived_subjects(shape, device)
    for shape in shapes:
        yield from _permute_subjects(shape, device)
        yield from _swiglu_subjects(shape, device)


# Routing.


def _route_subjects(device: torch.device) -> Iterator[Subject]:
    deepseek, qwen = moe_shape("deepseek-v3"), moe_shape("qwen3-30b-a3b")
    plain = RouteOptions(top_k=8)
    yield _route_subject("65536 tokens, 256 experts", 65_536, 256, plain, False, device, Target(share=0.6))
    yield _route_subject("8192 tokens, 128 experts", qwen.tokens, 128, qwen.options, False, device, Target(ratio=2.0))
    yield _route_subject("deepseek-v3", deepseek.tokens, 256, deepseek.options, deepseek.biased, device, Target())
    yield _route_backward_subject("65536 tokens, 256 experts", 65_536, 256, plain, device, Target(share=0.6))
    yield _route_backward_subject("8192 tokens, 128 experts", qwen.tokens, 128, qwen.options, device, Target(ratio=2.0))


def _route_subject(
    name: str, tokens: int, experts: int, options: RouteOptions, biased: bool, device: torch.device, target: Target
) -> Subject:
    bias = 0.1 * torch.randn(experts, device=device) if biased else None
    return Subject(
        kernel="route",
        what="route",
        shape=name,
        num_bytes=forward_bytes(tokens, experts, options.top_k),
        make=lambda: (torch.randn(tokens, experts, device=device),),
        run=lambda logits: route(logits, options, bias),
        baselines={
            "compiled": lambda compile_: _with(compile_(baselines.route), bias, options),
            "eager": lambda _: _with(baselines.route, bias, options),
        },
        target=target,
    )


def _with(function: Function, *more: object) -> Function:
    """The function with further arguments behind those of a set."""
    return lambda *given: function(*given, *more)


def _route_backward_subject(
    name: str, tokens: int, experts: int, options: RouteOptions, device: torch.device, target: Target
) -> Subject:
    def make() -> tuple[object, ...]:
        logits = torch.randn(tokens, experts, device=device)
        best = logits.topk(options.top_k)
        chosen, weights = best.indices.to(torch.int32), best.values.softmax(-1)
        return logits, chosen, weights, torch.randn(tokens, options.top_k, device=device)

    return Subject(
        kernel="route",
        what="route backward",
        shape=name,
        num_bytes=backward_bytes(
            tokens,
            experts,
            options.top_k,
            reads_logits=options.score is RouterScore.SOFTMAX and not options.normalize,
        ),
        make=make,
        run=_with(route_backward, None, options),
        baselines={"compiled": lambda compile_: compile_(baselines.route_backward)},
        target=target,
    )


# The maps.


def _random_experts(shape: MoeShape, device: torch.device) -> Tensor:
    return torch.rand(shape.tokens, shape.experts, device=device).topk(shape.top_k).indices.to(torch.int32)


def _index_subject(shape: MoeShape, device: torch.device) -> Subject:
    is_large = shape.slots == 65_536
    return Subject(
        kernel="index",
        what="index",
        shape=f"{shape.model}, {shape.slots} rows",
        num_bytes=moved_bytes(shape.slots, shape.slots, shape.experts),
        make=lambda: (_random_experts(shape, device),),
        run=lambda experts: index(experts, shape.experts),
        baselines={
            "argsort, bincount, cumsum": lambda _: _with(baselines.index, shape.experts),
            "sort, searchsorted": lambda _: _with(baselines.index_without_wait, shape.experts),
        },
        target=Target(most_s=10e-6 if is_large else 0.0, ratio=5.0),
        waits=frozenset({"argsort, bincount, cumsum"}),
    )


# Rows that other ranks sent: half of the experts are here, and half of each rank's rows come.


def _arriving(shape: MoeShape, device: torch.device) -> Tensor:
    """Rows from each of two ranks for each expert here, as chance would have it; they add up to `slots` exactly."""
    here = shape.experts // RANKS
    numbers = torch.randint(here, (RANKS, shape.slots // RANKS), device=device)
    return torch.stack([torch.bincount(of_source, minlength=here) for of_source in numbers]).to(torch.int32)


def _regroup_subject(shape: MoeShape, device: torch.device) -> Subject:
    return Subject(
        kernel="regroup",
        what="regroup",
        shape=f"{shape.model}, {shape.slots} rows of {RANKS} ranks",
        num_bytes=regroup_bytes(shape.slots, RANKS, shape.experts // RANKS),
        make=lambda: (_arriving(shape, device),),
        run=lambda counts: regroup(counts, shape.slots),
        baselines={"repeat, sort, searchsorted": lambda _: _with(baselines.regroup, shape.slots)},
        target=Target(most_s=10e-6, ratio=5.0),
    )


def _arrived_subjects(shape: MoeShape, device: torch.device) -> Iterator[Subject]:
    """Sorting the rows themselves, one choice each, and back."""
    rowmap = regroup(_arriving(shape, device), shape.slots)
    num_bytes = permute_bytes(shape.slots, shape.slots, BFLOAT16_BYTES * shape.hidden)

    def make() -> tuple[object, ...]:
        rows = torch.randn(shape.slots, shape.hidden, device=device, dtype=torch.bfloat16)
        return rows, torch.rand(shape.slots, 1, device=device)

    yield Subject(
        kernel="permute",
        what="permute",
        shape=f"{shape.model}, arrived rows",
        num_bytes=num_bytes,
        make=make,
        run=lambda rows, gates: permute(rows, rowmap, gates),
        baselines={"index_select": lambda _: _with(baselines.picked, rowmap.slots_P.long())},
        target=Target(share=0.88),
    )
    yield Subject(
        kernel="permute",
        what="permute backward",
        shape=f"{shape.model}, arrived rows",
        num_bytes=num_bytes,
        make=make,
        run=lambda rows, gates: permute_backward(rows, rowmap, gates.squeeze(1)),
        baselines={"index_select": lambda _: _with(baselines.picked, rowmap.places_TK.squeeze(1).long())},
        target=Target(share=0.88),
    )


# Rows.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maps:
    """A map without padding, and what PyTorch's own operators need of it, int64."""

    rowmap: RowMap
    slots: Tensor
    tokens: Tensor
    places: Tensor


def _maps(shape: MoeShape, device: torch.device) -> _Maps:
    rowmap = index_reference(_random_experts(shape, device), shape.experts, 0, 1)
    slots = rowmap.slots_P.long()
    return _Maps(rowmap=rowmap, slots=slots, tokens=slots // shape.top_k, places=rowmap.places_TK.long())


def _permute_subjects(shape: MoeShape, device: torch.device) -> Iterator[Subject]:
    maps = _maps(shape, device)
    tokens, rows, row_bytes = shape.tokens, shape.slots, BFLOAT16_BYTES * shape.hidden

    def normal(count: int) -> Tensor:
        return torch.randn(count, shape.hidden, device=device, dtype=torch.bfloat16)

    def weights() -> Tensor:
        return torch.rand(tokens, shape.top_k, device=device)

    yield Subject(
        kernel="permute",
        what="permute",
        shape=shape.model,
        num_bytes=permute_bytes(tokens, rows, row_bytes),
        make=lambda: (normal(tokens), weights()),
        run=lambda x, gates: permute(x, maps.rowmap, gates),
        baselines=_both(baselines.permute, maps.slots, maps.tokens),
        target=Target(share=0.88, ratio=1.2),
    )
    yield Subject(
        kernel="permute",
        what="permute backward",
        shape=shape.model,
        num_bytes=permute_bytes(tokens, rows, row_bytes),
        make=lambda: (normal(rows), torch.rand(rows, device=device)),
        run=lambda grad, gates: permute_backward(grad, maps.rowmap, gates),
        baselines=_both(baselines.permute_backward, maps.places),
        target=Target(share=0.88, ratio=1.5),
    )
    yield Subject(
        kernel="permute",
        what="unpermute",
        shape=shape.model,
        num_bytes=permute_bytes(tokens, rows, row_bytes),
        make=lambda: (normal(rows), weights()),
        run=lambda y, gates: unpermute(y, maps.rowmap, gates),
        baselines=_both(baselines.unpermute, maps.places),
        target=Target(share=0.88, ratio=1.2),
    )
    yield Subject(
        kernel="permute",
        what="unpermute backward",
        shape=shape.model,
        num_bytes=weighted_backward_bytes(tokens, rows, row_bytes),
        make=lambda: (normal(tokens), normal(rows), weights()),
        run=lambda grad, y, gates: unpermute_backward(grad, y, maps.rowmap, gates),
        baselines=_both(baselines.unpermute_backward, maps.slots, maps.tokens, maps.places),
        target=Target(share=0.88, ratio=1.5),
    )


def _both(function: Function, *more: object) -> dict[str, Callable[[Compile], Function]]:
    """A function compiled, and as it is."""
    return {"compiled": lambda compile_: _with(compile_(function), *more), "eager": lambda _: _with(function, *more)}


def _swiglu_subjects(shape: MoeShape, device: torch.device) -> Iterator[Subject]:
    rowmap = _maps(shape, device).rowmap
    rows, width = shape.slots, shape.intermediate
    tiled = index_reference(_random_experts(shape, device), shape.experts, 0, fp8_contract.BLOCK)
    padded = index_contract.capacity(shape.slots, shape.experts, fp8_contract.BLOCK)
    in_use = int(tiled.offsets_E[-1])

    def joint(count: int) -> Tensor:
        return torch.randn(count, 2 * width, device=device, dtype=torch.bfloat16)

    def gates(count: int) -> Tensor:
        return torch.rand(count, device=device)

    def backward(x: Tensor, weights: Tensor, grad: Tensor) -> object:
        gate, up = _halves(x)
        return swiglu_backward(gate, up, grad, weights, rowmap)

    yield Subject(
        kernel="swiglu",
        what="swiglu",
        shape=shape.model,
        num_bytes=swiglu_contract.forward_bytes(rows, width, BFLOAT16_BYTES),
        make=lambda: (joint(rows), gates(rows)),
        run=lambda x, weights: swiglu(*_halves(x), weights, rowmap),
        baselines={"compiled": lambda compile_: compile_(baselines.swiglu)},
        target=Target(share=0.9, ratio=1.0),
    )
    yield Subject(
        kernel="swiglu",
        what="swiglu backward",
        shape=shape.model,
        num_bytes=swiglu_contract.backward_bytes(rows, width, BFLOAT16_BYTES),
        make=lambda: (joint(rows), gates(rows), torch.randn(rows, width, device=device, dtype=torch.bfloat16)),
        run=backward,
        baselines={"compiled": lambda compile_: compile_(baselines.swiglu_backward)},
        target=Target(share=0.9, ratio=1.0),
    )
    yield Subject(
        kernel="swiglu_fp8",
        what="swiglu fp8",
        shape=f"{shape.model}, {in_use} rows with padding",
        num_bytes=fp8_contract.moved_bytes(rows, in_use - rows, width),
        make=lambda: (joint(padded), gates(padded)),
        run=lambda x, weights: swiglu_fp8(*_halves(x), weights, tiled),
        baselines={
            "separate casts": lambda compile_: _first_rows(_cast_apart(compile_), in_use),
            "compiled": lambda compile_: _first_rows(compile_(baselines.swiglu_fp8), in_use),
        },
        target=Target(share=0.85, ratio=1.7, against="separate casts"),
    )


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and up of rows that have them side by side."""
    gate, up = x.chunk(2, -1)
    return gate, up


def _first_rows(function: Function, count: int) -> Function:
    """The function on the rows in use: baselines need not work through the worst case."""
    return lambda x, weights: function(x[:count], weights[:count])


def _cast_apart(compile_: Compile) -> Function:
    """SwiGLU and two casts, each compiled for itself."""
    product, by_rows, by_columns = (
        compile_(function) for function in (baselines.swiglu, baselines.cast, baselines.cast_columns)
    )

    def run(x: Tensor, weights: Tensor) -> object:
        out = product(x, weights)
        return by_rows(out), by_columns(out)

    return run
