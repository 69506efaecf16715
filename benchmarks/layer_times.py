"""Single layers, operator by operator: measured beside predicted.

    python benchmarks/layer_times.py                       one GPU
    python benchmarks/layer_times.py --num-gpus 2          two GPUs of a host: EP2, SP2, TP2 (starts both ranks itself)
    python benchmarks/layer_times.py --num-gpus 2 --overlap    the passes on several streams, too, as they are solved
    python benchmarks/layer_times.py --check               first: small layers, all gradients against float32 autograd
    python benchmarks/layer_times.py --again FILE.json     anywhere: measured layers beside present predictions
    python benchmarks/layer_times.py --device cpu --tiny   anywhere: tiny shapes, to try the driver itself

Layers of the six models of MegaScale-MoE's table 2 (sequence 8,192), of Qwen3-30B-A3B and of Llama-3.1-8B (4,096 and
8,192), in BF16, run by `meshwright.executor.layer`: one stream, operators issued from Python one after another, eager
or (--compile) with memory-bound functions compiled. Routing is balanced unless --natural-routing. An operator's time is
the median of CUDA events around it in 25 passes of the layer, with the host ahead; a pass's time that of whole passes
one after another, host included. Every layer's output is first compared with a float32 reference. The table's `error`
is predicted over measured, less one. Writes JSON after each layer: a run that is cut off leaves what it has.
Needs PYTHONPATH=src where Meshwright is not installed; neither PuLP nor HiGHS.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, MoeFfnSpec
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.pass_times import problem_of, sm_shares
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.strategy import Recompute
from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer.cuda_streams import CudaStreams
from meshwright.executor.layer.groups import Communicator, groups_over_all_ranks
from meshwright.executor.layer.streams import Streams
from meshwright.executor.layer_timing.cases import MODELS, Case, make_case, shapes_for, strategies_for, timed_layer
from meshwright.executor.layer_timing.gradient_check import CheckedLayer, gradient_errors, host_waits
from meshwright.executor.layer_timing.machine import describe_machine
from meshwright.executor.layer_timing.measure import Overlap, TimingChoice, measure_layer
from meshwright.executor.layer_timing.predict_again import predicted_again
from meshwright.executor.layer_timing.prediction import LayerPrediction, host_cluster, overlapping, plain_runtime
from meshwright.executor.layer_timing.record import (
    LAYER_TIMES_SCHEMA_VERSION,
    LayerTimes,
    LayerTimesRecord,
    read_record,
    write_record,
)
from meshwright.executor.layer_timing.table import layer_table, operator_table, summary_table
from meshwright.executor.ranks.communicators import group_on_sms
from meshwright.kernels.dispatch import dispatcher
from meshwright.planner.dated_record import exit_status, origin_of
from meshwright.planner.operator_order import solve_pass

CPU_MEMORY_BYTES = 1e12
CHECK_LIMIT = {torch.bfloat16: 0.03, torch.float32: 1e-4}
GQA = AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=64, value_head_dim=64)
NORMED = AttentionSpec(num_heads=8, num_kv_heads=2, head_dim=64, value_head_dim=64, qk_norm=True)
LATENT = AttentionSpec(
    num_heads=4,
    num_kv_heads=4,
    head_dim=192,
    value_head_dim=128,
    kv_lora_rank=128,
    query_lora_rank=128,
    rope_head_dim=64,
)
CHECKED_LAYERS = {
    "dense": LayerSpec(attention=GQA, ffn=DenseFfnSpec(intermediate=1024)),
    "dense, normed heads": LayerSpec(attention=NORMED, ffn=DenseFfnSpec(intermediate=1024)),
    "moe": LayerSpec(
        attention=NORMED, ffn=MoeFfnSpec(num_experts=8, top_k=2, intermediate=512, shared_intermediate=512)
    ),
    "moe, empty experts": LayerSpec(attention=GQA, ffn=MoeFfnSpec(num_experts=128, top_k=2, intermediate=128)),
    "latent": LayerSpec(attention=LATENT, ffn=DenseFfnSpec(intermediate=1024)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """This process among those of the run."""

    number: int
    world: int
    device: torch.device
    group: dist.ProcessGroup | None = None

    @property
    def communicator(self) -> Communicator:
        """All ranks."""
        return Communicator(size=self.world, rank=self.number, group=self.group)

    def agree(self, flag: bool) -> bool:
        """The first rank's answer, on all ranks."""
        if self.world == 1:
            return flag
        answer = torch.tensor([int(flag)], device=self.device)
        dist.broadcast(answer, 0)
        return bool(answer.item())

    def show(self, text: str) -> None:
        """Print, once for all ranks."""
        if self.number == 0:
            print(text, flush=True)


