"""Run as a script: layers on several streams against the same on one, on so many ranks; prints findings as JSON.

    python tests/unit/executor/overlap_ranks.py NUM_RANKS cpu|cuda [WORDS]

Of cases whose names contain WORDS.
One rank has nothing to communicate: its forward, and what of its backward adds to no gradient, runs on streams drawn at
random. Two ranks run orders of the solver. On a GPU streams sleep at random, so that what runs beside what differs from
run to run. For each case: results that are not the same to the bit; peak memory in 3 and in 10 micro-batches, and how
many uses are held behind them.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from meshwright.costmodel.model import DenseFfnSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.operators import MemoryKernel, MemoryWork, Operator, Pass, Resource
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.cuda_streams import CudaStreams
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.order import on_streams
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import full_weights
from meshwright.executor.layer.run import Around, LayerRunner
from meshwright.executor.layer.stream_plan import Placed, StreamPass, plan_streams
from meshwright.executor.layer.streams import Streams
from meshwright.executor.layer_timing.gradient_check import CheckedLayer
from meshwright.executor.layer_timing.output_check import own_tokens

TWO_RANKS = runpy.run_path(str(Path(__file__).with_name("two_ranks.py")))
TRIES = 5
LONGEST_SLEEP_CYCLES = 400_000
Passes = tuple[StreamPass, StreamPass]


class HostStreams:
    """Streams of a device that has none: the host does everything at once."""

    def on(self, stream: Resource) -> AbstractContextManager[object]:
        """Here."""
        del stream
        return nullcontext()

    def record(self, stream: Resource) -> object:
        """It is done."""
        return stream

    def wait(self, stream: Resource, event: object) -> None:
        """It is done."""

    def share(self, tensor: Tensor) -> None:
        """Memory has no streams here."""


def cases(ranks: Communicator, device: torch.device) -> Iterator[tuple[str, CheckedLayer]]:
    """What is compared, by name."""
    names = ("ep", "ep gather", "sp, ep", "sp, ep gather, ffn tp", "tp, ep") if ranks.size > 1 else ("",)
    for kind in ("moe, shared", "dense", "dense, latent"):
        layer = TWO_RANKS["LAYERS"][kind]
        dense = TWO_RANKS["DENSE_STRATEGIES"] if ranks.size > 1 else {"": LayerStrategy()}
        strategies = {name: TWO_RANKS["MOE_STRATEGIES"].get(name, LayerStrategy()) for name in names}
        for name, strategy in (dense if isinstance(layer.ffn, DenseFfnSpec) else strategies).items():
            for policy in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL):
                checked = TWO_RANKS["_checked"](kind, msgspec.structs.replace(strategy, recompute=policy), ranks)
                yield f"{kind}: {name}, {policy.value}", replace(checked, device=device, dtype=torch.float32)


def passes(checked: CheckedLayer, runner: LayerRunner, draw: random.Random) -> Passes:
    """Forward and backward, on streams."""
    if checked.all_ranks.size == 1:
        forward, backward = ([_drawn(one, draw) for one in ops] for ops in (runner.forward, runner.backward))
        return plan_streams(forward), plan_streams(backward)
    order = TWO_RANKS["_solved"](checked)
    planned = []
    for kind, operators in ((PassKind.FORWARD, runner.forward), (PassKind.BACKWARD, runner.backward)):
        planned.append(plan_streams(on_streams(operators, order.of(kind))))
    return planned[0], planned[1]


def _drawn(operator: Operator, draw: random.Random) -> Placed:
    is_norm = isinstance(operator.work, MemoryWork) and operator.work.kernel is MemoryKernel.NORM
    adds = operator.phase is Pass.WGRAD or (is_norm and operator.phase is Pass.DGRAD)
    return Placed(operator=operator, stream=Resource.COMPUTE if adds else draw.choice(list(Resource)))


class Runs:
    """Micro-batches of a layer."""

    def __init__(self, checked: CheckedLayer) -> None:
        specs = layer_parameters(checked.layer, checked.setting.hidden)
        self.runner = checked.runner(full_weights(specs, checked.device, checked.dtype, seed=5))
        self._hidden, self._upstream = (own_tokens(whole, self.runner.layer) for whole in checked.inputs(0))

    def once(self, planned: Passes, streams: Streams | None, around: Around | None = None) -> dict[str, Tensor]:
        """Output, gradient of the input, and the sums of the gradients so far. `streams` None: one stream."""
        batch = self.runner.start(self._hidden)
        for step, one in enumerate(planned):
            if streams is None:
                batch.run(placed.operator for placed in one.steps)
            else:
                batch.run_on(streams, one, around)
            if step == 0:
                batch.put_output_gradient(self._upstream)
        gradients = {name: gradient.clone() for name, gradient in self.runner.parameters.gradients.items()}
        return {"output": batch.output, "input gradient": batch.take_input_gradient(), **gradients}

    def several(self, count: int, planned: Passes, streams: Streams | None, around: Around | None = None) -> None:
        """Micro-batches, one after the other, from whose results nothing is taken."""
        for _ in range(count):
            self.once(planned, streams, around)


def check(checked: CheckedLayer, seed: int) -> dict[str, object]:
    """Differences, and peak memory, of one case on this rank."""
    draw, runs, on_cuda = random.Random(seed), Runs(checked), checked.device.type == "cuda"
    planned = passes(checked, runs.runner, draw)
    streams = Streams(CudaStreams(checked.device) if on_cuda else HostStreams())
    around = _sleeping(draw) if on_cuda else None
    different = set()
    for _ in range(TRIES):
        found = []
        for used in (None, streams):
            runs.runner.parameters.clear_gradients()
            runs.several(2, planned, used, around)
            found.append(runs.once(planned, used, around))
        assert found[0].keys() == found[1].keys()
        different |= {name for name, tensor in found[0].items() if not torch.equal(tensor, found[1][name])}
    found.clear()
    peaks, held = [], []
    for count in (3, 10):
        peaks.append(_peak_bytes(checked.device, partial(runs.several, count, planned, streams)))
        held.append(streams.num_held())
    return {"different": sorted(different), "peak_bytes": peaks, "num_held": held}


def _sleeping(draw: random.Random) -> Around:
    def around(_: Operator, run: Callable[[], None]) -> None:
        if draw.random() < 0.3:
            torch.cuda._sleep(draw.randrange(LONGEST_SLEEP_CYCLES))
        run()

    return around


def _peak_bytes(device: torch.device, run: Callable[[], None]) -> int:
    if device.type != "cuda":
        run()
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def run_rank(rank: int, num_ranks: int, device_type: str, words: str, port: int) -> None:
    """Check everything on one rank; the first prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)  # sums of rows by index
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=num_ranks)
    ranks = Communicator(size=num_ranks, rank=rank, group=dist.group.WORLD)
    chosen = [(name, checked) for name, checked in cases(ranks, device) if words in name]
    found = {name: check(checked, seed) for seed, (name, checked) in enumerate(chosen)}
    gathered: list[dict[str, dict[str, object]] | None] = [None] * num_ranks
    dist.all_gather_object(gathered, found)
    if rank == 0:
        json.dump(gathered, sys.stdout)
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks."""
    num_ranks, device_type = int(sys.argv[1]), sys.argv[2]
    words = sys.argv[3] if len(sys.argv) > 3 else ""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    method = "fork" if device_type == "cpu" else "spawn"  # with all modules loaded; CUDA cannot be forked
    arguments = (num_ranks, device_type, words, port)
    start_processes(run_rank, args=arguments, nprocs=num_ranks, start_method=method)


if __name__ == "__main__":
    main()
