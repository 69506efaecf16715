"""Commands for clusters start as many ranks as the plan has, and shells understand them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from msgspec.structs import replace

from meshwright.executor.train.cluster_launch import nodes_of, slurm_script, torchrun_words
from meshwright.planner.plan import Plan

ARGUMENTS = ("run", "a plan.json", "--steps", "5")


def on_nodes(plan: Plan, num_gpus: int) -> Plan:
    return replace(plan, cluster=replace(plan.cluster, num_gpus=num_gpus, gpus_per_node=8))


def run_script(script: str, folder: Path) -> str:
    """What a script starts: its Slurm commands are replaced."""
    for name, body in {"scontrol": "echo first; echo second", "srun": 'shift; printf "<%s>" "$@"'}.items():
        command = folder / name
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]"}
    done = subprocess.run(
        ["bash", "-s"], input=script, env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_nodes(tiny_plan: Plan) -> None:
    assert nodes_of(on_nodes(tiny_plan, 4)) == (1, 4)
    assert nodes_of(on_nodes(tiny_plan, 8)) == (1, 8)
    assert nodes_of(on_nodes(tiny_plan, 64)) == (8, 8)


def test_one_node_meets_itself(tiny_plan: Plan) -> None:
    assert torchrun_words(on_nodes(tiny_plan, 4), ARGUMENTS, "HOST:1") == (
        "torchrun --nnodes 1 --nproc-per-node 4 --standalone -m meshwright run 'a plan.json' --steps 5"
    )


def test_a_batch_script_is_one(tiny_plan: Plan, tmp_path: Path) -> None:
    script = slurm_script(on_nodes(tiny_plan, 16), ARGUMENTS, tmp_path / "my saves")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    head = script.split("\nset -euo")[0]
    assert head.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=2\n" in head
    assert "#SBATCH --gpus-per-node=8\n" in head
    assert "#SBATCH --signal=TERM@300" in head
    started = (
        "<torchrun><--nnodes><2><--nproc-per-node><8><--rdzv-backend><c10d><--rdzv-endpoint><first:29500>"
        "<-m><meshwright><run><a plan.json><--steps><5>"
    )
    assert run_script(script, tmp_path) == started
    (tmp_path / "my saves").mkdir()
    (tmp_path / "my saves" / "latest").touch()
    assert run_script(script, tmp_path) == f"{started}<--resume>"


def test_without_checkpoints_nothing_is_resumed(tiny_plan: Plan, tmp_path: Path) -> None:
    assert "resume" not in slurm_script(on_nodes(tiny_plan, 16), ARGUMENTS, None)
    again = slurm_script(on_nodes(tiny_plan, 16), (*ARGUMENTS, "--resume"), tmp_path)
    assert again.count("--resume") == 2  # in the comment and in the command
