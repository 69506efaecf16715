"""Times what-ifs and the event simulation of large plans, and writes a dated JSON beside this file.

    python benchmarks/what_ifs.py

What-ifs: the 352B plan on 1,440 GPUs is held and asked with values that no cache has seen, alone in this process and as
sweeps on all cores (their start included). Simulation: a step of a configuration, event by event, in a process that
has done nothing before: schedule, event graph and times, and then the memory of the process. Memory must grow with
stages and micro-batches; the same pipeline on 16 times the GPUs shows that it does not grow with those.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.simulate import ScheduleKind, simulate
from meshwright.costmodel.step import predict, schedule_of, step_inputs, step_overlap
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.dated_record import origin_of, write_record
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import parse_plan
from meshwright.planner.sweep import sweep
from meshwright.planner.what_if import answer, baseline_of, changed

MIB = 2**20
QUESTIONS: dict[str, tuple[str, Callable[[int], object]]] = {
    "network bandwidth": ("cluster.network_bytes_per_s", lambda number: 40e9 + 1e7 * number),
    "NVLink latency": ("cluster.nvlink_latency_s", lambda number: 1e-6 + 1e-9 * number),
    "GPU memory": ("cluster.usable_memory_bytes", lambda number: 60e9 + 1e6 * number),
    "sequence length": ("workload.seq_len", lambda number: 4096 + 64 * number),
    "expert size": ("model.expert_intermediate", lambda number: 1024 + 8 * number),
    "vocabulary": ("model.vocab", lambda number: 32768 + 128 * number),
}
"""What is asked, its key, and the value of the question with a number."""

ALONE, IN_SWEEP = 60, 1000


def main() -> None:
    """Run everything once and write the results."""
    if len(sys.argv) > 2 and sys.argv[1] == "--simulate":
        print(json.dumps(_simulated(CASES[sys.argv[2]]())))
        return
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    results = [*_what_ifs(_plan()), *(_in_new_process(name) for name in CASES)]
    for row in results:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    record = origin_of(__file__).head | {
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "results": results,
    }
    write_record(record, Path(__file__).with_suffix(".json"))


# What-ifs.


def _plan() -> Plan:
    """The plan of the 352B on 1,440 H800, found by another process: a search leaves much behind in memory."""
    options = ["--cluster", "h800", "--gpus", "1440", "--global-batch", "720", "--seq-len", "8192"]
    command = [sys.executable, "-m", "meshwright", "plan", "internal-352b", *options, "--json"]
    return parse_plan(subprocess.run(command, check=True, capture_output=True).stdout, "internal-352b")


def _what_ifs(plan: Plan) -> list[dict[str, object]]:
    return [
        *(_alone(plan, name, key, value) for name, (key, value) in QUESTIONS.items()),
        *(_in_sweep(plan, name, key, value) for name, (key, value) in QUESTIONS.items()),
    ]


def _alone(plan: Plan, name: str, key: str, value: Callable[[int], object]) -> dict[str, object]:
    baseline = baseline_of(plan)
    answer(baseline, changed(baseline, {}))
    start, start_cpu = time.perf_counter(), time.process_time()
    for number in range(ALONE):
        answer(baseline, changed(baseline, {key: str(value(number))}))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "case": f"{name}, one process",
        "what_ifs_per_s": round(ALONE / seconds, 1),
        "what_ifs_per_cpu_s": round(ALONE / cpu_seconds, 1),
    }


def _in_sweep(plan: Plan, name: str, key: str, value: Callable[[int], object]) -> dict[str, object]:
    values: Mapping[str, object] = {key: [value(number) for number in range(100, 100 + IN_SWEEP)]}
    start, start_cpu = time.perf_counter(), _children_cpu_s()
    result = sweep(plan, values, workers=None)
    seconds, cpu_seconds = time.perf_counter() - start, _children_cpu_s() - start_cpu
    return {
        "case": f"{name}, a sweep of {IN_SWEEP} points on all cores",
        "what_ifs_per_s": round(IN_SWEEP / seconds, 1),
        "what_ifs_per_cpu_s": round(IN_SWEEP / cpu_seconds, 1),
        "points_with_figures": sum(row.held is not None for row in result.rows),
    }


# Simulation.


def _paper_352b() -> TrainingConfiguration:
    """The 352B on 1,440 H800 as the planner plans it, but for the layers that recompute less: 6 stages of 10 chunks."""
    layer = LayerStrategy(sp=8, ep=16, dispatch=Dispatch.ALL_TO_ALL_DEDUP, recompute=Recompute.SELECTIVE)
    mesh = Mesh(pp=6, dp=30, sp=8, ep=16)
    pipeline = Pipeline(schedule=ScheduleKind.INTERLEAVED, virtual_stages=10, micro_batch=2)
    return _configuration("internal-352b", "h800", mesh, (720, 8192), pipeline, layer)


def _llama(data_degree: int) -> TrainingConfiguration:
    """Llama 3.1 405B as its authors trained it (arXiv 2407.21783, table 4): tp 8, pp 16; here interleaved, 126 layers.

    32 micro-batches of one sequence for each replica, whatever the number of replicas.
    """
    layer = LayerStrategy(tp=8, ffn_tp=8, recompute=Recompute.NONE)
    mesh = Mesh(pp=16, dp=data_degree, tp=8)
    pipeline = Pipeline(schedule=ScheduleKind.INTERLEAVED, virtual_stages=7)
    return _configuration("llama-3.1-405b", "h100", mesh, (32 * data_degree, 8192), pipeline, layer)


def _deepseek() -> TrainingConfiguration:
    """DeepSeek-V3 on 98,304 H800: 16 stages of 2 chunks as in its report (arXiv 2412.19437), ep 64, DualPipe-V."""
    layer = LayerStrategy(ep=64, dispatch=Dispatch.ALL_TO_ALL_DEDUP, recompute=Recompute.NORM_ACTIVATION)
    mesh, pipeline = Mesh(pp=16, dp=6144, ep=64), Pipeline(schedule=ScheduleKind.DUALPIPE_V, virtual_stages=2)
    return _configuration("deepseek-v3", "h800", mesh, (6144 * 120, 4096), pipeline, layer)


CASES: dict[str, Callable[[], TrainingConfiguration]] = {
    "internal-352b on 1,440 H800": _paper_352b,
    "llama-3.1-405b on 6,144 H100": lambda: _llama(48),
    "llama-3.1-405b on 98,304 H100": lambda: _llama(768),
    "deepseek-v3 on 98,304 H800": _deepseek,
}


def _configuration(
    model: str, cluster: str, mesh: Mesh, work: tuple[int, int], pipeline: Pipeline, layer: LayerStrategy
) -> TrainingConfiguration:
    """A configuration with one strategy in all layers, spread evenly."""
    spec = load_model(model)
    stages = mesh.pp * pipeline.virtual_stages
    size, larger = divmod(spec.num_layers, stages)
    return TrainingConfiguration(
        model=spec,
        cluster=load_cluster(cluster, num_gpus=mesh.num_gpus),
        workload=Workload(global_batch=work[0], seq_len=work[1]),
        runtime=load_runtime("meshwright"),
        mesh=mesh,
        sharding=Sharding(),
        pipeline=pipeline,
        stages=tuple((layer,) * (size + (stage < larger)) for stage in range(stages)),
    )


def _simulated(configuration: TrainingConfiguration) -> dict[str, object]:
    """Seconds of the event simulation alone and of the whole prediction, and the memory of this process."""
    before = _peak_bytes()
    start = time.perf_counter()
    schedule = schedule_of(configuration)
    built = time.perf_counter()
    _, durations = step_inputs(configuration, schedule)
    costed = time.perf_counter()
    timeline = simulate(schedule, durations, step_overlap(configuration))
    end = time.perf_counter()
    predict(configuration)
    return {
        "num_gpus": configuration.cluster.num_gpus,
        "stages": configuration.mesh.pp,
        "chunks": configuration.pipeline.virtual_stages,
        "micro_batches": configuration.num_micro_batches,
        "events": len(timeline.times_s),
        "step_time_s": round(timeline.step_time_s, 4),
        "simulation_s": round(built - start + end - costed, 3),
        "costs_s": round(costed - built, 3),
        "prediction_s": round(time.perf_counter() - start, 3),
        "memory_mib": round((_peak_bytes() - before) / MIB, 1),
    }


def _in_new_process(name: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, __file__, "--simulate", name], check=True, capture_output=True, text=True)
    return {"case": name, **json.loads(done.stdout)}


def _peak_bytes() -> float:
    """The most memory this process has held. (getrusage would count what its parent held when it started it.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024.0
    raise SystemExit("no VmHWM in /proc/self/status")


def _children_cpu_s() -> float:
    """CPU seconds of the processes that have ended: on a machine that others use, what wall-clock time hides."""
    times = os.times()
    return times.children_user + times.children_system


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
