"""The routed experts of a layer, forward and backward, from router to combine: the executor's against plain PyTorch.

    python benchmarks/moe_ffn.py                           one GPU
    python benchmarks/moe_ffn.py --num-gpus 2              experts over two GPUs of a host (starts both ranks itself)
    python benchmarks/moe_ffn.py --device cpu --tiny       anywhere: tiny shapes, to try the driver itself
    python benchmarks/moe_ffn.py --table benchmarks/moe_ffn.json

8,192 tokens a GPU in BF16, natural routing of random tokens, grouped products by torch's `grouped_mm` everywhere.
`kernels` is the executor's layer with its CUDA kernels; `plain` the same computation with PyTorch's operators and
autograd; `compiled` that with its pieces between products and exchanges compiled. Before anything is timed, all results
of each (output, gradients of input, router and experts) are compared with autograd of a float32 reference. A time is
the median of passes, host included, the slowest rank's; the implementations take turns, a few passes each, so that
clocks and temperature are the same for all. TFLOP/s count the products of chosen experts alone. Runs with other numbers
of GPUs are kept in the JSON, which is written whole and renamed.
Needs PYTHONPATH=src where Meshwright is not installed.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from meshwright.costmodel.value import Value
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer_timing.clock import Mark, wait_for
from meshwright.executor.layer_timing.machine import describe_machine
from meshwright.executor.layer_timing.moe_block import Implementation, MoeBlock, block_errors, moe_block
from meshwright.executor.layer_timing.moe_layer import LayerExperts
from meshwright.executor.layer_timing.moe_plain import PlainExperts
from meshwright.kernels.checking.spread import Spread, spread
from meshwright.kernels.dispatch import Choice, dispatcher
from meshwright.kernels.library import make_ready, why_not_device
from meshwright.planner.dated_record import exit_status, origin_of, read_version, write_record

SCHEMA_VERSION = 1
SHAPES = {"qwen3-30b-a3b": 128, "deepseek-v3": 64}
TINY_SHAPES = {"deepseek-moe-16b": 8}
TARGET_RATIO = 1.2
LIMIT = {torch.bfloat16: 0.03, torch.float32: 1e-4}
COMPILE_RESERVE_S = 15.0


class Timed(Value, frozen=True, kw_only=True):
    """An implementation of a block. `worst_error`: of all results, relative; `time` is empty where it was left out."""

    implementation: str
    worst_error: float
    time: Spread | None
    tflops_per_s: float
    note: str = ""


class Row(Value, frozen=True, kw_only=True):
    """A block on so many GPUs."""

    block: str
    num_gpus: int
    tokens_per_gpu: int
    timed: tuple[Timed, ...]

    def ratio(self, other: str) -> float:
        """Another implementation's time over that of the kernels; 0 where one was not timed."""
        times = {timed.implementation: timed.time for timed in self.timed}
        own, their = times.get("kernels"), times.get(other)
        return their.median_s / own.median_s if own and their else 0.0


class Run(Value, frozen=True, kw_only=True):
    """All blocks on so many GPUs."""

    machine: dict[str, str]
    date: str
    command: str
    rows: tuple[Row, ...]
    kernels: tuple[Choice, ...]


