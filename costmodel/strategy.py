"""How a model is spread over GPUs: the two meshes (attention and expert view), and what each layer does with them."""

from __future__ import annotations

from enum import StrEnum
from math import gcd

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.program.operators import Group, Precision
from meshwright.costmodel.value import Value


class AxisOrder(StrEnum):
    """Which of the two outer axes has neighbouring ranks farthest apart; tp, sp, cp are always innermost."""

    PP_OUTERMOST = "pp-outermost"
    DP_OUTERMOST = "dp-outermost"


class ContextMethod(StrEnum):
    """How context parallelism brings keys and values to the queries."""

    RING = "ring"
    ALL_GATHER = "allgather"


class Dispatch(StrEnum):
    """How tokens reach their experts.

    ALL_TO_ALL sends one row per token and chosen expert. ALL_TO_ALL_DEDUP sends a token once to each node that hosts a
    chosen expert and forwards it over NVLink once to each such rank (DeepEP). ALL_GATHER gathers all tokens of the
    expert group and reduce-scatters the outputs, whatever the top-k.
    """

    ALL_TO_ALL = "alltoall"
    ALL_TO_ALL_DEDUP = "alltoall-dedup"
    ALL_GATHER = "allgather"


class Recompute(StrEnum):
    """Named choices of the tensors kept for the backward pass; `costmodel.program.recompute` has the sets."""

    NONE = "none"
    ACTIVATION = "activation"
    NORM_ACTIVATION = "norm-activation"
    CORE_ATTENTION = "core-attention"
    SELECTIVE = "sar"
    EVERY_SECOND_GEMM = "every-second-gemm"
    FFN = "ffn"
    FULL = "full"


class ZeroStage(StrEnum):
    """What data-parallel ranks share: nothing, optimizer state, also gradients, also parameters (ZeRO 0 to 3)."""

    NONE = "0"
    OPTIMIZER = "1"
    GRADIENTS = "2"
    PARAMETERS = "3"


