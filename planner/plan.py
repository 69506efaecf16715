"""plan.json: everything needed to run a plan and to check it, as values that are checked when they are read.

The keys are a promise (schema version 2; version 1 had no orders of operators). A plan carries the full model, so that
nothing else is needed to read it, and the cluster's figures with the name and the hash of the hardware profile that the
prediction was made with. `plan.schema.json` beside this module is the JSON schema of these types.
"""

from __future__ import annotations

import hashlib
from itertools import chain, repeat
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import LayerOrder
from meshwright.costmodel.runtime import RuntimeSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import StageMemory
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.value import Value
from meshwright.costmodel.workload import Workload

SCHEMA_VERSION = 2

Count = Annotated[int, Meta(ge=1)]
Index = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class LayerRun(Value, frozen=True, kw_only=True):
    """`count` identical layers in a row."""

    count: Count
    layer: LayerSpec


class ModelRecord(Value, frozen=True, kw_only=True):
    """A `ModelSpec` with its layers as runs. `hash` is that of the whole description."""

    name: str
    hash: str
    hidden: Count
    vocab: Count
    layer_runs: Annotated[tuple[LayerRun, ...], Meta(min_length=1)]
    tied_embeddings: bool
    head_bias: bool
    learned_positions: Index
    mtp_depth: Index
    source: str
    total_parameters: Count
    active_parameters: Count

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """All layers in order."""
        return tuple(chain.from_iterable(repeat(run.layer, run.count) for run in self.layer_runs))


class ClusterRecord(Value, frozen=True, kw_only=True):
    """A `ClusterSpec`: its own figures, and name and hash of its hardware profile.

    NVLink and usable memory stand here because a cluster may give them other values than the profile. A profile that
    is not a shipped one is carried in full, as `custom_profile`. `nics_per_node` is left out where there is one a GPU.
    """

    name: str
    num_gpus: Count
    gpus_per_node: Count
    network_bytes_per_s: Positive
    network_latency_s: Positive
    nvlink_bytes_per_s: Positive
    nvlink_latency_s: Positive
    oversubscription: Annotated[float, Meta(ge=1)]
    usable_memory_bytes: Positive
    host_memory_bytes: Positive
    mean_time_between_failures_s: Positive | None
    price_per_gpu_hour: Positive | None
    profile: str
    profile_hash: str
    custom_profile: HardwareProfile | None
    nics_per_node: Count | UnsetType = UNSET


class StageRecord(Value, frozen=True, kw_only=True):
    """One virtual stage: which device of the pipeline runs it as which chunk, and its layers (numbered from 0)."""

    virtual_stage: Index
    device: Index
    chunk: Index
    first_layer: Index
    num_layers: Index


class PipelineRecord(Value, frozen=True, kw_only=True):
    """The pipeline and its stages."""

    schedule: ScheduleKind
    virtual_stages: Count
    micro_batch_size: Count
    num_micro_batches: Count
    stages: tuple[StageRecord, ...]


class OrderRecord(Value, frozen=True, kw_only=True):
    """How one part runs its operators. `part` is "embedding", "head" or "layer"; layer groups point here by index."""

    part: Literal["embedding", "layer", "head"]
    order: LayerOrder


class LayerGroup(Value, frozen=True, kw_only=True):
    """Consecutive layers of one kind that run alike, inside one virtual stage. `kind` is for people: words, no code.

    `order`: which of the plan's orders its operators run in.
    """

    virtual_stage: Index
    first_layer: Index
    num_layers: Count
    kind: str
    strategy: LayerStrategy
    kept_tensors: tuple[str, ...]
    order: Index


class PredictionRecord(Value, frozen=True, kw_only=True):
    """What the plan promises. `step_time_interval_s` holds the measured time with 90 % probability."""

    step_time_s: Positive
    tokens_per_s: Positive
    tokens_per_s_per_gpu: Positive
    flops_per_token: Positive
    tflops_per_gpu: Positive
    mfu: Positive
    step_time_interval_s: tuple[Positive, Positive]
    basis: dict[str, Fraction]
    peak_memory_bytes: tuple[Positive, ...]
    memory_limit_bytes: Positive
    memory: tuple[StageMemory, ...]
    breakdown_s: dict[str, float]
    hidden_s: dict[str, NotNegative]


class SearchRecord(Value, frozen=True, kw_only=True):
    """The certificate: no plan of `space` is faster than `lower_bound_s`.

    The plans of the space are compared with operators in the order that list scheduling finds: `objective_s` is the
    step of the best, `gap` its distance to their bound, (objective - bound) / objective. The plan itself has better
    orders; where they make it faster than the bound, `lower_bound_s` is its own step. `order_gap`: the most by which
    better orders could still shorten its layers, as a share of their time. `candidates` are the outer points of the
    space: `rejected` by a rule or by memory, `pruned` by bound, `solved`.
    """

    candidates: Index
    rejected: Index
    pruned: Index
    solved: Index
    objective_s: NotNegative
    lower_bound_s: NotNegative
    gap: Fraction
    order_gap: Fraction
    solve_time_s: NotNegative
    space: str
    solvers: tuple[str, ...]


class Alternative(Value, frozen=True, kw_only=True):
    """A runner-up: its choices, its time, and why it lost (the terms that grew most)."""

    mesh: Mesh
    schedule: ScheduleKind
    virtual_stages: Count
    micro_batch_size: Count
    zero: str
    strategies: tuple[str, ...]
    step_time_s: Positive
    peak_memory_bytes: NotNegative
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
    orders: tuple[OrderRecord, ...]
    prediction: PredictionRecord
    search: SearchRecord
    alternatives: tuple[Alternative, ...]


def content_hash(value: object) -> str:
    """SHA-256 of what a value says. Fields at their default are left out, so that a field added later changes no hash.

    >>> content_hash(Mesh(pp=2)) == content_hash(Mesh(pp=2, dp=1)) != content_hash(Mesh(dp=2))
    True
    """
    return hashlib.sha256(msgspec.json.encode(_said(value), order="deterministic")).hexdigest()


def _said(value: object) -> object:
    """Structs as mappings of their fields that are not at their default, with the tag that tells kinds apart."""
    if isinstance(value, tuple):
        return [_said(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
    said = {field.encode_name: _said(item) for field, item in fields if item != field.default}
    tag = value.__struct_config__.tag
    return {"type": tag, **said} if tag is not None else said