class Record(Value, frozen=True, kw_only=True):
    """The last run with each number of GPUs."""

    schema_version: int
    runs: dict[str, Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """This process among those of the run."""

    ranks: Communicator
    device: torch.device
    started_s: float

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def show(self, text: str) -> None:
        """Print, once for all ranks."""
        if self.ranks.rank == 0:
            print(text, flush=True)

    def worst(self, number: float) -> float:
        """The largest of all ranks' numbers."""
        if self.ranks.size == 1:
            return number
        numbers = torch.tensor([number], device=self.device, dtype=torch.float64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return float(numbers)


def main() -> int:
    """Start the ranks; the exit status is 1 where something is wrong."""
    options = parse_options()
    if options.table:
        print(table(read_version(options.table, Record, SCHEMA_VERSION)))
        return 0
    if options.num_gpus == 1:
        return run_rank(0, options, 0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(_spawned, args=(options, port), nprocs=options.num_gpus)
    return 0


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="", help=f"of {','.join(SHAPES)}, separated by commas; all where empty")
    parser.add_argument("--tokens", type=int, help="a GPU; default: 8192, of a tiny block 64")
    parser.add_argument("--rounds", type=int, default=4, help="in which implementations take turns")
    parser.add_argument("--passes", type=int, default=8, help="of an implementation in a round")
    parser.add_argument("--seconds", type=float, help="nothing is compiled after so long; default: 35, tiny blocks 0")
    parser.add_argument("--tiny", action="store_true", help="small shapes: only a try")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print a record as a table, and nothing else")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.tokens is None:
        options.tokens = 64 if options.tiny else 8192
    if options.seconds is None:
        options.seconds = 0.0 if options.tiny else 35.0
    unknown = set(filter(None, options.models.split(","))) - set(SHAPES)
    if unknown:
        parser.error(f"--models: {', '.join(sorted(unknown))}: expected {', '.join(SHAPES)}")
    return options


def _spawned(number: int, options: argparse.Namespace, port: int) -> None:
    if run_rank(number, options, port):
        raise SystemExit(1)


def run_rank(number: int, options: argparse.Namespace, port: int) -> int:
    """One rank's part of everything."""
    started_s = time.perf_counter()
    device = torch.device(options.device, number) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        problem = why_not_device(number) or make_ready(lambda line: print(line, flush=True))
        if problem:
            print(f"moe_ffn: {problem}", file=sys.stderr)
            return 1
        os.environ["MESHWRIGHT_KERNELS"] = "cuda"  # nothing may fall back
    else:
        torch.set_num_threads(1)
    if options.num_gpus > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=number, world_size=options.num_gpus)
    group = dist.group.WORLD if options.num_gpus > 1 else None
    ranks = Communicator(size=options.num_gpus, rank=number, group=group)
    try:
        return time_all(Rank(ranks=ranks, device=device, started_s=started_s), options)
    finally:
        if options.num_gpus > 1:
            dist.destroy_process_group()


def time_all(rank: Rank, options: argparse.Namespace) -> int:
    """Check and time every block, write what there is after each."""
    rows: list[Row] = []
    shapes = TINY_SHAPES if options.tiny else SHAPES
    for model, num_experts in shapes.items():
        if options.models and model not in options.models.split(","):
            continue
        block = moe_block(model, num_experts, rank.ranks, rank.device, rank.dtype)
        rows.append(time_block(block, rank, options))
        if rank.ranks.rank == 0:
            write_record(_with_run(options.output, _run(rows, rank)), options.output)
    rank.show("\n" + _lines(rows))
    limit = LIMIT[rank.dtype]
    wrong = [timed for row in rows for timed in row.timed if not timed.worst_error <= limit]
    for timed in wrong:
        rank.show(f"WRONG: {timed.implementation}: {timed.worst_error:.1e}, limit {limit:.0e}")
    return 1 if wrong else 0


def time_block(block: MoeBlock, rank: Rank, options: argparse.Namespace) -> Row:
    """All implementations of a block: first their errors, then their times, in turns."""
    whole = block.whole_weights()
    weights = block.own_part(whole)
    makers: dict[str, Callable[[int], Implementation]] = {
        "kernels": lambda num_tokens: LayerExperts(block, weights, num_tokens),
        "plain": lambda _: PlainExperts(block, weights),
    }
    notes: dict[str, str] = {}
    if rank.device.type == "cuda":
        spent_s = rank.worst(time.perf_counter() - rank.started_s)
        if spent_s + COMPILE_RESERVE_S < options.seconds:
            makers["compiled"] = lambda _: PlainExperts(block, weights, _compiled(block.ranks.size))
        else:
            notes["compiled"] = "no time left"
    errors = {}
    for name, make in makers.items():
        found = block_errors(block, whole, make(options.tokens), options.tokens)
        worst = max(found, key=lambda what: found[what])
        errors[name] = rank.worst(found[worst])
        rank.show(f"{block.name}: {name}: worst of {len(found)} results, {worst}, {errors[name]:.1e} off")
    del whole
    if rank.device.type == "cuda":
        torch.cuda.empty_cache()
    times = time_in_turns(block, {name: make(options.tokens) for name, make in makers.items()}, rank, options)
    flops = block.flops(options.tokens)
    timed = [
        Timed(
            implementation=name,
            worst_error=errors[name],
            time=times[name],
            tflops_per_s=flops / times[name].median_s / 1e12,
        )
        for name in makers
    ]
    timed += [
        Timed(implementation=name, worst_error=0.0, time=None, tflops_per_s=0.0, note=note)
        for name, note in notes.items()
    ]
    return Row(block=block.name, num_gpus=block.ranks.size, tokens_per_gpu=options.tokens, timed=tuple(timed))


def _compiled(num_ranks: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Over several ranks the number of rows changes with every pass: compiled for any."""
    torch._dynamo.reset()
    dynamic = num_ranks > 1

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = torch.compile(function, dynamic=dynamic)
        return compiled

    return compile_


def time_in_turns(
    block: MoeBlock, implementations: dict[str, Implementation], rank: Rank, options: argparse.Namespace
) -> dict[str, Spread]:
    """Spread of each implementation's passes; of several ranks the slowest."""
    x, upstream = block.inputs(options.tokens)
    for run in implementations.values():
        for _ in range(3):
            run(x, upstream)
    passes_s: dict[str, list[float]] = {name: [] for name in implementations}
    for _ in range(options.rounds):
        for name, run in implementations.items():
            run(x, upstream)  # its memory is in the allocator's cache again
            if rank.ranks.size > 1:
                dist.barrier()
            wait_for(rank.device)
            marks = [Mark(rank.device)]
            for _ in range(options.passes):
                run(x, upstream)
                marks.append(Mark(rank.device))
            wait_for(rank.device)
            passes_s[name] += [start.seconds_until(end) for start, end in pairwise(marks)]
    return {name: _slowest(spread(times_s), rank) for name, times_s in passes_s.items()}


def _slowest(own: Spread, rank: Rank) -> Spread:
    return Spread(median_s=rank.worst(own.median_s), low_s=rank.worst(own.low_s), high_s=rank.worst(own.high_s))


# Reporting.


def _run(rows: list[Row], rank: Rank) -> Run:
    origin = origin_of(__file__)
    return Run(
        machine=describe_machine(rank.device, rank.ranks.size),
        date=origin.date,
        command=origin.command,
        rows=tuple(rows),
        kernels=dispatcher().record(),
    )


def _with_run(path: Path, run: Run) -> Record:
    """The record that is there, if one is, with this run in it."""
    runs = read_version(path, Record, SCHEMA_VERSION).runs if path.exists() else {}
    return Record(schema_version=SCHEMA_VERSION, runs={**runs, run.machine["num_gpus"]: run})


def table(record: Record) -> str:
    """All runs as a Markdown table."""
    parts = [
        f"{run.machine['device']} x {run.machine['num_gpus']}, torch {run.machine['torch']}, {run.date[:10]}.\n\n"
        f"{_lines(list(run.rows))}"
        for run in record.runs.values()
    ]
    return "\n\n".join(parts)


def _lines(rows: list[Row]) -> str:
    head = [
        f"| experts of | GPUs | tokens a GPU | | ms | TFLOP/s a GPU | kernels are faster by ({TARGET_RATIO}) | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_line(row, timed) for row in rows for timed in row.timed)])


def _line(row: Row, timed: Timed) -> str:
    start = f"| {row.block} | {row.num_gpus} | {row.tokens_per_gpu} | {timed.implementation} |"
    if timed.time is None:
        return f"{start} {timed.note} | | | |"
    ratio = "" if timed.implementation == "kernels" else f"{row.ratio(timed.implementation):.2f}"
    return f"{start} {timed.time.median_s * 1e3:.2f} | {timed.tflops_per_s:.0f} | {ratio} | {timed.worst_error:.1e} |"


if __name__ == "__main__":
    sys.exit(exit_status(main, __file__))