def place_group(size: int, stride: int, gpus_per_node: int) -> Group:
    """The communicator of `size` ranks that lie `stride` ranks apart, placed on nodes of `gpus_per_node`.

    >>> place_group(8, 1, 8)
    Group(size=8, ranks_per_node=8)
    >>> place_group(16, 4, 8)
    Group(size=16, ranks_per_node=2)
    """
    return Group(size=size, ranks_per_node=gcd(size, max(1, gpus_per_node // stride)))


def place_over_replicas(size: int, stride: int, replica: int, data_stride: int, gpus_per_node: int) -> Group:
    """The communicator of `size` ranks of a pipeline stage, `stride` apart, whose replicas lie `data_stride` apart.

    Replicas of 4 ranks, two stages of each in a node of 8: of 8 ranks that are neighbours in their stage, 4 share one.

    >>> place_over_replicas(8, 1, replica=4, data_stride=8, gpus_per_node=8)
    Group(size=8, ranks_per_node=4)
    >>> place_over_replicas(8, 1, replica=4, data_stride=4, gpus_per_node=8)
    Group(size=8, ranks_per_node=8)
    """
    if data_stride == replica or size * stride <= replica:
        return place_group(size, stride, gpus_per_node)
    if stride >= replica:
        return place_group(size, stride // replica * data_stride, gpus_per_node)
    in_replica = replica // stride
    inside = gcd(in_replica, max(1, gpus_per_node // stride))
    across = gcd(size // in_replica, max(1, gpus_per_node // data_stride))
    return Group(size=size, ranks_per_node=inside * (across if inside == in_replica else 1))


class Mesh(Value, frozen=True, kw_only=True):
    """Degrees of parallelism. `num_gpus = pp dp cp sp tp`; the experts' view of the same GPUs is pp edp ep etp.

    `sp` is Ulysses sequence parallelism. Ranks are numbered with tp innermost, then sp, cp, then dp and pp in `order`;
    in the experts' view etp is innermost, then ep, then edp (parallel folding, arXiv 2504.14960).
    """

    pp: int = 1
    dp: int = 1
    tp: int = 1
    sp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    order: AxisOrder = AxisOrder.PP_OUTERMOST

    def __post_init__(self) -> None:
        for axis in ("pp", "dp", "tp", "sp", "cp", "ep", "etp"):
            if getattr(self, axis) < 1:
                raise StrategyError("mesh", axis, f"{getattr(self, axis)} is not a positive whole number")
        if self.stage_gpus % (self.ep * self.etp):
            raise StrategyError(
                "mesh",
                "ep",
                f"ep {self.ep} x etp {self.etp} does not divide dp {self.dp} x cp {self.cp} x sp {self.sp}"
                f" x tp {self.tp} = {self.stage_gpus} GPUs of a pipeline stage",
            )

    @property
    def num_gpus(self) -> int:
        """All GPUs."""
        return self.pp * self.stage_gpus

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline stage."""
        return self.dp * self.replica_gpus

    @property
    def replica_gpus(self) -> int:
        """GPUs that share the tokens of one micro-batch in one stage: cp sp tp."""
        return self.cp * self.sp * self.tp

    @property
    def edp(self) -> int:
        """Data-parallel degree of the experts."""
        return self.stage_gpus // (self.ep * self.etp)

    @property
    def data_stride(self) -> int:
        """Distance in ranks between neighbours along dp."""
        return self.replica_gpus * (self.pp if self.order is AxisOrder.DP_OUTERMOST else 1)

    @property
    def pipeline_stride(self) -> int:
        """Distance in ranks between neighbouring pipeline stages."""
        return self.replica_gpus * (self.dp if self.order is AxisOrder.PP_OUTERMOST else 1)


class LayerStrategy(Value, frozen=True, kw_only=True):
    """What one layer does. Attention: tp x sp x cp ranks share a micro-batch, tokens split evenly between layers.

    `ffn_tp` splits a dense FFN (and shared experts) over that many of those ranks. Routed experts use `dispatch` over
    ep x etp ranks. With tp > 1, `sequence_parallel` splits the residual stream over tp too (Megatron). `communication`:
    the format in which tensor- and expert-parallel activations and their gradients travel. `offload`: the widest kept
    tensors of the FFN wait in host memory.
    """

    tp: int = 1
    sp: int = 1
    cp: int = 1
    context_method: ContextMethod = ContextMethod.ALL_GATHER
    sequence_parallel: bool = True
    ffn_tp: int = 1
    ep: int = 1
    etp: int = 1
    dispatch: Dispatch = Dispatch.ALL_TO_ALL
    recompute: Recompute = Recompute.NONE
    communication: Precision = Precision.BF16
    offload: bool = False

    def __post_init__(self) -> None:
        for axis in ("tp", "sp", "cp", "ffn_tp", "ep", "etp"):
            if getattr(self, axis) < 1:
                raise StrategyError("layer", axis, f"{getattr(self, axis)} is not a positive whole number")
        if self.replica_gpus % self.ffn_tp:
            raise StrategyError(
                "layer",
                "ffn_tp",
                f"{self.ffn_tp} does not divide tp {self.tp} x sp {self.sp} x cp {self.cp} = {self.replica_gpus}",
            )
        if self.tp > 1 and not self.sequence_parallel:
            self._check_whole_tokens()

    def _check_whole_tokens(self) -> None:
        """Every tensor-parallel rank has all tokens: exchanging them would send copies."""
        if self.ffn_tp not in (1, self.tp):
            raise StrategyError("layer", "ffn_tp", f"{self.ffn_tp} must be 1 or tp {self.tp} without sequence_parallel")
        if self.ep * self.etp > 1:
            raise StrategyError(
                "layer", "ep", f"ep {self.ep} x etp {self.etp} with tp {self.tp} needs sequence_parallel"
            )

    @property
    def replica_gpus(self) -> int:
        """GPUs that share the tokens of one micro-batch."""
        return self.tp * self.sp * self.cp
