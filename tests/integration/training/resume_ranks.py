"""Run as a script: trains every plan of a folder that has so many ranks and saves, or goes on from what was saved.

    python tests/integration/training/resume_ranks.py FOLDER NUM_RANKS save|resume

save: two steps, a checkpoint, two more steps, whose results are kept as the truth. resume: every plan goes on from
the checkpoint of every plan of the same model, its own included; prints, as JSON, whether what it comes to is the truth
to the bit, and the greatest relative error.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.router_losses import LossScope, RouterLosses
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.ranks.host_group import host_group
from meshwright.executor.state import buckets, exchange
from meshwright.executor.train.inputs import open_inputs
from meshwright.executor.train.request import RunRequest
from meshwright.executor.train.run_checkpoints import RunCheckpoints
from meshwright.executor.train.trainer import Trainer, TrainingChoices
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import read_plan

PARITY = runpy.run_path(str(Path(__file__).with_name("parity_ranks.py")))
SAVED, STEPS = 2, 4
LOSSES = RouterLosses(even=0.1, scope=LossScope.PER_BATCH)
BIAS_SPEED = 0.01
SUFFIX = ".plan.json"


def main() -> None:
    """Start the ranks."""
    folder, num_ranks, phase = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (num_ranks, port, Path(folder), phase)
    start_processes(run_rank, args=arguments, nprocs=num_ranks, start_method="fork")  # with all modules loaded


def run_rank(rank: int, num_ranks: int, port: int, folder: Path, phase: str) -> None:
    """One phase on one rank; the first prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    buckets.MOST_ELEMENTS, buckets.LEAST_ELEMENTS = 4096, 1024  # several buffers, tiny as the models are
    exchange.ELEMENTS_AT_ONCE = 1000
    PARITY["make_groups_once"]()
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks, timeout=PARITY["TIMEOUT"])
    host = host_group()
    found = {}
    names = sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))
    for name in names:
        plan = read_plan(folder / f"{name}{SUFFIX}")
        if plan.mesh.num_gpus != num_ranks:
            continue
        if phase == "save":
            save(folder, name, plan, rank, host)
            continue
        for source in names:
            if source.partition(":")[0] == name.partition(":")[0]:
                found[f"{source} -> {name}"] = resume(folder, source, name, plan, rank, host)
    if rank == 0:
        json.dump(found, sys.stdout)
    dist.destroy_process_group()


def save(folder: Path, name: str, plan: Plan, rank: int, host: Communicator) -> None:
    """Train, save, train on; the truth lies beside the plan."""
    trainer, checkpoints = made(folder, name, name, plan, rank, host, resumes=False)
    for step in range(SAVED):
        trainer.step(step)
    checkpoints.save(SAVED)
    truth = trained_on(trainer)  # while the checkpoint is being written
    checkpoints.finish()
    if rank == 0:
        torch.save(truth, folder / f"{name}.truth.pt")
    dist.barrier()


def resume(folder: Path, source: str, name: str, plan: Plan, rank: int, host: Communicator) -> dict[str, object]:
    """Go on from a checkpoint; how far that is from the truth of the plan that wrote it."""
    trainer, checkpoints = made(folder, source, name, plan, rank, host, resumes=True)
    assert checkpoints.resume() == SAVED
    found = trained_on(trainer)
    truth: dict[str, Tensor] = torch.load(folder / f"{source}.truth.pt")
    assert found.keys() == truth.keys()
    errors = {key: float((found[key] - truth[key]).norm() / truth[key].norm()) for key in truth}
    return {
        "exact": all(torch.equal(found[key], truth[key]) for key in truth),
        "worst": max(errors, key=lambda key: errors[key]),
        "error": max(errors.values()),
    }


def made(
    folder: Path, source: str, name: str, plan: Plan, rank: int, host: Communicator, *, resumes: bool
) -> tuple[Trainer, RunCheckpoints]:
    """A trainer of a plan, and the checkpoints of `source`."""
    request = RunRequest(
        plan=folder / f"{name}{SUFFIX}",
        output=folder,
        num_steps=STEPS,
        checkpoint=folder / f"{source}.checkpoints",
        resume=resumes,
    )
    inputs = open_inputs(request, plan)
    dist.barrier()
    choices = TrainingChoices(
        numerics=Numerics(device=torch.device("cpu"), dtype=torch.float64, router_losses=LOSSES),
        learning_rate=PARITY["RATE"],
        optimizer=PARITY["OPTIMIZER"],
        bias_speed=BIAS_SPEED,
        seed=int(resumes),  # a resumed run must not depend on its own initial weights
    )
    trainer = Trainer(configuration_of(plan), rank, choices, inputs.data)
    spoil_constants(trainer, 0.0 if resumes else 0.1)
    return trainer, RunCheckpoints(request, plan, inputs.described, trainer, inputs.data, host)


def spoil_constants(trainer: Trainer, value: float) -> None:
    """Biases and loads of experts are all alike at first, which would not show that they were saved."""
    for tensor in trainer.model.constants.values():
        tensor.copy_(value * torch.arange(len(tensor)))


def trained_on(trainer: Trainer) -> dict[str, Tensor]:
    """Losses and norms of the steps after the checkpoint and all parameters in the end."""
    results = [trainer.step(step) for step in range(SAVED, STEPS)]
    figures = {
        "losses": torch.tensor([result.loss for result in results], dtype=torch.float64),
        "norms": torch.tensor([result.gradient_norm for result in results], dtype=torch.float64),
    }
    parameters: dict[str, Tensor] = PARITY["everywhere"](PARITY["all_parameters"](trainer))
    return figures | parameters


if __name__ == "__main__":
    main()
