"""Plans to export, and what a check reads back."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest

from meshwright.commands.plan import problem_of
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.runtime import load_runtime
from meshwright.planner.foreign import CheckRequest, CheckResult, Source, check
from meshwright.planner.foreign.describe import as_plan
from meshwright.planner.foreign.export import EXPORTERS
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.search import search


@lru_cache(maxsize=64)
def searched(model: str, gpus: int, batch: int, seq_len: int, fixes: str, runtime: str, precision: str) -> Plan:
    executing = load_runtime(runtime)
    problem = problem_of(model, "h100", gpus, batch, seq_len, precision, 1.0, (fixes,), executing)
    result = search(problem, top=0, runtime=executing)
    return build_plan(result.configuration, result.prediction, result.certificate)


@pytest.fixture(scope="session")
def planned() -> Callable[..., Plan]:
    """Searches a plan, once a session for the same arguments."""

    def plan(
        model: str,
        gpus: int,
        batch: int,
        fixes: str,
        runtime: str = "megatron",
        precision: str = "bf16",
        seq_len: int = 4096,
    ) -> Plan:
        return searched(model, gpus, batch, seq_len, fixes, runtime, precision)

    return plan


@pytest.fixture
def plan_of() -> Callable[[TrainingConfiguration], Plan]:
    """A configuration as a plan, nothing searched."""
    return as_plan


@pytest.fixture
def checked() -> Callable[[str, str, int], CheckResult]:
    """What `check` says about an exported text."""

    def read(framework: str, text: str, num_gpus: int) -> CheckResult:
        source = Source(where="exported", text=text, suffix=EXPORTERS[framework].suffix)
        return check(CheckRequest(framework=framework, source=source, cluster="h100", num_gpus=num_gpus, search=False))

    return read
