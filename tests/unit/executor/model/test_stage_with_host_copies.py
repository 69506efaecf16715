"""A stage whose layers keep tensors in host memory computes to the bit what it computes without, on any streams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec
from meshwright.costmodel.offload import offloaded_bytes, with_copies
from meshwright.costmodel.order.launch_order import Launch, LayerOrder, PassKind, PassOrder
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import CopyWork, Operator, Resource
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.cuda_streams import CudaStreams
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import Parameters, full_weights
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.part import Part, PartDescription
from meshwright.executor.model.stage import Stage

Make = Callable[..., Any]
NUM_LAYERS = 3
COMPUTE, COPY = Resource.COMPUTE, Resource.COPY_ENGINE
LONGEST_SLEEP_CYCLES = 4_000_000


class Device:
    """Does everything at once, and knows which work each stream is behind: that of passes so far, and copies."""

    def __init__(self) -> None:
        self.current = COMPUTE
        self.done: dict[Resource, set[int]] = {stream: set() for stream in Resource}
        self.num_issued = 0

    @contextmanager
    def on(self, stream: Resource) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def record(self, stream: Resource) -> object:
        return frozenset(self.done[stream])

    def wait(self, stream: Resource, event: object) -> None:
        assert isinstance(event, frozenset)
        self.done[stream] |= event

    def share(self, tensor: Tensor) -> None:
        raise AssertionError(f"{tensor.shape}: nothing that leaves a layer has come from the host")

    def issue(self) -> None:
        """Work for the current stream."""
        self.num_issued += 1
        self.done[self.current].add(self.num_issued)


class Watch:
    """Checks that a copy is behind all that was done before its pass, and each pass behind the copies before."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._before: set[int] = set()

    def enter(self, *_: object, **__: object) -> None:
        self._before = set(range(1, self._device.num_issued + 1))
        assert self._device.done[COMPUTE] == self._before, "a pass begins behind all of the last"

    def around(self, operator: Operator, run: Callable[[], None]) -> None:
        if isinstance(operator.work, CopyWork):
            assert self._device.current is COPY
            assert self._before <= self._device.done[COPY]
        run()
        self._device.issue()


def _on_streams(program: LayerProgram, policy: Recompute, draw: random.Random | None = None) -> LayerOrder:
    """Copies on the stream of the copy engine, first or anywhere; all else in program order on the compute stream."""

    def launches(kind: PassKind) -> PassOrder:
        operators = list(pass_operators(program, policy, kind))
        if draw is not None:
            (copy,) = (operator for operator in operators if isinstance(operator.work, CopyWork))
            operators.remove(copy)
            operators.insert(draw.randrange(len(operators) + 1), copy)
        return PassOrder(launches=tuple(Launch(operators=(op.name,), stream=op.resource) for op in operators))

    return LayerOrder(forward=launches(PassKind.FORWARD), backward=launches(PassKind.BACKWARD))


def _results(stage: Stage, runs: list[Part], hidden: Tensor, upstream: Tensor, *, crossed: bool) -> dict[str, Tensor]:
    """Two micro-batches, the first's backward first or last, and the gradients of all weights."""
    outputs = {f"output {number}": stage.forward(number, hidden * (number + 1), None) for number in (0, 1)}
    found = dict(outputs)
    first, then = (1, 0) if crossed else (0, 1)
    for number, following in ((first, stage.offloaded(then)), (then, None)):
        gradient = stage.backward(number, upstream * (number + 1), following)
        assert gradient is not None
        found[f"input {number}"] = gradient
    for index, part in enumerate(runs):
        found |= {f"{index} {name}": gradient for name, gradient in part.runner.parameters.gradients.items()}
    return found


@pytest.mark.parametrize("crossed", [True, False])
@pytest.mark.parametrize("policy", [Recompute.NONE, Recompute.SELECTIVE, Recompute.EVERY_SECOND_GEMM, Recompute.FULL])
@pytest.mark.parametrize("where", ["in line", "beside", "beside, anywhere"])
@pytest.mark.parametrize(
    "layer", ["dense", "dense, layer norms, gelu", "moe", "moe, gated shared", "moe, latent, shared"]
)
def test_the_same_numbers(tiny_layer: Make, layer: str, where: str, policy: Recompute, crossed: bool) -> None:
    tiny = tiny_layer(layer).with_setting(strategy=LayerStrategy(recompute=policy))
    program, context = with_copies(tiny.program, policy), tiny.runner().layer
    device, draw = Device(), random.Random(layer)
    streams = Streams(device)
    order = None if where == "in line" else _on_streams(program, policy, draw if "anywhere" in where else None)
    found = []
    for chosen, placed in ((tiny.program, None), (program, order)):
        description = PartDescription(title="", program=chosen, context=context, recompute=policy, order=placed)
        parts = [Part(description, Parameters(tiny.weights), streams) for _ in range(NUM_LAYERS)]
        watch = None if placed is None else Watch(device)
        stage = Stage(parts, is_first=False, is_last=False, token_weight=1.0, routed=lambda *_: None, watch=watch)
        found.append(_results(stage, parts, tiny.hidden, tiny.upstream, crossed=crossed))
    assert found[0].keys() == found[1].keys()
    assert [name for name, tensor in found[0].items() if not torch.equal(tensor, found[1][name])] == []


