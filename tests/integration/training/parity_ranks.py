"""Run as a script: trains every plan of a folder on so many processes, and on one by autograd in float64.

    python tests/integration/training/parity_ranks.py FOLDER NUM_RANKS DEVICE DTYPE [HOW]

HOW: one-stream, host-streams, room, ample-room or wide-wire. host-streams: the CPU runs what GPUs run on several
streams, everything at once. room: ranks exchange rows with room for little more than the steps before have needed
(ample-room: for as many as runs have), and what nothing was written to is not a number. wide-wire: what is to travel
in FP8 travels as it is, as bytes. Where there are fewer GPUs than ranks, they share them.

Prints, as JSON, for each plan the greatest relative errors of losses and gradient norms, those of all parameters in the
end, a digest of these, how many steps were done twice, and the operators in which the host waited for a GPU behind the
first step.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import runpy
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from unittest.mock import patch

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.program.operators import Operator
from meshwright.executor.data.synthetic import MarkovTokens
from meshwright.executor.layer import exchange_room
from meshwright.executor.layer.bindings.router import CORRECTION
from meshwright.executor.layer.functions import fp8_rows
from meshwright.executor.layer.router_losses import LOAD, LossScope
from meshwright.executor.layer.run import MicroBatch
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.build import UNTRAINED
from meshwright.executor.model.end_parameters import layer_name
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.model.reference import ReferenceLoss, ReferenceModel
from meshwright.executor.model.whole import whole_masters
from meshwright.executor.ranks import communicators
from meshwright.executor.state import buckets, exchange
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.optimizer import AdamWSettings
from meshwright.executor.train.balancing import Balancing
from meshwright.executor.train.trainer import StepResult, Trainer, TrainingChoices
from meshwright.kernels.dispatch import Implementation, dispatcher
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import read_plan

NUM_STEPS = 6
RATE = LearningRate(peak=1e-2, num_steps=NUM_STEPS, warm_up_steps=2)
OPTIMIZER = AdamWSettings(max_norm=1.0)
TIMEOUT = timedelta(seconds=60)
TINY = 1e-9
WAIT = "called a synchronizing"
"""Torch's words for a host that waits for the device."""
FAVOURITES = torch.tensor([2.0, 1.0])
"""Begin of the biases of routers that are to send every token to the first two experts."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is trained with; `skewed`: routers begin with favourites."""

    balancing: Balancing = Balancing()
    skewed: bool = False


def main() -> None:
    """Start the ranks."""
    folder, num_ranks, device, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    streams = sys.argv[5] if len(sys.argv) > 5 else ""
    method = "fork" if device == "cpu" else "spawn"  # with all modules loaded; CUDA cannot be forked
    arguments = (num_ranks, port, folder, device, dtype, streams)
    start_processes(run_rank, args=arguments, nprocs=num_ranks, start_method=method)


