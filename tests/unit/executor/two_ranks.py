"""Run as a script: two processes over gloo check every strategy of every tiny layer, and print errors as JSON.

    python tests/unit/executor/two_ranks.py

In float64, against autograd of the reference on all tokens.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from msgspec.structs import replace as replace_strategy
from torch.multiprocessing.spawn import start_processes

from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind, PassOrder
from meshwright.costmodel.pass_times import problem_of
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.strategy import ContextMethod, Dispatch, LayerStrategy, Recompute
from meshwright.executor.layer.context import RoutingChoice
from meshwright.executor.layer.groups import Communicator
from meshwright.executor.layer.router_losses import LossScope, RouterLosses
from meshwright.executor.layer_timing.gradient_check import CheckedLayer, gradient_errors
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.operator_order import solve_pass

CONFTEST = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
LAYERS = CONFTEST["LAYERS"]
WORLD = 2
DENSE_STRATEGIES = {
    "tp": LayerStrategy(tp=2, ffn_tp=2),
    "sp": LayerStrategy(sp=2),
    "sp, ffn tp": LayerStrategy(sp=2, ffn_tp=2),
    "cp": LayerStrategy(cp=2),
    "cp ring": LayerStrategy(cp=2, context_method=ContextMethod.RING),
    "cp ring, ffn tp": LayerStrategy(cp=2, context_method=ContextMethod.RING, ffn_tp=2),
}
MOE_STRATEGIES = {
    "ep": LayerStrategy(ep=2),
    "ep gather": LayerStrategy(ep=2, dispatch=Dispatch.ALL_GATHER),
    "sp, ep": LayerStrategy(sp=2, ep=2),
    "sp, ep gather, ffn tp": LayerStrategy(sp=2, ffn_tp=2, ep=2, dispatch=Dispatch.ALL_GATHER),
    "tp, ep": LayerStrategy(tp=2, ffn_tp=2, ep=2),
    "tp, no ep": LayerStrategy(tp=2),
    "ep dedup": LayerStrategy(ep=2, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
    "tp, ep dedup": LayerStrategy(tp=2, ffn_tp=2, ep=2, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
    "etp": LayerStrategy(etp=2),
    "etp gather": LayerStrategy(etp=2, dispatch=Dispatch.ALL_GATHER),
    "tp, etp": LayerStrategy(tp=2, ffn_tp=2, etp=2),
    "sp, etp gather": LayerStrategy(sp=2, ffn_tp=2, etp=2, dispatch=Dispatch.ALL_GATHER),
    "cp, ep": LayerStrategy(cp=2, ep=2),
    "cp ring, ep gather": LayerStrategy(cp=2, context_method=ContextMethod.RING, ep=2, dispatch=Dispatch.ALL_GATHER),
    "cp, ep dedup": LayerStrategy(cp=2, ep=2, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
}
BALANCED = RoutingChoice(balanced=True)
ROOM = 2 * WORLD * CONFTEST["SEQ_LEN"] * 3 * 2
"""Rows of both ranks, of at most three sequences with two choices a token, and as many again."""


def checked_layers(ranks: Communicator) -> Iterator[tuple[str, CheckedLayer]]:
    """Everything that is checked, by name."""
    for kind, layer in LAYERS.items():
        strategies = MOE_STRATEGIES if layer.is_moe else DENSE_STRATEGIES
        for name, strategy in strategies.items():
            yield f"{kind}: {name}", _checked(kind, strategy, ranks)
    for name in ("ep", "ep gather", "ep dedup", "etp", "etp gather"):
        strategy = MOE_STRATEGIES[name]
        yield f"balanced: {name}", replace(_checked("moe, shared", strategy, ranks), routing=BALANCED)
        for policy in (Recompute.SELECTIVE, Recompute.FULL):
            again = replace_strategy(strategy, recompute=policy)
            yield f"{policy.value}: {name}", _checked("moe, shared", again, ranks)
    yield from routed_layers(ranks)
    yield from roomy_layers(ranks)
    for method in ContextMethod:
        for policy in (Recompute.CORE_ATTENTION, Recompute.FULL):
            again = LayerStrategy(cp=2, context_method=method, recompute=policy)
            yield f"{policy.value}: cp {method.value}", _checked("dense", again, ranks)
    for name in ("ep", "etp"):
        late = _checked("moe, biases", MOE_STRATEGIES[name], ranks)
        yield f"gate behind FC2: {name}", replace(late, setting=_setting(late.setting.strategy, gate_before_fc2=False))
    for kind, name in (
        ("moe, shared", "sp, ep gather, ffn tp"),
        ("moe, gated shared", "tp, ep"),
        ("moe", "ep"),
        ("moe", "cp, ep"),
    ):
        checked = _checked(kind, MOE_STRATEGIES[name], ranks)
        yield f"solved order, {kind}: {name}", replace(checked, order=_solved(checked))


def routed_layers(ranks: Communicator) -> Iterator[tuple[str, CheckedLayer]]:
    """Losses of routers, bounded capacities, ranks with different numbers of tokens."""
    for scope in (LossScope.PER_SEQUENCE, LossScope.PER_DEVICE):
        losses = RouterLosses(even=0.3, scope=scope, z=0.1)
        for kind, name in (
            ("moe, groups", "sp, ep"),
            ("moe, empty experts", "tp, ep"),
            ("moe", "ep gather"),
            ("moe", "cp, ep"),
            ("moe, groups", "cp, ep dedup"),
        ):
            checked = replace(_checked(kind, MOE_STRATEGIES[name], ranks), router_losses=losses)
            yield f"loss {scope.value}, {kind}: {name}", checked
    for kind, name in (
        ("moe, groups", "sp, ep"),
        ("moe, biases", "ep"),
        ("moe", "tp, no ep"),
        ("moe", "ep gather"),
        ("moe", "tp, ep dedup"),
        ("moe", "etp"),
        ("moe, biases", "sp, etp gather"),
    ):
        yield f"bounded, {kind}: {name}", replace(_checked(kind, MOE_STRATEGIES[name], ranks), capacity_factor=0.8)
    for name in ("ep", "ep dedup"):
        for kind in ("moe", "moe, empty experts"):
            uneven = replace(_checked(kind, MOE_STRATEGIES[name], ranks), micro_batches=(1, 3))
            yield f"uneven tokens, {kind}: {name}", uneven


def roomy_layers(ranks: Communicator) -> Iterator[tuple[str, CheckedLayer]]:
    """More room for rows than there are rows."""
    exchanging = {name: one for name, one in MOE_STRATEGIES.items() if one.ep * one.etp > 1}
    for kind in ("moe, biases", "moe, empty experts"):
        for name, strategy in exchanging.items():
            yield f"room, {kind}: {name}", replace(_checked(kind, strategy, ranks), room=ROOM)
    for name, checked in routed_layers(ranks):
        yield f"room, {name}", replace(checked, room=ROOM)


def _setting(strategy: LayerStrategy, *, gate_before_fc2: bool = True) -> ProgramSetting:
    return ProgramSetting(
        hidden=CONFTEST["HIDDEN"],
        micro_batch=CONFTEST["MICRO_BATCH"],
        seq_len=CONFTEST["SEQ_LEN"],
        strategy=strategy,
        gpus_per_node=8,
        gate_before_fc2=gate_before_fc2,
    )


def _checked(kind: str, strategy: LayerStrategy, ranks: Communicator) -> CheckedLayer:
    return CheckedLayer(
        layer=LAYERS[kind],
        setting=_setting(strategy),
        device=torch.device("cpu"),
        dtype=torch.float64,
        all_ranks=ranks,
    )


def _solved(checked: CheckedLayer) -> LayerOrder:
    """Orders found by the solver for a layer a thousand times as long, whose communication is worth hiding."""
    return LayerOrder(forward=_pass_order(checked, PassKind.FORWARD), backward=_pass_order(checked, PassKind.BACKWARD))


def _pass_order(checked: CheckedLayer, kind: PassKind) -> PassOrder:
    setting = checked.setting
    long = ProgramSetting(hidden=4096, micro_batch=1, seq_len=8192, strategy=setting.strategy, gpus_per_node=8)
    program = build_layer(checked.layer, long)
    operators = pass_operators(program, setting.strategy.recompute, kind)
    problem = problem_of(operators, load_cluster("h100", num_gpus=8), load_runtime("meshwright"))
    return solve_pass(problem, num_nodes=2000, num_replays=100).ordered.order()


def run_rank(rank: int, port: int) -> None:
    """Check everything on one rank; the first prints."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)  # what nothing was written to is not a number
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    ranks = Communicator(size=WORLD, rank=rank, group=dist.group.WORLD)
    found = {name: gradient_errors(checked) for name, checked in checked_layers(ranks)}
    gathered: list[dict[str, dict[str, float]] | None] = [None] * WORLD
    dist.all_gather_object(gathered, found)
    if rank == 0:
        json.dump(gathered, sys.stdout)
    dist.destroy_process_group()


def main() -> None:
    """Start both ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start_processes(run_rank, args=(port,), nprocs=WORLD, start_method="fork")  # with all modules loaded


if __name__ == "__main__":
    main()