def main() -> int:
    """Start the ranks; the exit status is 1 where something failed."""
    options = parse_options()
    if options.again:
        return predict_again(options)
    if options.num_gpus == 1:
        return run_rank(0, options, 0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(run_rank, args=(options, port), nprocs=options.num_gpus)
    return 0


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default=",".join(MODELS), help="presets, separated by commas")
    parser.add_argument("--strategies", default="", help="names, separated by commas; all where empty")
    parser.add_argument("--shapes", default="", help="such as 4096x1,8192x2 (sequence x micro-batch)")
    parser.add_argument("--attention", choices=[kernel.value for kernel in AttentionKernel], default="cudnn")
    parser.add_argument("--compile", action="store_true", help="compile memory-bound functions")
    parser.add_argument("--natural-routing", action="store_true")
    parser.add_argument("--overlap", action="store_true", help="time passes on several streams, too; needs GPUs")
    parser.add_argument("--sms", type=int, default=0, help="SMs of collectives; with --overlap a share of the profile")
    parser.add_argument("--passes", type=int, default=25)
    parser.add_argument(
        "--profile", default="", help="hardware profile that predicts, name or path; by GPU where empty"
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="no layer is begun after so long")
    parser.add_argument("--check", action="store_true", help="only check gradients of small layers")
    parser.add_argument("--again", type=Path, help="predict the layers of this file anew; needs no GPU")
    parser.add_argument("--tiny", action="store_true", help="small made-up layers: only a try")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    for name in ("overlap", "sms"):
        if getattr(options, name) and options.device == "cpu":
            parser.error(f"--{name}: needs GPUs")
    return options


def predict_again(options: argparse.Namespace) -> int:
    """Measured layers beside present predictions; written where --output says, which may be the same file."""
    record = read_record(options.again)
    record = predicted_again(record, options.profile or record.profile)
    write_record(options.output, record)
    print(f"{operator_table(record.layers)}\n\n{summary_table(record.layers)}")
    return 0


def run_rank(number: int, options: argparse.Namespace, port: int) -> int:
    """One rank's part of everything."""
    rank = _join(number, options, port)
    try:
        return check_all(rank, options) if options.check else time_all(rank, options)
    finally:
        if rank.world > 1:
            dist.destroy_process_group()


def _join(number: int, options: argparse.Namespace, port: int) -> Rank:
    device = torch.device(options.device, number) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    if options.num_gpus > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=number, world_size=options.num_gpus)
    options.profile = options.profile or _profile_of(device)
    return Rank(number=number, world=options.num_gpus, device=device, group=_group(options))


def _group(options: argparse.Namespace) -> dist.ProcessGroup | None:
    """All ranks, on as many SMs as asked for."""
    if options.num_gpus == 1:
        return None
    return group_on_sms(tuple(range(options.num_gpus)), options.sms) if options.sms else dist.group.WORLD


