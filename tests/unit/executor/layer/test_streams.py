"""On several streams every read is behind its write, memory lives as long as it is read, and nobody waits in vain."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshwright.costmodel.program.operators import CopyWork, GemmWork, Operator, Pass, Resource
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.stream_plan import Placed, plan_streams
from meshwright.executor.layer.streams import Streams
from meshwright.executor.layer.values import Use, Values

Make = Callable[..., Any]
COMPUTE, NVLINK, NETWORK = Resource.COMPUTE, Resource.NVLINK, Resource.NETWORK
STREAMS = (COMPUTE, NVLINK, NETWORK)


# A device that only notes what it is told, and what follows from that.


@dataclass(frozen=True, kw_only=True)
class Launched:
    """An operator on a stream, and those that must have run before."""

    operator: str
    stream: Resource
    sources: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    stream: Resource
    event: int


@dataclass(frozen=True, kw_only=True)
class Waited:
    stream: Resource
    event: int


@dataclass(frozen=True, kw_only=True)
class Freed:
    """Memory that the stream may use for something else, and the operators that have used it."""

    stream: Resource
    users: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a pass: the compute stream is behind everything."""


Note = Launched | Recorded | Waited | Freed | Ended


@dataclass
class Device:
    """Everything is done at once by the host; what a device would be told is noted."""

    notes: list[Note] = field(default_factory=list)
    current: Resource = COMPUTE
    shared: list[Tensor] = field(default_factory=list)
    num_events: int = 0

    @contextmanager
    def on(self, stream: Resource) -> Iterator[None]:
        """Make the stream current."""
        before, self.current = self.current, stream
        yield
        self.current = before

    def record(self, stream: Resource) -> int:
        """Events are numbers."""
        self.num_events += 1
        self.notes.append(Recorded(stream=stream, event=self.num_events))
        return self.num_events

    def wait(self, stream: Resource, event: object) -> None:
        """Note it."""
        assert isinstance(event, int)
        self.notes.append(Waited(stream=stream, event=event))

    def share(self, tensor: Tensor) -> None:
        """Remember it."""
        self.shared.append(tensor)


def problems(notes: Sequence[Note], *, of_memory: bool = True) -> list[str]:
    """What may happen in a wrong order on a device that was told this; sets of operators, no clocks."""
    behind: dict[Resource, set[str]] = {stream: set() for stream in STREAMS}
    at: dict[int, frozenset[str]] = {}
    found = []
    for note in notes:
        match note:
            case Launched():
                if not note.sources <= behind[note.stream]:
                    missing = sorted(note.sources - behind[note.stream])
                    found.append(f"{note.operator} on {note.stream} is not behind {missing}")
                behind[note.stream].add(note.operator)
            case Recorded():
                at[note.event] = frozenset(behind[note.stream])
            case Waited():
                behind[note.stream] |= at[note.event]
            case Freed():
                if of_memory and not note.users <= behind[note.stream]:
                    found.append(f"{note.stream} may overwrite what {sorted(note.users - behind[note.stream])} read")
            case Ended():
                if behind[COMPUTE] != set().union(*behind.values()):
                    found.append("the pass has not ended when the compute stream goes on")
    return found


# Programs at random. Everything reads and writes through `Values`, as bindings do.


class Memory:
    """Memory of tensors: freed when the last of them is gone. It is allocated on the current stream."""

    def __init__(self, device: Device) -> None:
        self.users: set[str] = set()
        weakref.finalize(self, _free, device, device.current, self.users)


def _free(device: Device, home: Resource, users: set[str]) -> None:
    device.notes.append(Freed(stream=home, users=frozenset(users)))


