from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.huggingface import read_config
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.space import Problem


@pytest.fixture
def tiny_model(tiny_config: dict[str, object]) -> ModelSpec:
    return read_config(tiny_config, "config.json", "tiny")


@pytest.fixture
def tiny_problem(tiny_model: ModelSpec) -> Problem:
    """The tiny model on one node of H100 that never fails: a search takes under a second."""
    cluster = msgspec.structs.replace(load_cluster("h100", num_gpus=8), mean_time_between_failures_s=None)
    return Problem(model=tiny_model, cluster=cluster, workload=Workload(global_batch=16, seq_len=2048))
