"""Run as a script: trains every plan of a folder on so many processes, and on one by autograd in float64.

    python tests/integration/training/parity_ranks.py FOLDER NUM_RANKS DEVICE DTYPE

Prints, as JSON, for each plan the greatest relative errors of losses and gradient norms, those of all parameters in the
end, and a digest of these.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.executor.data.synthetic import MarkovTokens
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.model.reference import ReferenceModel
from meshwright.executor.model.whole import whole_masters
from meshwright.executor.state import buckets, exchange
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.optimizer import AdamWSettings
from meshwright.executor.train.trainer import StepResult, Trainer, TrainingChoices
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.serialise import read_plan

NUM_STEPS = 6
RATE = LearningRate(peak=1e-2, num_steps=NUM_STEPS, warm_up_steps=2)
OPTIMIZER = AdamWSettings(max_norm=1.0)
TIMEOUT = timedelta(seconds=60)


def main() -> None:
    """Start the ranks."""
    folder, num_ranks, device, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(run_rank, args=(num_ranks, port, folder, device, dtype), nprocs=num_ranks)


def run_rank(rank: int, num_ranks: int, port: int, folder: str, device_type: str, dtype: str) -> None:
    """Train every plan on one rank; the first prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    buckets.MOST_ELEMENTS, buckets.LEAST_ELEMENTS = 4096, 1024  # several buffers, tiny as the models are
    exchange.ELEMENTS_AT_ONCE = 1000
    numerics = Numerics(device=open_device(device_type, rank), dtype=getattr(torch, dtype))
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=num_ranks, timeout=TIMEOUT)
    found = {}
    for path in sorted(Path(folder).glob("*.plan.json")):
        configuration = configuration_of(read_plan(path))
        results, initial, final = train(configuration, rank, numerics)
        if rank == 0:
            found[path.name.removesuffix(".plan.json")] = {
                "errors": errors(configuration, results, initial, final),
                "digest": digest(final),
            }
        dist.barrier()
    if rank == 0:
        json.dump(found, sys.stdout)
    dist.destroy_process_group()


def open_device(device_type: str, rank: int) -> torch.device:
    """The device of a rank."""
    if device_type == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def train(
    configuration: TrainingConfiguration, rank: int, numerics: Numerics
) -> tuple[list[StepResult], dict[str, Tensor], dict[str, Tensor]]:
    """Six steps; what they showed, and all parameters before and after."""
    choices = TrainingChoices(numerics=numerics, learning_rate=RATE, optimizer=OPTIMIZER)
    trainer = Trainer(configuration, rank, choices, tokens_of(configuration))
    initial = everywhere(whole_masters(trainer.model))
    results = [trainer.step(step) for step in range(NUM_STEPS)]
    return results, initial, everywhere(whole_masters(trainer.model))


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
    configuration: TrainingConfiguration, found: list[StepResult], initial: dict[str, Tensor], final: dict[str, Tensor]
) -> dict[str, float]:
    """Against autograd, torch's AdamW and torch's clipping on the whole batch."""
    leaves = {name: value.clone().requires_grad_() for name, value in initial.items()}
    model = ReferenceModel(model=configuration.model, weights=leaves, wide=torch.float64)
    optimizer = torch.optim.AdamW(
        [
            {"params": [leaf for leaf in leaves.values() if leaf.dim() > 1], "weight_decay": OPTIMIZER.weight_decay},
            {"params": [leaf for leaf in leaves.values() if leaf.dim() == 1], "weight_decay": 0.0},
        ],
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.epsilon,
    )
    tokens = tokens_of(configuration)
    worst = {"loss": 0.0, "gradient norm": 0.0}
    for step, result in enumerate(found):
        optimizer.zero_grad()
        loss = model.loss(tokens.batch(step, range(configuration.workload.global_batch)))
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(leaves.values(), OPTIMIZER.max_norm))
        for group in optimizer.param_groups:
            group["lr"] = RATE.at(step)
        optimizer.step()
        expected = loss.item()
        worst["loss"] = max(worst["loss"], abs(result.loss - expected) / expected)
        worst["gradient norm"] = max(worst["gradient norm"], abs(result.gradient_norm - norm) / norm)
    with torch.no_grad():
        for name, leaf in leaves.items():
            worst[name] = float((final[name] - leaf).norm() / leaf.norm())
    return worst


if __name__ == "__main__":
    main()