@dataclass(frozen=True, kw_only=True)
class Rider:
    """Something with a tensor inside."""

    tensor: Tensor


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An operator at random. Tensors and riders that it writes are its own, or views of what it reads.

    `asks`: it asks for the riders of what it reads.
    """

    placed: Placed
    view: bool
    rides: bool
    rider_view: bool
    asks: bool


@st.composite
def programs(draw: st.DrawFn) -> list[list[Drawn]]:
    """Passes over the same tensors; gradients are written several times."""
    names, passes, count = ["in.0", "in.1"], [], 0
    for _ in range(draw(st.integers(1, 3))):
        drawn = []
        for _ in range(draw(st.integers(1, 7))):
            count += 1
            reads = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)))
            new = f"t.{count}"
            writes = draw(st.sampled_from([(new,), (), ("grad:sum",), (new, "grad:sum")]))
            operator = Operator(
                name=f"op.{count}",
                module="layer",
                phase=Pass.FORWARD,
                work=GemmWork(m=1, n=1, k=1),
                reads=reads,
                writes=writes,
            )
            drawn.append(
                Drawn(
                    placed=Placed(operator=operator, stream=draw(st.sampled_from(STREAMS))),
                    view=draw(st.booleans()),
                    rides=draw(st.booleans()),
                    rider_view=draw(st.booleans()),
                    asks=draw(st.booleans()),
                )
            )
            names += [name for name in writes if name not in names]
        passes.append(drawn)
    return passes


class World:
    """Runs programs on a device that takes notes."""

    def __init__(self) -> None:
        self.device = Device()
        self.streams = Streams(self.device)
        self.values = Values()
        self._writers: dict[str, set[str]] = {}
        self._begin = ""
        self._num_done = 0

    def run(self, passes: list[list[Drawn]]) -> None:
        """Two micro-batches, one after the other."""
        for _ in range(2):
            self._run_all(passes)
            self._num_done += 1
            self.values = Values()

    def _run_all(self, passes: list[list[Drawn]]) -> None:
        """All passes; a tensor is dropped behind its last reader."""
        left = [name for drawn in passes for one in drawn for name in one.placed.operator.reads]
        for name in ("in.0", "in.1"):
            self.values.put(name, self._tensor())
        for drawn in passes:
            by_name = {one.placed.operator.name: one for one in drawn}

            def run_one(operator: Operator, by_name: dict[str, Drawn] = by_name) -> None:
                self._run_one(by_name[operator.name])
                for name in operator.reads:
                    left.remove(name)
                self.values.drop([name for name in (*operator.reads, *operator.writes) if name not in left])

            self._begin_pass()
            self.streams.run(plan_streams([one.placed for one in drawn]), lambda _: self.values, run_one)
            self.device.notes.append(Ended())

    def _begin_pass(self) -> None:
        """What a pass finds is there when the compute stream comes to it."""
        self._begin = f"begin.{len(self.device.notes)}"
        self._writers.clear()
        self.device.notes.append(Launched(operator=self._begin, stream=COMPUTE, sources=frozenset()))

    def _run_one(self, drawn: Drawn) -> None:
        operator, values = drawn.placed.operator, self.values
        number = f"{operator.name} of {self._num_done}"
        sources = {writer for name in operator.reads for writer in self._writers.get(name, {self._begin})}
        sources |= {writer for name in operator.writes for writer in self._writers.get(name, ())}
        self.device.notes.append(Launched(operator=number, stream=self.device.current, sources=frozenset(sources)))
        read = [values[name] for name in operator.reads]
        for name, tensor in zip(operator.reads, read, strict=True):
            self._use(number, tensor)
            if drawn.asks and (name, "rider") in values.homes:
                self._use(number, values.rider(name, "rider", Rider).tensor)
        for name in operator.writes:
            self._writers.setdefault(name, set()).add(number)
            tensor = self._view(read[0]) if drawn.view else self._tensor()
            self._use(number, tensor)
            values.put(name, tensor)
            if drawn.rides:
                values.ride(name, "rider", Rider(tensor=self._view(read[0]) if drawn.rider_view else self._tensor()))

    def _tensor(self) -> Tensor:
        tensor = torch.empty(1)
        tensor.memory = Memory(self.device)  # type: ignore[attr-defined]  # lives as long as it and its views
        return tensor

    def _view(self, source: Tensor) -> Tensor:
        view = source.view(1)
        view.memory = getattr(source, "memory", None)  # type: ignore[attr-defined]
        return view

    def _use(self, operator: str, tensor: Tensor) -> None:
        memory = getattr(tensor, "memory", None)  # a sum of gradients has none
        if memory is not None:
            memory.users.add(operator)


@given(programs())
@settings(max_examples=300, deadline=None)
def test_no_order_on_any_streams_goes_wrong(passes: list[list[Drawn]]) -> None:
    world = World()
    world.run(passes)
    assert problems(world.device.notes) == []


@given(programs())
@settings(max_examples=150, deadline=None)
def test_every_wait_is_needed_and_every_event_is_waited_for(passes: list[list[Drawn]]) -> None:
    world = World()
    world.run(passes)
    notes = world.device.notes
    waits = [place for place, note in enumerate(notes) if isinstance(note, Waited)]
    for place in waits:
        assert problems([*notes[:place], *notes[place + 1 :]], of_memory=False), notes[place]
    waited = {note.event for note in notes if isinstance(note, Waited)}
    assert waited == {note.event for note in notes if isinstance(note, Recorded)}


@given(programs())
@settings(max_examples=50, deadline=None)
def test_one_stream_waits_for_nothing_and_holds_nothing(passes: list[list[Drawn]]) -> None:
    world = World()
    alone = [
        [replace(one, placed=Placed(operator=one.placed.operator, stream=COMPUTE)) for one in drawn] for drawn in passes
    ]
    world.run(alone)
    assert world.device.num_events == world.streams.num_held() == 0


def operator(name: str, reads: tuple[str, ...], writes: tuple[str, ...]) -> Operator:
    return Operator(
        name=name, module="layer", phase=Pass.FORWARD, work=GemmWork(m=1, n=1, k=1), reads=reads, writes=writes
    )


EXCHANGE = (
    Placed(operator=operator("permute", ("in",), ("sent",)), stream=COMPUTE),
    Placed(operator=operator("dispatch", ("sent",), ("received",)), stream=NVLINK),
    Placed(operator=operator("shared", ("in",), ("beside",)), stream=COMPUTE),
    Placed(operator=operator("experts", ("received",), ("done",)), stream=COMPUTE),
    Placed(operator=operator("combine", ("done",), ("returned",)), stream=NVLINK),
    Placed(operator=operator("sum", ("returned", "beside"), ("out",)), stream=COMPUTE),
)


def test_a_stream_waits_for_what_it_reads_and_not_for_what_stands_before() -> None:
    planned = plan_streams(EXCHANGE)
    assert [step.waits for step in planned.steps] == [(), (0,), (), (1,), (3,), (4,)]
    assert [step.records for step in planned.steps] == [True, True, False, True, True, False]
    assert (planned.begins, planned.ends) == (False, ())


def test_what_was_there_before_the_pass_is_waited_for_once() -> None:
    gathers = [
        Placed(operator=operator(name, ("in",), (f"{name}.out",)), stream=NVLINK) for name in ("first", "second")
    ]
    planned = plan_streams(gathers)
    assert [step.waits for step in planned.steps] == [(-1,), ()]
    assert (planned.begins, planned.ends) == (True, (1,))


def test_a_copy_to_the_host_is_behind_all_before_the_pass_and_the_end_behind_the_copy() -> None:
    copy = Operator(
        name="offload", module="copies", phase=Pass.FORWARD, work=CopyWork(num_bytes=1.0), reads=(), writes=()
    )
    product = Placed(operator=operator("product", ("in",), ("out",)), stream=COMPUTE)
    planned = plan_streams([product, Placed(operator=copy, stream=Resource.COPY_ENGINE), product])
    assert [step.waits for step in planned.steps] == [(), (-1,), ()]
    assert (planned.begins, planned.ends) == (True, (1,))


def test_what_another_stream_reads_is_held_until_its_own_has_waited() -> None:
    streams, values = Streams(Device()), Values()
    values.put("in", torch.zeros(1))
    held = []

    def run(operator: Operator) -> None:
        held.append(streams.num_held())
        for name in operator.reads:
            values[name]
        for name in operator.writes:
            values.put(name, torch.zeros(1))

    streams.run(plan_streams(EXCHANGE), lambda _: values, run)
    # What is sent until the experts wait for what arrives; what returned until the next exchange.
    assert held == [0, 0, 1, 0, 0, 0]
    assert streams.num_held() == 1


def test_a_rider_may_have_memory_of_another_stream_inside() -> None:
    placed = (
        Placed(operator=operator("gather", ("in.0",), ("latent",)), stream=NVLINK),
        Placed(operator=operator("up", ("latent",), ("key",)), stream=COMPUTE),
        Placed(operator=operator("rope", ("key",), ("rotated",)), stream=COMPUTE),
    )
    plain = {"view": False, "rides": False, "rider_view": False, "asks": False}
    changes: tuple[dict[str, bool], ...] = ({}, {"rides": True, "rider_view": True}, {"asks": True})
    world = World()
    world.run([[Drawn(placed=one, **{**plain, **change}) for one, change in zip(placed, changes, strict=True)]])
    assert problems(world.device.notes) == []
    # In either micro-batch the latent by `up`, what rides with the key by `rope`: the second gather ends the first two.
    assert world.streams.num_held() == 2


def test_what_leaves_a_layer_may_be_used_anywhere() -> None:
    device = Device()
    streams, values = Streams(device), Values()
    values.put("in", torch.zeros(1))

    def run(operator: Operator) -> None:
        for name in operator.writes:
            values.put(name, torch.zeros(1))

    streams.run(plan_streams(EXCHANGE), lambda _: values, run)
    for name in ("out", "returned", "in"):
        streams.hand_over(values, name)
    assert [tensor.data_ptr() for tensor in device.shared] == [values["returned"].data_ptr()]


# Layers: what bindings read without saying so is behind its write, too.


@pytest.mark.parametrize("policy", [Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL])
@pytest.mark.parametrize(
    "layer", ["dense", "dense, norms of heads", "dense, latent", "moe", "moe, gelu, biases", "moe, gated shared"]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_layer_on_any_streams(
    tiny_layer: Make, layer: str, policy: Recompute, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_layer(layer).with_setting(strategy=LayerStrategy(recompute=policy))
    device, uses = Device(), list[Use]()
    noted = Values.noted

    @contextmanager
    def noting(values: Values) -> Iterator[Use]:
        with noted(values) as use:
            yield use
        uses.append(use)

    monkeypatch.setattr(Values, "noted", noting)

    def note(operator: Operator, run: Callable[[], None]) -> None:
        device.notes.append(Launched(operator=operator.name, stream=device.current, sources=frozenset()))
        run()

    draw = random.Random(seed)
    runner, streams = tiny.runner(), Streams(device)
    batch = runner.start(tiny.hidden)
    for operators in (runner.forward, runner.backward):
        placed = [Placed(operator=one, stream=draw.choice(STREAMS)) for one in operators]
        batch.run_on(streams, plan_streams(placed), note)
        device.notes.append(Ended())
        batch.put_output_gradient(tiny.upstream)
    assert problems(_with_sources(device.notes, uses)) == []
    expected = tiny.run()
    found = replace(
        expected,
        output=batch.output,
        input_gradient=batch.input_gradient,
        gradients=runner.parameters.gradients,
    )
    found.assert_close(expected, 0.0)


def _with_sources(notes: Sequence[Note], uses: Sequence[Use]) -> list[Note]:
    """Launches with what each operator really has read, in this order."""
    writers: dict[tuple[str, ...], set[str]] = {}
    found: list[Note] = []
    for note in notes:
        if not isinstance(note, Launched):
            found.append(note)
            continue
        use, name = uses[len([one for one in found if isinstance(one, Launched)])], f"{len(found)} {note.operator}"
        sources = frozenset(writer for key, *_ in use.read for writer in writers.get(key, ())) - {name}
        found.append(Launched(operator=name, stream=note.stream, sources=sources))
        for key, _ in use.written:
            writers.setdefault(key, set()).add(name)
    return found