def _profile_of(device: torch.device) -> str:
    """The shipped profile of a GPU, the H100's for anything unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((gpu.lower() for gpu in ("H200", "H800", "H20", "A100") if gpu in name), "h100")


# Timing.


def time_all(rank: Rank, options: argparse.Namespace) -> int:
    """Time every case, write what there is after each."""
    started_s, done, failed = time.perf_counter(), list[LayerTimes](), 0
    for case in cases(rank, options):
        if not rank.agree(time.perf_counter() - started_s < options.seconds):
            rank.show(f"out of time before {case.title}")
            break
        try:
            done.append(_time_one(case, rank, options))
        except (MeshwrightError, RuntimeError) as problem:
            if rank.world > 1:
                raise  # the other ranks wait in a collective: nothing to go on with
            failed += 1
            rank.show(f"{case.title}: FAILED: {problem}")
            continue
        rank.show(layer_table(done[-1]) + "\n")
        if rank.number == 0:
            write_record(options.output, _record(done, rank, options))
    rank.show(f"{operator_table(done)}\n\n{summary_table(done)}")
    return 1 if failed else 0


def _time_one(case: Case, rank: Rank, options: argparse.Namespace) -> LayerTimes:
    on_cuda = rank.device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
    if options.compile:
        torch._dynamo.reset()  # every layer has shapes of its own
    choice = TimingChoice(
        device=rank.device,
        dtype=torch.bfloat16 if on_cuda else torch.float32,
        attention_kernel=AttentionKernel(options.attention) if on_cuda else AttentionKernel.FORMULA,
        fuse=options.compile,
        balanced=not options.natural_routing,
        passes=options.passes,
    )
    cluster = host_cluster(options.profile, rank.world)
    on_kernels = dispatcher().why_not_on(rank.device) is None
    runtime = plain_runtime(choice.attention_kernel, fused_kernels=choice.fuse, custom_kernels=on_kernels)
    strategy = case.setting.strategy
    return measure_layer(
        case,
        choice,
        groups_over_all_ranks(strategy, rank.communicator),
        replica=rank.number // strategy.replica_gpus,
        predict=lambda timed: LayerPrediction(timed.program, cluster, runtime),
        overlap=_overlap(case, cluster, overlapping(runtime), rank, options.sms) if options.overlap else None,
    )


def _overlap(case: Case, cluster: ClusterSpec, runtime: RuntimeSpec, rank: Rank, num_sms: int) -> Overlap:
    """The order that the solver finds, which is the same on all ranks."""
    program = case.program
    share = next((one for one in sm_shares(cluster, runtime) if one.num_sms == num_sms), None)
    if num_sms and share is None:
        known = ", ".join(str(one.num_sms) for one in sm_shares(cluster, runtime))
        raise MeshwrightError(f"--sms: {num_sms} is no share that the profile has; expected one of {known}")
    orders = {}
    for kind in (PassKind.FORWARD, PassKind.BACKWARD):
        problem = problem_of(pass_operators(program, Recompute.NONE, kind), cluster, runtime, share)
        orders[kind.value] = solve_pass(problem, num_nodes=1500, num_replays=250).ordered.order()
    order = LayerOrder(**orders)
    return Overlap(
        streams=Streams(CudaStreams(rank.device)),
        order=order,
        prediction=LayerPrediction(program, cluster, runtime, order),
    )


def cases(rank: Rank, options: argparse.Namespace) -> Iterator[Case]:
    """What the options ask for."""
    wanted = set(filter(None, options.strategies.split(",")))
    if options.tiny:
        yield from (case for case in _tiny_cases(rank) if not wanted or case.strategy_name in wanted)
        return
    memory_bytes = CPU_MEMORY_BYTES
    if rank.device.type == "cuda":
        memory_bytes = torch.cuda.get_device_properties(rank.device).total_memory
    for model in options.models.split(","):
        strategies = strategies_for(timed_layer(load_model(model)), rank.world)
        for seq_len, micro_batch in _shapes(model, options):
            for name, strategy in strategies.items():
                if not wanted or name in wanted:
                    case = make_case(
                        model,
                        name,
                        strategy,
                        seq_len=seq_len,
                        micro_batch=micro_batch,
                        num_gpus=rank.world,
                        memory_bytes=memory_bytes,
                    )
                    yield case


def _shapes(model: str, options: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    if options.shapes:
        pairs = (shape.split("x") for shape in options.shapes.split(","))
        return tuple((int(seq_len), int(micro_batch)) for seq_len, micro_batch in pairs)
    return shapes_for(model)


def _tiny_cases(rank: Rank) -> Iterator[Case]:
    for kind, layer in CHECKED_LAYERS.items():
        for name, strategy in strategies_for(layer, rank.world).items():
            setting = ProgramSetting(
                hidden=256,
                micro_batch=1,
                seq_len=64,
                strategy=strategy,
                gpus_per_node=rank.world,
                fp32_gradients=False,
            )
            yield Case(model=kind, strategy_name=name, layer=layer, setting=setting, num_experts_of_model=0)


def _record(done: list[LayerTimes], rank: Rank, options: argparse.Namespace) -> LayerTimesRecord:
    origin = origin_of(__file__)
    return LayerTimesRecord(
        schema_version=LAYER_TIMES_SCHEMA_VERSION,
        machine=describe_machine(rank.device, rank.world),
        date=origin.date,
        command=origin.command,
        profile=options.profile,
        layers=tuple(done),
        kernels=dispatcher().record(),
    )


# Checking.


def check_all(rank: Rank, options: argparse.Namespace) -> int:
    """Print the worst error of every small layer under every strategy; 1 where one is above the limit."""
    failed = 0
    dtype = torch.bfloat16 if rank.device.type == "cuda" else torch.float32
    for kind, layer in CHECKED_LAYERS.items():
        for name, strategy in strategies_for(layer, rank.world).items():
            checked = CheckedLayer(
                layer=layer,
                setting=ProgramSetting(
                    hidden=512, micro_batch=2, seq_len=256, strategy=strategy, gpus_per_node=rank.world
                ),
                device=rank.device,
                dtype=dtype,
                all_ranks=rank.communicator,
                attention_kernel=_kernel(rank, options),
                fuse=options.compile,
            )
            failed += _check_one(f"{kind}, {name}", checked, rank)
    return 1 if failed else 0


def _kernel(rank: Rank, options: argparse.Namespace) -> AttentionKernel:
    return AttentionKernel(options.attention) if rank.device.type == "cuda" else AttentionKernel.FORMULA


def _check_one(title: str, checked: CheckedLayer, rank: Rank) -> bool:
    try:
        errors = gradient_errors(checked)
    except RuntimeError as problem:
        if rank.world > 1:
            raise
        rank.show(f"{title:<40} FAILED: {problem}")
        return True
    worst = max(errors, key=lambda name: errors[name])
    wrong = not errors[worst] <= CHECK_LIMIT[checked.dtype]
    rank.show(f"{title:<40} worst {worst} {errors[worst]:.2e}{'  WRONG' if wrong else ''}")
    if wrong:
        rank.show("  " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    waits = host_waits(checked) if rank.world == 1 and rank.device.type == "cuda" else ""
    if waits:
        rank.show(f"  the host waits for the device: {waits}")
    return wrong or bool(waits)


if __name__ == "__main__":
    sys.exit(exit_status(main, __file__))
