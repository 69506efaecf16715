"""What each GPU of a pipeline stage runs and holds: its chunks' seconds, and every byte of its peak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import in_flight_held
from meshwright.costmodel.stage_cost import StageCost
from meshwright.costmodel.step import SPLIT_BACKWARD, activation_bytes, schedule_of, step_inputs
from meshwright.costmodel.value import Value
from meshwright.planner.explain.parts import PartTerm

STATE_KINDS = ("parameters", "gradients", "optimizer")


class PartCount(Value, frozen=True, kw_only=True):
    """How many of a part (its index among the parts of the explanation) a chunk has."""

    part: int
    count: int


class ChunkTerm(Value, frozen=True, kw_only=True):
    """One virtual stage: its parts, seconds of one micro-batch by pass, of its state once a step, and its activations.

    `held` micro-batches are in flight at the worst moment of its device, `kept_bytes` each; `late` of them wait for a
    weight gradient of its own, and hold `late_bytes` more each.
    """

    virtual_stage: int
    first_layer: int
    num_layers: int
    parts: tuple[PartCount, ...]
    passes_s: dict[str, float]
    overlap_saving_s: float
    param_gather_s: float
    grad_reduce_s: float
    optimizer_s: float
    kept_bytes: float
    held: int
    late_bytes: float
    late: int


class MemoryItem(Value, frozen=True, kw_only=True):
    """`count` times `each_bytes` of something; the formulas give `each_bytes`."""

    what: str
    count: int
    each_bytes: float
    formulas: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> float:
        """All of them."""
        return self.count * self.each_bytes


class MemoryTerm(Value, frozen=True, kw_only=True):
    """One kind of memory at a device's peak, and what it is made of."""

    kind: str
    num_bytes: float
    items: tuple[MemoryItem, ...]


class StageTerm(Value, frozen=True, kw_only=True):
    """One device of the pipeline."""

    device: int
    chunks: tuple[ChunkTerm, ...]
    memory: tuple[MemoryTerm, ...]

    @property
    def peak_bytes(self) -> float:
        """All memory terms."""
        return sum(term.num_bytes for term in self.memory)


def stage_terms(configuration: TrainingConfiguration, parts: tuple[PartTerm, ...]) -> tuple[StageTerm, ...]:
    """Every device of the pipeline."""
    schedule = schedule_of(configuration)
    costs, _ = step_inputs(configuration, schedule)
    counts = [len(stage) for stage in configuration.stages]
    terms = []
    for device, (chunks, moments) in enumerate(zip(schedule.placement, in_flight_held(schedule), strict=True)):
        worst = max(moments, key=partial(activation_bytes, chunks=[costs[stage] for stage in chunks]))
        found = tuple(
            _chunk(configuration, parts, stage, sum(counts[:stage]), costs[stage], held)
            for stage, *held in zip(chunks, worst.total, worst.late, strict=True)
        )
        terms.append(StageTerm(device=device, chunks=found, memory=_memory(parts, found)))
    return tuple(terms)


def _chunk(
    configuration: TrainingConfiguration,
    parts: tuple[PartTerm, ...],
    stage: int,
    first_layer: int,
    cost: StageCost,
    in_flight: Sequence[int],
) -> ChunkTerm:
    num_layers, (held, late) = len(configuration.stages[stage]), in_flight
    split = configuration.pipeline.schedule in SPLIT_BACKWARD
    names = ("forward", "dgrad", "wgrad") if split else ("forward", "backward")
    return ChunkTerm(
        virtual_stage=stage,
        first_layer=first_layer,
        num_layers=num_layers,
        parts=tuple(_part_counts(configuration, parts, stage, range(first_layer, first_layer + num_layers))),
        passes_s={name: getattr(cost, name).total_s for name in names},
        overlap_saving_s=cost.overlap_saving_s,
        param_gather_s=cost.param_gather_s,
        grad_reduce_s=cost.grad_reduce_s,
        optimizer_s=cost.optimizer_s,
        kept_bytes=cost.kept_bytes,
        held=held,
        late_bytes=cost.late_bytes,
        late=late,
    )


def _part_counts(
    configuration: TrainingConfiguration, parts: tuple[PartTerm, ...], stage: int, numbers: range
) -> Iterator[PartCount]:
    """The embedding on the first virtual stage, layers, the head on the last."""
    if stage == 0:
        yield PartCount(part=0, count=1)
    for index, part in enumerate(parts):
        count = sum(number in numbers for number in part.layers)
        if count:
            yield PartCount(part=index, count=count)
    if stage == len(configuration.stages) - 1:
        yield PartCount(part=len(parts) - 1, count=1)


def _memory(parts: tuple[PartTerm, ...], chunks: tuple[ChunkTerm, ...]) -> tuple[MemoryTerm, ...]:
    items = {kind: tuple(_state_items(parts, chunks, kind)) for kind in STATE_KINDS}
    items["activations"] = tuple(_kept_items(parts, chunks))
    items["transient"] = tuple(_transient_items(parts, chunks))
    return tuple(
        MemoryTerm(kind=kind, num_bytes=sum(item.num_bytes for item in found), items=found)
        for kind, found in items.items()
    )


def _state_items(parts: tuple[PartTerm, ...], chunks: tuple[ChunkTerm, ...], kind: str) -> Iterator[MemoryItem]:
    totals: dict[int, int] = {}
    for entry in (entry for chunk in chunks for entry in chunk.parts):
        totals[entry.part] = totals.get(entry.part, 0) + entry.count
    for index, count in sorted(totals.items()):
        for state in parts[index].state:
            held = next(held for held in state.held if held.kind == kind)
            what = f"{parts[index].label}: {state.weights}"
            yield MemoryItem(what=what, count=count, each_bytes=held.num_bytes, formulas=held.formulas)


def _kept_items(parts: tuple[PartTerm, ...], chunks: tuple[ChunkTerm, ...]) -> Iterator[MemoryItem]:
    """Parts that keep something, those of chunks with as many micro-batches in flight together."""
    held: Counter[tuple[int, int]] = Counter()
    late: Counter[tuple[int, int]] = Counter()
    for chunk in chunks:
        for entry in chunk.parts:
            held[entry.part, chunk.held] += entry.count
            late[entry.part, chunk.late] += entry.count
    for (index, micro_batches), count in held.items():
        if parts[index].kept_bytes:
            what = f"{parts[index].label}: {micro_batches} in flight x {count}"
            yield MemoryItem(what=what, count=micro_batches * count, each_bytes=parts[index].kept_bytes)
    for (index, micro_batches), count in late.items():
        if micro_batches and parts[index].late_bytes:
            what = f"{parts[index].label}: {micro_batches} before their weight gradient x {count}, more"
            yield MemoryItem(what=what, count=micro_batches * count, each_bytes=parts[index].late_bytes)


def _transient_items(parts: tuple[PartTerm, ...], chunks: tuple[ChunkTerm, ...]) -> Iterator[MemoryItem]:
    """The part that needs most while it runs."""
    present = [parts[entry.part] for chunk in chunks for entry in chunk.parts]
    largest = max(present, key=lambda part: part.transient_bytes)
    what = f"{largest.label}: most alive beside what is kept"
    yield MemoryItem(what=what, count=1, each_bytes=largest.transient_bytes)
