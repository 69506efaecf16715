"""The bounds that order the search are never above the one that follows when a point's choices are all costed.

The last counts more (sharding, every recomputation, memory, the order of operators), so one above it would be wrong,
and with it a certificate. The bound of a shape may lie above that of the best case: it knows that recomputing is no
faster than keeping, which bounds of the passes themselves need not show.
"""

from __future__ import annotations

from random import Random

import pytest

from meshwright.costmodel.formulas.memory import memory_limit_bytes
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.bounds import problem_bound_s
from meshwright.planner.frontier import Frontier
from meshwright.planner.point_problem import point_problem
from meshwright.planner.shortfall import Shortfalls
from meshwright.planner.space import Problem

SAMPLE = 40


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("deepseek-v2-lite", "bf16"),
        ("mixtral-8x7b", "fp8"),
        ("gpt-oss-20b", "bf16"),
        ("llama-3.1-8b", "fp8"),
    ],
)
def test_costing_every_choice_never_lowers_the_bound(model: str, precision: str) -> None:
    problem = Problem(
        model=load_model(model),
        cluster=load_cluster("h100", num_gpus=32),
        workload=Workload(global_batch=64, seq_len=4096, precision=Precision(precision)),
    )
    runtime = load_runtime("meshwright")
    limit_bytes = memory_limit_bytes(problem.cluster.gpu.usable_memory_bytes)
    opened = list(Frontier(problem, runtime, limit_bytes, Shortfalls(problem, limit_bytes)).points())
    assert len(opened) > SAMPLE
    for bound_s, point in Random(0).sample(opened, SAMPLE):
        best_case, inner = (point_problem(problem, runtime, point, best_case=best) for best in (True, False))
        assert best_case is not None
        assert inner is not None
        assert max(bound_s, problem_bound_s(best_case, best_case=True)) <= problem_bound_s(inner) * (1 + 1e-9)
