"""plan.json: everything needed to run a plan and to check it, as values that are checked when they are read.

The keys are a promise (schema version 1). A plan carries the full model, so that nothing else is needed to read it, and
the cluster's figures with the name and the hash of the hardware profile that the prediction was made with.
"""

from __future__ import annotations

import msgspec

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import LayerSpec, ModelSpec
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import StageMemory, StepPrediction
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload

SCHEMA_VERSION = 1


class LayerRun(Value, frozen=True, kw_only=True):
    """`count` identical layers in a row."""

    count: int
    layer: LayerSpec


class ModelRecord(Value, frozen=True, kw_only=True):
    """A `ModelSpec` with its layers as runs. `hash` is that of the whole description."""

    name: str
    hash: str
    hidden: int
    vocab: int
    layer_runs: tuple[LayerRun, ...]
    tied_embeddings: bool
    learned_positions: int
    mtp_depth: int
    source: str
    total_parameters: int
    active_parameters: int


class ClusterRecord(Value, frozen=True, kw_only=True):
    """A `ClusterSpec`: its own figures, and name and hash of its hardware profile."""

    name: str
    num_gpus: int
    gpus_per_node: int
    network_bytes_per_s: float
    network_latency_s: float
    nvlink_latency_s: float
    oversubscription: float
    host_memory_bytes: float
    mean_time_between_failures_s: float | None
    price_per_gpu_hour: float | None
    profile: str
    profile_hash: str


class StageRecord(Value, frozen=True, kw_only=True):
    """One virtual stage: which device of the pipeline runs it as which chunk, and its layers (numbered from 0)."""

    virtual_stage: int
    device: int
    chunk: int
    first_layer: int
    num_layers: int


class PipelineRecord(Value, frozen=True, kw_only=True):
    """The pipeline and its stages."""

    schedule: ScheduleKind
    virtual_stages: int
    micro_batch_size: int
    num_micro_batches: int
    stages: tuple[StageRecord, ...]


class LayerGroup(Value, frozen=True, kw_only=True):
    """Consecutive layers of one kind that run alike, inside one virtual stage."""

    virtual_stage: int
    first_layer: int
    num_layers: int
    kind: str
    strategy: LayerStrategy
    kept_tensors: tuple[str, ...]


class PredictionRecord(Value, frozen=True, kw_only=True):
    """What the plan promises. `step_time_interval_s` holds the measured time with 90 % probability."""

    step_time_s: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    flops_per_token: float
    tflops_per_gpu: float
    mfu: float
    step_time_interval_s: tuple[float, float]
    basis: dict[str, float]
    peak_memory_bytes: tuple[float, ...]
    memory_limit_bytes: float
    memory: tuple[StageMemory, ...]
    breakdown_s: dict[str, float]
    hidden_s: dict[str, float]


class SearchRecord(Value, frozen=True, kw_only=True):
    """The certificate: no plan of `space` is faster than `lower_bound_s`; `gap` is (step time - bound) / step time.

    `candidates` are the outer points of the space: `rejected` by a rule or by memory, `pruned` by their bound, `solved`.
    """

    candidates: int
    rejected: int
    pruned: int
    solved: int
    lower_bound_s: float
    gap: float
    solve_time_s: float
    space: str
    solvers: tuple[str, ...]


class Alternative(Value, frozen=True, kw_only=True):
    """A runner-up: its choices, its time, and why it lost (the terms that grew most)."""

    mesh: Mesh
    schedule: ScheduleKind
    virtual_stages: int
    micro_batch_size: int
    zero: str
    strategies: tuple[str, ...]
    step_time_s: float
    peak_memory_bytes: float
    reason: str


class Plan(Value, frozen=True, kw_only=True):
    """A plan file. `schema_version` is read first; a plan of another version is refused."""

    schema_version: int
    meshwright_version: str
    model: ModelRecord
    cluster: ClusterRecord
    workload: Workload
    runtime: RuntimeSpec
    mesh: Mesh
    sharding: Sharding
    pipeline: PipelineRecord
    layers: tuple[LayerGroup, ...]
    prediction: PredictionRecord
    search: SearchRecord
    alternatives: tuple[Alternative, ...]