def test_memory_is_held_while_another_stream_uses_it(tiny_layer: Make) -> None:
    tiny = tiny_layer("dense")
    policy = Recompute.NONE
    program = with_copies(tiny.program, policy)
    streams = Streams(Device())
    description = PartDescription(
        title="", program=program, context=tiny.runner().layer, recompute=policy, order=_on_streams(program, policy)
    )
    parts = [Part(description, Parameters(tiny.weights), streams) for _ in range(2)]
    held: list[tuple[str, int]] = []
    told: list[str] = []

    class Holding:
        def enter(self, *at: object, **_: object) -> None:
            held.append((f"{at[1]} begins", streams.num_held()))

        def around(self, operator: Operator, run: Callable[[], None]) -> None:
            run()
            if isinstance(operator.work, CopyWork):
                told.append(operator.name)
            if operator.name in ("norm1", "norm1.backward", "fc2.dgrad"):
                held.append((operator.name, streams.num_held()))

    stage = Stage(parts, is_first=False, is_last=False, token_weight=1.0, routed=lambda *_: None, watch=Holding())
    hidden = stage.forward(0, tiny.hidden, None)
    stage.backward(0, hidden)
    assert told == ["offload", "reload"], "those that have something to move"
    # Gate and up projections of the first layer: while they leave, and from their use until the next copy waits.
    assert held == [
        ("forward begins", 0),
        ("norm1", 0),
        ("forward begins", 0),
        ("norm1", 2),
        ("backward begins", 0),
        ("fc2.dgrad", 0),
        ("norm1.backward", 0),
        ("backward begins", 0),
        ("fc2.dgrad", 0),
        ("norm1.backward", 2),
    ]


@pytest.mark.gpu
def test_memory_falls_and_numbers_stay_on_a_gpu() -> None:
    """Streams sleep at random: what ran in a wrong order, or in memory reused too early, would differ."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device, num_layers, policy, hidden = torch.device("cuda", 0), 8, Recompute.NONE, 1024
    attention = AttentionSpec(num_heads=8, num_kv_heads=8, head_dim=128, value_head_dim=128)
    layer = LayerSpec(attention=attention, ffn=DenseFfnSpec(intermediate=8 * hidden))
    setting = ProgramSetting(
        hidden=hidden, micro_batch=1, seq_len=2048, strategy=LayerStrategy(recompute=policy), gpus_per_node=8
    )
    plain = build_layer(layer, setting)
    program = with_copies(plain, policy)
    context = LayerContext(layer=layer, setting=setting, device=device, dtype=torch.float32)
    weights = full_weights(layer_parameters(layer, hidden), device, torch.float32, seed=3)
    inputs = torch.randn(2048, hidden, device=device, generator=torch.Generator(device).manual_seed(1))
    streams, draw = Streams(CudaStreams(device)), random.Random(1)

    class Sleeping:
        """Notes what is allocated when the first backward begins."""

        def __init__(self) -> None:
            self.kept_bytes = 0
            self._before_bytes = torch.cuda.memory_allocated(device)

        def enter(self, *at: object, **_: object) -> None:
            if at[1] is PassKind.BACKWARD and not self.kept_bytes:
                self.kept_bytes = torch.cuda.memory_allocated(device) - self._before_bytes

        def around(self, operator: Operator, run: Callable[[], None]) -> None:
            if isinstance(operator.work, CopyWork) or draw.random() < 0.1:
                torch.cuda._sleep(draw.randrange(LONGEST_SLEEP_CYCLES))
            run()

    found, kept_bytes = [], []
    for chosen, order in ((plain, None), (program, _on_streams(program, policy)), (program, None)):
        description = PartDescription(title="", program=chosen, context=context, recompute=policy, order=order)
        for crossed in (True, False):
            parts = [Part(description, Parameters(weights), streams) for _ in range(num_layers)]
            watch = Sleeping()
            stage = Stage(parts, is_first=False, is_last=False, token_weight=1.0, routed=lambda *_: None, watch=watch)
            results = _results(stage, parts, inputs, inputs, crossed=crossed)
            found.append({name: tensor.cpu() for name, tensor in results.items()})
            kept_bytes.append(watch.kept_bytes)
            del results
    layer_bytes = 2 * offloaded_bytes(plain, policy)  # of the program in a format of two bytes, here of four
    for index in (2, 3, 4, 5):
        expected = found[index % 2]
        assert [name for name in expected if not torch.equal(expected[name], found[index][name])] == []
        # All but the layer whose backward begins, of two micro-batches.
        assert kept_bytes[index % 2] - kept_bytes[index] >= (2 * num_layers - 1.1) * layer_bytes
