"""How a plan's ranks are started on a cluster: torchrun on every node, by hand or by a Slurm batch script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from meshwright.planner.plan import Plan

PORT = 29500
SAVE_S = 300
"""How long before the end of its time a job is asked to save and end."""


def nodes_of(plan: Plan) -> tuple[int, int]:
    """Nodes, and ranks a node."""
    per_node = min(plan.cluster.num_gpus, plan.cluster.gpus_per_node)
    return -(-plan.cluster.num_gpus // per_node), per_node


def torchrun_words(plan: Plan, arguments: Sequence[str], endpoint: str) -> str:
    """The command that every node runs; `endpoint` is HOST:PORT of one of them, as the shell takes it."""
    nodes, per_node = nodes_of(plan)
    where = f"--rdzv-backend c10d --rdzv-endpoint {endpoint}" if nodes > 1 else "--standalone"
    return f"torchrun --nnodes {nodes} --nproc-per-node {per_node} {where} -m meshwright {shlex.join(arguments)}"


def slurm_script(plan: Plan, arguments: Sequence[str], checkpoint: Path | None) -> str:
    """A Slurm batch script; begins with the command for clusters without Slurm, as a comment.

    A job that is started again goes on from its newest checkpoint.
    """
    nodes, per_node = nodes_of(plan)
    by_hand = torchrun_words(plan, arguments, f"HOST:{PORT}")
    lines = [
        "#!/bin/bash",
        f"# Without Slurm, on {'each of the nodes' if nodes > 1 else 'the node'}: {by_hand}",
        f"#SBATCH --job-name=meshwright-{re.sub(r'[^A-Za-z0-9._-]', '-', plan.model.name)}",
        f"#SBATCH --nodes={nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={per_node}",
        "#SBATCH --exclusive",
        f"#SBATCH --signal=TERM@{SAVE_S}",
        "set -euo pipefail",
        'mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={SAVE_S}",
    ]
    rest = ""
    if checkpoint is not None and "--resume" not in arguments:
        lines += ["resume=()", f"if [ -e {shlex.quote(str(checkpoint / 'latest'))} ]; then resume=(--resume); fi"]
        rest = ' "${resume[@]}"'
    command = torchrun_words(plan, arguments, f'"${{hosts[0]}}:{PORT}"')
    lines.append(f"srun --kill-on-bad-exit=1 {command}{rest}")
    return "\n".join(lines) + "\n"
