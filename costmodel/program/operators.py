"""The words a layer program is written in: operators, the work each does, the tensors between them.

Shapes are those of one rank and one micro-batch. Work says *what* is computed or moved, never how long it takes:
`costmodel.operator_time` turns work and a cluster into seconds.
"""

from __future__ import annotations

from enum import StrEnum

from meshwright.costmodel.value import Value

GRADIENT = "grad:"
"""Prefix of the names of gradients: `grad:x` is the gradient of tensor x."""

BESIDE = "forward:"
"""Prefix, where a forward runs beside the backward of another micro-batch, of what belongs to the forward."""


class Precision(StrEnum):
    """Number format of a GEMM's inputs."""

    BF16 = "bf16"
    FP8 = "fp8"


class Pass(StrEnum):
    """Which pass an operator belongs to. Recomputed operators run in the backward pass but are FORWARD work."""

    FORWARD = "forward"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


class Resource(StrEnum):
    """What an operator occupies while it runs."""

    COMPUTE = "compute"
    NVLINK = "nvlink"
    NETWORK = "network"
    COPY_ENGINE = "copy_engine"


class Axis(StrEnum):
    """The axis of the mesh that a communication belongs to."""

    TENSOR = "tensor"
    SEQUENCE = "sequence"
    CONTEXT = "context"
    EXPERT = "expert"
    DATA = "data"


class Collective(StrEnum):
    """Collective operations; the bytes each one's `num_bytes` counts are given at `CollectiveWork`."""

    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_REDUCE = "all_reduce"
    ALL_TO_ALL = "all_to_all"
    SEND_RECV = "send_recv"


class MemoryKernel(StrEnum):
    """Families of memory-bound kernels, each with its own measured share of the copy bandwidth.

    PERMUTE puts rows in another order, UNPERMUTE sums several into one.
    """

    COPY = "copy"
    NORM = "norm"
    ACTIVATION = "activation"
    ROPE = "rope"
    RESIDUAL = "residual"
    PERMUTE = "permute"
    UNPERMUTE = "unpermute"
    ROUTER = "router"
    CAST = "cast"
    CROSS_ENTROPY = "cross_entropy"
    OPTIMIZER = "optimizer"


class CustomKernel(StrEnum):
    """CUDA kernels of Meshwright's own (`meshwright.kernels`) that operators of a layer program are made of.

    ROUTE chooses experts, weighs them and sorts the slots; PERMUTE gives rows to other places, with and without gate
    weights; UNPERMUTE sums each token's rows; UNPERMUTE_BACKWARD is that of a weighted sum.
    """

    ROUTE = "route"
    ROUTE_BACKWARD = "route_backward"
    PERMUTE = "permute"
    UNPERMUTE = "unpermute"
    UNPERMUTE_BACKWARD = "unpermute_backward"
    SWIGLU = "swiglu"
    SWIGLU_BACKWARD = "swiglu_backward"


class CustomWork(Value, frozen=True, kw_only=True):
    """The custom kernel that can run an operator, and the bytes that it must move, every row once."""

    kernel: CustomKernel
    num_bytes: float


class Group(Value, frozen=True, kw_only=True):
    """A communicator's place on the topology: `size` ranks, `ranks_per_node` of them in each node they touch.

    `size` is a multiple of `ranks_per_node`. All GPUs of a node belong to some group of the same shape, so
    `gpus_per_node / ranks_per_node` such groups share the node's links at the same time.
    """

    size: int
    ranks_per_node: int

    @property
    def num_nodes(self) -> int:
        """Nodes the group spans."""
        return self.size // self.ranks_per_node

    @property
    def resource(self) -> Resource:
        """The link that the group's traffic is bound to."""
        return Resource.NVLINK if self.num_nodes == 1 else Resource.NETWORK


class GemmWork(Value, frozen=True, kw_only=True, tag="gemm"):
    """A dense product of (m, k) by (k, n). `accumulates_fp32`: adds into an FP32 (m, n) buffer (fused wgrad).

    `direction` tells which sides are stored transposed (W is kept as (width_out, width_in), activations by rows):
    FORWARD x W^T, the second side; DGRAD dy W, none; WGRAD x^T dy, the first.
    """

    m: int
    n: int
    k: int
    direction: Pass = Pass.FORWARD
    precision: Precision = Precision.BF16
    accumulates_fp32: bool = False


class GroupedGemmWork(Value, frozen=True, kw_only=True, tag="grouped_gemm"):
    """`num_groups` products; together they have `rows` token rows, evenly spread unless skewed.

    FORWARD and DGRAD: each group is (rows / num_groups, k) by (k, n). WGRAD: each group is (k, rows / num_groups) by
    (rows / num_groups, n), giving a (k, n) weight gradient a group. Hence FLOPs are 2 rows n k in every direction.
    """

    num_groups: int
    rows: float
    n: int
    k: int
    direction: Pass = Pass.FORWARD
    precision: Precision = Precision.BF16
    accumulates_fp32: bool = False


class AttentionWork(Value, frozen=True, kw_only=True, tag="attention"):
    """Fused (flash) attention of `batch` sequences.

    `pairs` is the number of (query, key) pairs scored per sequence and head: s^2 / 2 for causal attention, half by
    convention. FLOPs: forward 2 (head_dim + value_head_dim) pairs batch heads; backward 2.5 times that.
    """

    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int
    query_len: int
    key_len: int
    pairs: float
    backward: bool = False


class MemoryWork(Value, frozen=True, kw_only=True, tag="memory"):
    """A memory-bound kernel: bytes it must read and write, and how many kernels are launched for it.

    `backward`: it computes gradients, with a kernel of its own. `custom`: what one of Meshwright's kernels does for it,
    where there is one; it counts where the runtime has these kernels and the profile their figures.
    """

    kernel: MemoryKernel
    read_bytes: float
    write_bytes: float
    num_kernels: int = 1
    backward: bool = False
    custom: CustomWork | None = None


class CollectiveWork(Value, frozen=True, kw_only=True, tag="collective"):
    """A collective over `group`. `num_bytes` per rank means:

    all-gather: the gathered output; reduce-scatter: the full input; all-reduce: the buffer; all-to-all: everything a
    rank sends, its own part included; send/recv: the message.
    """

    collective: Collective
    num_bytes: float
    group: Group


class CopyWork(Value, frozen=True, kw_only=True, tag="copy"):
    """Bytes that a copy engine moves between a GPU and its host's memory."""

    num_bytes: float


Work = GemmWork | GroupedGemmWork | AttentionWork | MemoryWork | CollectiveWork | CopyWork


class Tensor(Value, frozen=True, kw_only=True):
    """A named activation of one rank and one micro-batch."""

    name: str
    num_bytes: float


class Operator(Value, frozen=True, kw_only=True):
    """One step of a layer: what it does, what it reads and writes (tensor names).

    `module` is the part of the layer it belongs to (attention, ffn, ...), `axis` what a communication serves.
    `recomputes` marks forward work that is run again in the backward pass.
    """

    name: str
    module: str
    phase: Pass
    work: Work
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    axis: Axis | None = None
    recomputes: bool = False

    @property
    def is_communication(self) -> bool:
        """Whether the operator moves data between ranks."""
        return isinstance(self.work, CollectiveWork)

    @property
    def resource(self) -> Resource:
        """What the operator occupies."""
        if isinstance(self.work, CopyWork):
            return Resource.COPY_ENGINE
        return self.work.group.resource if isinstance(self.work, CollectiveWork) else Resource.COMPUTE
