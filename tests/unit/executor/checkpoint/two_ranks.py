"""Run as a script: two processes over gloo save or load a made-up state, cut in every way, and say what they found.

python tests/unit/executor/checkpoint/two_ranks.py save|load|fail FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.costmodel.errors import InputError
from meshwright.executor.checkpoint.checkpointer import Checkpointer
from meshwright.executor.checkpoint.cut_pieces import flat_pieces, part_pieces
from meshwright.executor.checkpoint.folder import CheckpointFolder
from meshwright.executor.checkpoint.manifest import DataPosition, Manifest
from meshwright.executor.checkpoint.pieces import Piece, ShardedState, whole
from meshwright.executor.layer.groups import Communicator, LayerGroups
from meshwright.executor.layer.parameters import Block, Cut, ParameterSpec
from meshwright.executor.ranks.host_group import host_group

WORLD = 2
MODEL = "a" * 64
HEAD = Block(count=1, size=3)
SPECS = (
    # Heads of 3: four of queries, one of keys and one of values, which both ranks hold.
    ParameterSpec(name="qkv", shape=(18, 5), cut=Cut.TENSOR, blocks=(Block(count=4, size=3), HEAD, HEAD)),
    ParameterSpec(name="fc1", shape=(12, 5), cut=Cut.FFN, blocks=(Block(count=6), Block(count=6))),
    ParameterSpec(name="fc2", shape=(5, 6), cut=Cut.FFN, dim=1, blocks=(Block(count=6),)),
    ParameterSpec(name="experts_fc1", shape=(4, 6, 5), cut=Cut.EXPERT, blocks=(Block(count=4),)),
    ParameterSpec(name="norm1", shape=(5,)),
)


def full_state() -> dict[str, Tensor]:
    """The whole tensors, by name: weights, and moments that are sharded flat over data ranks."""
    generator = torch.Generator().manual_seed(3)
    kinds = {"": torch.bfloat16, "moment.": torch.float32}
    state = {
        f"{kind}{spec.name}": torch.randn(spec.shape, generator=generator).to(dtype)
        for kind, dtype in kinds.items()
        for spec in SPECS
    }
    return {**state, "steps": torch.tensor(7)}


def state_of(ranks: Communicator, full: dict[str, Tensor]) -> tuple[ShardedState, dict[str, Tensor]]:
    """This rank's pieces of a copy of the state, and the tensors that they are views of."""
    groups = LayerGroups(tensor=ranks, ffn=ranks, expert=ranks)
    own: dict[str, Tensor] = {}
    pieces: list[Piece] = []
    for spec in SPECS:
        own[spec.name] = spec.part(full[spec.name], groups).clone()
        pieces += part_pieces(spec.name, spec, groups, own[spec.name])
        name = f"moment.{spec.name}"
        own[name] = _flat_shard(full[name], ranks)
        start = ranks.rank * -(-full[name].numel() // ranks.size)
        pieces += flat_pieces(name, spec, LayerGroups(), own[name], start=start, part_shape=spec.shape)
    own["steps"] = full["steps"].clone()
    return ShardedState([*pieces, whole("steps", own["steps"])]), own


def _flat_shard(full: Tensor, ranks: Communicator) -> Tensor:
    each = -(-full.numel() // ranks.size)
    return full.flatten()[ranks.rank * each : (ranks.rank + 1) * each].clone()


def manifest(step: int) -> Manifest:
    """Of a made-up run."""
    return Manifest(
        model="tiny",
        model_sha256=MODEL,
        plan_sha256="b" * 64,
        step=step,
        data=DataPosition(source="uniform", seed=1, global_batch=8, seq_len=4, next_step=step),
        extra={"loss": 2.5},
    )


def wrong(full: dict[str, Tensor], own: dict[str, Tensor], ranks: Communicator) -> list[str]:
    """The tensors that differ from what they should be."""
    _, expected = state_of(ranks, full)
    return [name for name in own if not torch.equal(own[name], expected[name])]


def load(folder: Path, ranks: Communicator) -> list[object]:
    """The step that is loaded, and what is wrong with it."""
    full = full_state()
    state, own = state_of(ranks, {name: torch.zeros_like(tensor) for name, tensor in full.items()})
    found = Checkpointer(CheckpointFolder(path=folder), ranks).load(state, MODEL)
    return [found.step if found else None, *wrong(full, own, ranks)]


def save(folder: Path, ranks: Communicator, without: str = "") -> str:
    """Save; what went wrong. `without` is a tensor that the second rank forgets."""
    state, _ = state_of(ranks, full_state())
    if ranks.rank == 1:
        state = ShardedState([piece for piece in state if piece.name != without])
    checkpointer = Checkpointer(CheckpointFolder(path=folder), ranks)
    checkpointer.save(state, manifest(5))
    try:
        checkpointer.wait()
    except InputError as error:
        return str(error)
    return ""


def load_undamaged(folder: Path, ranks: Communicator) -> list[object]:
    """As `load`, with what the first rank is told, where the file of the second has changed in the newest of two."""
    checkpoints = CheckpointFolder(path=folder)
    checkpointer = Checkpointer(checkpoints, ranks)
    state, _ = state_of(ranks, full_state())
    for step in (1, 2):
        checkpointer.save(state, manifest(step))
        checkpointer.wait()
    if ranks.rank == 0:
        with (checkpoints.of_step(2) / "__1_0.distcp").open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 8)
    dist.barrier()
    told: list[str] = []
    found = checkpointer.load(state, MODEL, passed_over=told.append)
    return [found.step if found else None, *(words.partition(": CRC")[0] for words in told)]


def main(rank: int, port: str, folder: Path) -> None:
    """One rank; it prints what it found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    ranks = host_group()
    found = {
        "saved": save(folder / "of-two", ranks),
        "loaded": load(folder / "of-two", ranks),
        "loaded of one": load(folder / "of-one", ranks),
        "undamaged": load_undamaged(folder / "damaged", ranks),
        "failed": save(folder / "failed", ranks, without="moment.fc2"),
    }
    json.dump(found, sys.stdout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