def run_rank(rank: int, num_ranks: int, port: int, folder: str, device_type: str, dtype: str, streams: str) -> None:
    """Train every plan on one rank; the first prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if device_type == "cuda" and torch.cuda.device_count() < num_ranks:  # NCCL lets hosts alone share a GPU
        os.environ |= {"NCCL_HOSTID": f"rank {rank}", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    torch.set_num_threads(1)
    buckets.MOST_ELEMENTS, buckets.LEAST_ELEMENTS = 12000, 3000  # several buffers, tiny as the models are
    exchange.ELEMENTS_AT_ONCE = 3000
    make_groups_once()
    if streams == "wide-wire":
        vars(fp8_rows).update(packed=bytes_of_rows, unpacked=rows_of_bytes)
    if streams == "room":
        vars(exchange_room).update(room_for=little_room)
        torch.use_deterministic_algorithms(mode=True, warn_only=True)  # fills new memory
    numerics = Numerics(device=open_device(device_type, rank), dtype=getattr(torch, dtype))
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=num_ranks, timeout=TIMEOUT)
    found = {}
    for path in sorted(Path(folder).glob("*.plan.json")):
        configuration, case = configuration_of(read_plan(path)), path.name.removesuffix(".plan.json")
        options = msgspec.json.decode(path.with_name(f"{case}.options.json").read_bytes(), type=Options)
        if rank == 0:
            sys.stderr.write(f"{case}\n")  # the last is the one that a run did not come through
        calls_before = kernel_calls()
        with _on_host_streams() if streams == "host-streams" else nullcontext():
            results, waits, initial, final = train(configuration, rank, numerics, options, how=streams)
        if rank == 0:
            found[case] = {
                "errors": errors(configuration, results, initial, final, options),
                "digest": digest(final),
                "expert load": results[-1].expert_load,
                "dropped": results[-1].dropped_fraction,
                "repeated": sum(result.repeated for result in results),
                "waits": waits,
                "kernels": [name for name, calls in kernel_calls().items() if calls > calls_before.get(name, 0)],
            }
        dist.barrier()
    if rank == 0:
        json.dump(found, sys.stdout)
    dist.destroy_process_group()


def little_room(needed_WN: Tensor) -> Tensor:
    """Too little, now and then."""
    most = needed_WN.amax(0)
    return most + most // 8 + 1


def bytes_of_rows(rows: Tensor) -> Tensor:
    """Rows as they travel, without loss."""
    return rows.to(torch.float64).contiguous().view(torch.uint8)


def rows_of_bytes(packed: Tensor) -> Tensor:
    """The rows again."""
    return packed.contiguous().view(torch.float64)


def make_groups_once() -> None:
    """Keep groups of ranks for all plans: to make them takes longer than to train."""
    for make in ("_group", "_group_of_state"):
        setattr(communicators, make, cache(getattr(communicators, make)))


def kernel_calls() -> dict[str, int]:
    """How often CUDA kernels did an operation, so far."""
    record = dispatcher().record()
    return {one.operation: one.calls for one in record if one.implementation is Implementation.CUDA}


@contextmanager
def _on_host_streams() -> Iterator[None]:
    device = runpy.run_path(str(Path(__file__).parents[2] / "unit/executor/overlap_ranks.py"))["HostStreams"]
    with (
        patch.object(Trainer, "_streams", lambda _: Streams(device())),
        patch("meshwright.executor.train.trainer.strategy_sms", lambda _: ()),  # groups of NCCL alone have SMs
    ):
        yield


def open_device(device_type: str, rank: int) -> torch.device:
    """The device of a rank."""
    if device_type == "cpu":
        return torch.device("cpu")
    number = rank % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def train(
    configuration: TrainingConfiguration, rank: int, numerics: Numerics, options: Options, *, how: str
) -> tuple[list[StepResult], list[str], dict[str, Tensor], dict[str, Tensor]]:
    """Some steps; what they showed, where they waited, and all parameters before and after."""
    choices = TrainingChoices(
        numerics=replace(
            numerics,
            router_losses=options.balancing.losses,
            capacity_factor=options.balancing.capacity_factor,
        ),
        learning_rate=RATE,
        optimizer=OPTIMIZER,
        bias_speed=options.balancing.bias_speed,
        one_stream=how == "one-stream",
        has_room=how in ("room", "ample-room"),
    )
    trainer = Trainer(configuration, rank, choices, tokens_of(configuration))
    for name, constant in trainer.model.constants.items():
        if options.skewed and name.endswith(CORRECTION):
            constant[: len(FAVOURITES)] = FAVOURITES
    initial = everywhere(all_parameters(trainer))
    results, waits = [trainer.step(0)], set[str]()
    for step in range(1, NUM_STEPS):
        with noted_waits(numerics.device) as of_step:
            results.append(trainer.step(step))
        if not results[-1].repeated:
            waits |= of_step
    return results, sorted(waits), initial, everywhere(all_parameters(trainer))


@contextmanager
def noted_waits(device: torch.device) -> Iterator[set[str]]:
    """The operators of layers in which the host waits for a GPU, as torch notices it."""
    found: set[str] = set()
    run_one = MicroBatch.run_one

    def run_and_note(micro_batch: MicroBatch, operator: Operator) -> None:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run_one(micro_batch, operator)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found.update(f"{operator.name}: {one.message}" for one in told if WAIT in str(one.message))

    with patch.object(MicroBatch, "run_one", run_and_note) if device.type == "cuda" else nullcontext():
        yield found


def all_parameters(trainer: Trainer) -> dict[str, Tensor]:
    """Masters of what is trained, and what routers go by that is not."""
    constants = {name: constant.clone() for name, constant in trainer.model.constants.items()}
    return whole_masters(trainer.model) | constants


def digest(parameters: dict[str, Tensor]) -> str:
    """Equal to the last bit."""
    found = hashlib.sha256()
    for name in sorted(parameters):
        found.update(parameters[name].numpy().tobytes())
    return found.hexdigest()


def tokens_of(configuration: TrainingConfiguration) -> MarkovTokens:
    """The same tokens for both."""
    workload = configuration.workload
    return MarkovTokens(
        vocabulary=configuration.model.vocab, seq_len=workload.seq_len, global_batch=workload.global_batch, seed=1
    )


def everywhere(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of all stages, in float64 on the CPU."""
    parts = {name: tensor.to("cpu", torch.float64) for name, tensor in parts.items()}
    gathered: list[dict[str, Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, parts)
    return {name: tensor for one in gathered if one is not None for name, tensor in one.items()}


def errors(
    configuration: TrainingConfiguration,
    found: list[StepResult],
    initial: dict[str, Tensor],
    final: dict[str, Tensor],
    options: Options,
) -> dict[str, float]:
    """Against autograd, torch's AdamW and torch's clipping on the whole batch."""
    steps, expected = reference(configuration, initial, options)
    worst = dict.fromkeys(steps[0], 0.0)
    for result, figures in zip(found, steps, strict=True):
        own = {
            "loss": result.loss,
            "gradient norm": result.gradient_norm,
            "aux loss": result.aux_loss,
            "z loss": result.z_loss,
            "dropped": result.dropped_fraction,
        }
        for name, figure in figures.items():
            worst[name] = max(worst[name], abs(own[name] - figure) / max(abs(figure), TINY))
    for name, parameter in expected.items():
        worst[name] = float((final[name] - parameter).norm() / parameter.norm().clamp_min(TINY))
    return worst


References = dict[tuple[object, ...], tuple[list[dict[str, float]], dict[str, Tensor]]]
REFERENCES: References = {}
"""Most plans of a model begin with the same weights and see the same tokens."""


def reference(
    configuration: TrainingConfiguration, initial: dict[str, Tensor], options: Options
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """What every step shows on one process, and the parameters in the end."""
    devices = configuration.mesh.ep if options.balancing.aux_scope is LossScope.PER_DEVICE else 1
    key = (configuration.model, configuration.workload, options, devices, digest(initial))
    if key not in REFERENCES:
        REFERENCES[key] = train_alone(configuration, initial, options)
    return REFERENCES[key]


def train_alone(
    configuration: TrainingConfiguration, initial: dict[str, Tensor], options: Options
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """The same training, by autograd."""
    constants = {name: value.clone() for name, value in initial.items() if name.endswith(UNTRAINED)}
    leaves = {name: value.clone().requires_grad_() for name, value in initial.items() if name not in constants}
    factor = options.balancing.capacity_factor
    model = ReferenceModel(
        model=configuration.model,
        weights=leaves | constants,
        wide=torch.float64,
        capacity_factor=math.inf if isinstance(factor, msgspec.UnsetType) else factor,
    )
    optimizer = torch.optim.AdamW(
        [
            {"params": [leaf for leaf in leaves.values() if leaf.dim() > 1], "weight_decay": OPTIMIZER.weight_decay},
            {"params": [leaf for leaf in leaves.values() if leaf.dim() == 1], "weight_decay": 0.0},
        ],
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.epsilon,
    )
    tokens = tokens_of(configuration)
    steps = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        loss = model.loss(tokens.batch(step, range(configuration.workload.global_batch)))
        even, z = router_losses(loss, constants, options.balancing, configuration.mesh.ep)
        (loss.tokens + even + z).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(leaves.values(), OPTIMIZER.max_norm))
        for group in optimizer.param_groups:
            group["lr"] = RATE.at(step)
        optimizer.step()
        balance(loss, constants, options.balancing.bias_speed)
        steps.append(
            {
                "loss": loss.tokens.item(),
                "gradient norm": norm,
                "aux loss": even.item(),
                "z loss": z.item(),
                "dropped": dropped_fraction(loss),
            }
        )
    return steps, {name: leaf.detach() for name, leaf in (leaves | constants).items()}


def router_losses(
    loss: ReferenceLoss, constants: dict[str, Tensor], balancing: Balancing, num_devices: int
) -> tuple[Tensor, Tensor]:
    """Those of all layers, with their coefficients."""
    even = z = torch.zeros((), dtype=torch.float64)
    for index, routing in loss.routings.items():
        load = constants.get(layer_name(index, LOAD))
        even = even + routing.even_loss(balancing.losses, load, num_devices)
        z = z + routing.z_loss(balancing.losses)
    return even, z


def dropped_fraction(loss: ReferenceLoss) -> float:
    """Choices that were dropped over all."""
    kept = [routing.kept.flatten() for routing in loss.routings.values()]
    return 1 - torch.cat(kept).double().mean().item() if kept else 0.0


def balance(loss: ReferenceLoss, constants: dict[str, Tensor], speed: float) -> None:
    """Move the biases, and keep the load for the next step, one expert after another."""
    for index, routing in loss.routings.items():
        for expert, load in enumerate(routing.load.tolist()):
            if (name := layer_name(index, CORRECTION)) in constants:
                constants[name][expert] += speed * ((load < 1) - (load > 1))
            if (name := layer_name(index, LOAD)) in constants:
                constants[name][expert] = load


if __name__ == "__main__":
    main()
