"""Training steps of two small-layered MoE models on the GPUs of this host, beside their prediction.

    python benchmarks/training.py                  two GPUs; the models that torchtitan 0.2.2 was measured on
    python benchmarks/training.py --both           each run once more on one stream, where nothing in layers overlaps
    python benchmarks/training.py --plans FOLDER   only make the plans, anywhere
    python benchmarks/training.py --from FOLDER    train by these plans
    python benchmarks/training.py --memory --gpus 1    one GPU; what is kept, recomputed or waits in host memory
    python benchmarks/training.py --pipelines      two GPUs, two stages; one model under each schedule
    python benchmarks/training.py --host --gpus 1  one GPU; sequences so short that the host sets the pace
    python benchmarks/training.py --exchange       two GPUs, experts over both; rows exchanged with room, and exactly

Sequences of 4,096 random tokens, FP32 AdamW every step; routing balanced and, with two GPUs, natural beside it.
torchtitan 0.2.2 on two H100 at its best settings: 31,020 tokens/s a GPU for Mixtral, 34,613 for Qwen3. Printed for
every part of a step: measured, predicted by the plan, and predicted for the executor as it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import msgspec

from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.dated_record import exit_status, origin_of, read_record, write_record
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.search import search
from meshwright.planner.serialise import write_plan
from meshwright.planner.space import Problem

SEQ_LEN = 4096
RUNTIME = "meshwright-run"
"""Plans are made for the executor as it runs: their prediction is what it is held against."""
STEPS = 16
RUN_LIMIT_S = 200
INSIDE = ("collectives", "exposed")
"""The part of a step that lies inside forward and backward."""
PLANS_RECORD = "made.json"
"""Beside plans that were made beforehand: by which command, when, of which commit."""


class Case(Value, frozen=True, kw_only=True):
    """A model of so many layers, and the sequences a GPU a step."""

    name: str
    model: str
    num_layers: int
    sequences_per_gpu: int
    fixes: tuple[str, ...]
    torchtitan_tokens_per_s_per_gpu: float | None = None
    routings: tuple[str, ...] = ("balanced", "natural")
    exchanged_rows: tuple[str, ...] = ("exact",)
    seq_len: int = SEQ_LEN


CASES = (
    Case(
        name="mixtral-8x7b-4",
        model="mixtral-8x7b",
        num_layers=4,
        sequences_per_gpu=2,
        fixes=("zero=1", "pp=1", "ep=2", "dispatch=alltoall"),
        torchtitan_tokens_per_s_per_gpu=31_020.0,
    ),
    Case(
        name="qwen3-30b-a3b-8",
        model="qwen3-30b-a3b",
        num_layers=8,
        sequences_per_gpu=4,
        fixes=("zero=1", "pp=1", "dispatch=alltoall"),
        torchtitan_tokens_per_s_per_gpu=34_613.0,
    ),
)

MEMORY_CASES = tuple(
    Case(
        name=f"qwen3-30b-a3b-{num_layers}-{name}",
        model="qwen3-30b-a3b",
        num_layers=num_layers,
        sequences_per_gpu=4,
        fixes=("zero=1", "mbs=2", *fixes),
        routings=("balanced",),
    )
    for name, num_layers, fixes in (
        ("kept", 6, ("recompute=none", "offload=none")),
        ("sar", 6, ("recompute=sar", "offload=none")),
        ("full", 6, ("recompute=full", "offload=none")),
        ("activations-in-host-memory", 6, ("recompute=none", "offload=activations")),
        ("optimizer-in-host-memory", 2, ("recompute=none", "offload=optimizer")),
    )
)

PIPELINE_CASES = tuple(
    Case(
        name=f"qwen3-30b-a3b-8-{name}",
        model="qwen3-30b-a3b",
        num_layers=8,
        sequences_per_gpu=4,
        fixes=("zero=1", "pp=2", "mbs=1", *fixes),
        routings=("balanced",),
    )
    for name, fixes in (
        *((schedule, (f"schedule={schedule}",)) for schedule in ("1f1b", "interleaved", "zb-v", "dualpipe-v")),
        ("zb-v-full", ("schedule=zb-v", "recompute=full")),
    )
)

HOST_CASES = tuple(
    Case(
        name=f"{model}-{num_layers}-short",
        model=model,
        num_layers=num_layers,
        sequences_per_gpu=4,
        fixes=("zero=1", "mbs=1", "recompute=none", "offload=none"),
        routings=("balanced",),
        seq_len=256,
    )
    for model, num_layers in (("qwen3-30b-a3b", 6), ("mixtral-8x7b", 2), ("deepseek-v2-lite", 6))
)

EXCHANGE_CASES = tuple(
    Case(
        name=f"{model}-{num_layers}-ep",
        model=model,
        num_layers=num_layers,
        sequences_per_gpu=2,
        fixes=("zero=1", "pp=1", "ep=2", "dispatch=alltoall"),
        routings=("natural",),
        exchanged_rows=("room", "exact"),
    )
    for model, num_layers in (("mixtral-8x7b", 4), ("qwen3-30b-a3b", 8))
)

CASES_OF = {
    "training": CASES,
    "training_memory": MEMORY_CASES,
    "training_pipelines": PIPELINE_CASES,
    "training_host": HOST_CASES,
    "training_exchange": EXCHANGE_CASES,
}
"""By the name of the record."""


def main() -> int:
    """Plan, train, print and record."""
    options = _options()
    cases = [case for case in CASES_OF[options.cases] if options.only in case.name]
    if options.plans is not None:
        options.plans.mkdir(parents=True, exist_ok=True)
        for case in cases:
            make_plan(case, options.cluster, options.gpus, options.plans / f"{case.name}.json")
        write_record(origin_of(__file__), options.plans / PLANS_RECORD)
        return 0
    rows: list[dict[str, object]] = []
    made = "this command" if options.made is None else _made(options.made)
    record: dict[str, object] = origin_of(__file__).head | {"plans_made_by": made, "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            plan = (options.made or Path(folder)) / f"{case.name}.json"
            if options.made is None:
                make_plan(case, options.cluster, options.gpus, plan)
            for how in ways(case, options.data, both=options.both):
                rows.append(trained(case, plan, Path(folder) / "run", how))
                _print(rows[-1])
                write_record(record, options.output)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", default="h100")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--plans", type=Path, help="make the plans there and do no more")
    parser.add_argument("--from", type=Path, dest="made", help="take the plans from this folder, made by --plans")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--memory", dest="cases", action="store_const", const="training_memory", help="the cases of what memory holds"
    )
    which.add_argument(
        "--pipelines", dest="cases", action="store_const", const="training_pipelines", help="the pipeline schedules"
    )
    which.add_argument(
        "--host", dest="cases", action="store_const", const="training_host", help="what takes the host longer"
    )
    which.add_argument(
        "--exchange", dest="cases", action="store_const", const="training_exchange", help="how rows are exchanged"
    )
    parser.add_argument("--both", action="store_true", help="each run once more on one stream")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--data", default="uniform", help="as `meshwright run --data`; markov takes more of the host")
    parser.add_argument("-o", "--output", type=Path, help="the record; default: beside this file")
    parser.set_defaults(cases="training")
    options = parser.parse_args()
    if options.output is None:
        options.output = Path(__file__).with_name(f"{options.cases}.json")
    return options


def _made(folder: Path) -> dict[str, str]:
    """How plans that were made beforehand were made."""
    return read_record(folder / PLANS_RECORD, dict[str, str])


def make_plan(case: Case, cluster: str, num_gpus: int, path: Path) -> None:
    """The best plan with the pinned choices."""
    model = load_model(case.model)
    problem = Problem(
        model=msgspec.structs.replace(model, layers=model.layers[: case.num_layers]),
        cluster=load_cluster(cluster).with_gpus(num_gpus),
        workload=Workload(global_batch=case.sequences_per_gpu * num_gpus, seq_len=case.seq_len),
        fixes=parse_fixes(case.fixes),
    )
    found = search(problem, runtime=load_runtime(RUNTIME), top=0)
    plan = build_plan(found.configuration, found.prediction, found.certificate)
    write_plan(plan, path)
    print(
        f"{case.name}: {plan.mesh}, {plan.pipeline.micro_batch_size} sequences a micro-batch, "
        f"{plan.prediction.step_time_s * 1e3:.1f} ms a step predicted"
    )


class Way(Value, frozen=True, kw_only=True):
    """How a plan is run."""

    data: str
    routing: str
    exchanged_rows: str
    one_stream: bool


def ways(case: Case, data: str, *, both: bool) -> list[Way]:
    """How a case is run; `both`: also on one stream."""
    combined = product(case.routings, case.exchanged_rows, (False, True) if both else (False,))
    return [Way(data=data, routing=routing, exchanged_rows=rows, one_stream=one) for routing, rows, one in combined]


def trained(case: Case, plan: Path, folder: Path, how: Way) -> dict[str, object]:
    """The run's record with what it stands beside; the error's last line where it failed."""
    command = [sys.executable, "-m", "meshwright", "run", str(plan), "--steps", str(STEPS), "--data", how.data]
    command += ["-o", str(folder), "--exchanged-rows", how.exchanged_rows]
    if how.routing == "balanced":
        command.append("--balanced")
    if how.one_stream:
        command.append("--one-stream")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=RUN_LIMIT_S)
    row: dict[str, object] = {
        "case": case.name,
        "routing": how.routing,
        "exchanged_rows": how.exchanged_rows,
        "streams": "one" if how.one_stream else "planned",
    }
    if done.returncode:
        return row | {"failed": (done.stderr.strip().splitlines() or ["no word"])[-12:]}
    run = json.loads((folder / "run.json").read_text())
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    ranks = run["mesh"]["pp"] * run["mesh"]["dp"] * run["mesh"]["tp"] * run["mesh"]["sp"] * run["mesh"]["cp"]
    return row | {
        "tokens_per_s_per_gpu": run["tokens_per_s"] / ranks,
        "torchtitan_tokens_per_s_per_gpu": case.torchtitan_tokens_per_s_per_gpu,
        "step_times_s": [step["step_time_s"] for step in steps],
        "losses": [step["loss"] for step in steps],
        "run": run,
    }


def _print(row: dict[str, object]) -> None:
    if "failed" in row:
        print(f"{_title(row)}: failed", *row["failed"], sep="\n  ")  # type: ignore[misc]
        return
    run = row["run"]
    assert isinstance(run, dict)
    peak, predicted_peak = max(run["peak_memory_bytes"]), max(run["predicted_peak_memory_bytes"])
    other = row["torchtitan_tokens_per_s_per_gpu"]
    beside = "" if other is None else f" (torchtitan on H100 {other:,.0f})"
    print(
        f"{_title(row)}: {row['tokens_per_s_per_gpu']:,.0f} tokens/s a GPU{beside}; peak {peak / 2**30:.1f} GiB, "
        f"predicted {predicted_peak / 2**30:.1f}"
    )
    as_run = run["predicted_as_run"]
    print(f"  {'ms':12} {'measured':>9} {'plan':>9} {'as it runs':>11}")
    _print_line("step", run["step_time_s"], run["predicted_step_time_s"], as_run["step_time_s"])
    for stage, predicted in zip(run["stages"], as_run["stages"], strict=True):
        measured = stage["measured_s"]
        for part, seconds in measured.items():
            _print_line(part, seconds, stage["predicted_s"].get(part), predicted.get(part))
        inside = sum(seconds for part, seconds in measured.items() if part not in INSIDE)
        _print_line("other", run["step_time_s"] - inside, None, None)


def _title(row: dict[str, object]) -> str:
    rows = "" if row["exchanged_rows"] == "exact" else f", with {row['exchanged_rows']}"
    return f"{row['case']} {row['routing']}{rows}{' on one stream' if row['streams'] == 'one' else ''}"


def _print_line(name: str, *times_s: float | None) -> None:
    cells = ("" if time_s is None else f"{time_s * 1e3:.1f}" for time_s in times_s)
    print(f"  {name:12}", *(f"{cell:>{width}}" for cell, width in zip(cells, (9, 9, 11), strict=True)))


if __name__ == "__main__":
    sys.exit(exit_status(main, __file__))
