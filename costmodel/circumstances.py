"""What a cluster does to a run beside its data sheet: a slow GPU or link, jitter, failures. The default: nothing."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.value import Value

WHERE = "circumstances"
WORST = -1
"""The stage in which something costs the step most."""


def _at(what: str, stage: int) -> str:
    if stage == WORST:
        return "" if what in ("stage", LinkPlace.ADAPTER.value) else f"@{what}"
    return f"@{what}:{stage}"


def _check_stage(field: str, stage: int) -> None:
    if stage < WORST:
        raise StrategyError(WHERE, field, f"stage {stage} is negative")


def _check_below(field: str, stage: int, number: int, what: str) -> None:
    if stage >= number:
        raise StrategyError(WHERE, field, f"place {stage}, but there are {number} {what}, numbered from 0")


class SlowGpu(Value, frozen=True, kw_only=True):
    """One GPU whose clocks and memory are `time_factor` times as slow, in one pipeline stage of one replica.

    The ranks that share its layers wait for it in each collective, and every replica waits for its replica at the end
    of the step.
    """

    time_factor: float = 1.0
    stage: int = WORST

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_factor) and self.time_factor >= 1.0):
            raise StrategyError(
                WHERE, "slow_gpu", f"{self.time_factor} is not a factor >= 1 on the time of computation"
            )
        _check_stage("slow_gpu", self.stage)

    def __str__(self) -> str:
        return f"{self.time_factor:g}{_at('stage', self.stage)}"


class LinkPlace(StrEnum):
    """Which traffic a slow link carries.

    ADAPTER: a network adapter, all that one GPU of the stage sends or receives between nodes. BOUNDARY: activations and
    gradients between virtual stages j and j + 1, over NVLink or the network. DATA_PARALLEL: parameter gathers and
    gradient reductions of the stage, whose rings are as fast as their slowest link.
    """

    ADAPTER = "adapter"
    BOUNDARY = "boundary"
    DATA_PARALLEL = "data-parallel"


class SlowLink(Value, frozen=True, kw_only=True):
    """A link with `bandwidth_fraction` of its bandwidth left, at a stage (for BOUNDARY the lower virtual stage)."""

    bandwidth_fraction: float = 1.0
    place: LinkPlace = LinkPlace.ADAPTER
    stage: int = WORST

    def __post_init__(self) -> None:
        if not 0.0 < self.bandwidth_fraction <= 1.0:
            raise StrategyError(WHERE, "slow_link", f"{self.bandwidth_fraction} is not a share of bandwidth in (0, 1]")
        _check_stage("slow_link", self.stage)

    def __str__(self) -> str:
        return f"{self.bandwidth_fraction:g}{_at(self.place.value, self.stage)}"


class Recovery(Value, frozen=True, kw_only=True):
    """How a run comes back after a failure.

    detection_s: from the failure to the decision to restart, diagnosis included. restart_s: from there to the first
    step. checkpoint_interval_s: training time between checkpoints; OPTIMAL is Daly's. checkpoint_write_s: what a
    checkpoint blocks training; TO_HOST: the copy of a GPU's state to host memory. checkpoint_store_s: how long it then
    takes, beside training, until the checkpoint is safe in storage; a failure before that loses it, and the next one
    waits for it.
    num_spare_nodes: nodes that stand ready. repair_s: how long a failed node is away; 0: it restarts with the run.

    The default for detection is what MegaScale (arXiv 2402.15627, section 6.3) stays below on average. How long a
    restart takes is not published there (only that lost work is caught up within 15 minutes): that is an assumption.
    """

    detection_s: float = 600.0
    restart_s: float = 300.0
    checkpoint_interval_s: float | Literal["optimal"] = "optimal"
    checkpoint_write_s: float | Literal["to-host"] = "to-host"
    checkpoint_store_s: float = 0.0
    num_spare_nodes: int = 0
    repair_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("detection_s", "restart_s", "repair_s", "checkpoint_write_s", "checkpoint_store_s"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (math.isfinite(value) and value >= 0.0):
                raise StrategyError(WHERE, name, f"{value} is not a time >= 0")
        interval_s = self.checkpoint_interval_s
        if not isinstance(interval_s, str) and not (math.isfinite(interval_s) and interval_s > 0.0):
            raise StrategyError(WHERE, "checkpoint_interval_s", f"{interval_s} is neither 'optimal' nor a time > 0")
        if self.num_spare_nodes < 0:
            raise StrategyError(WHERE, "spares", f"{self.num_spare_nodes} is negative")
        if not isinstance(interval_s, str) and interval_s < self.checkpoint_store_s:
            raise StrategyError(
                WHERE,
                "checkpoint_interval_s",
                f"{interval_s:g} s is shorter than the {self.checkpoint_store_s:g} s that storing a checkpoint takes",
            )


class Circumstances(Value, frozen=True, kw_only=True):
    """All of it, with the tokens to train (0: no goal) and the seed of what is drawn at random.

    `jitter_fraction` is the coefficient of variation of the time of one pass of one micro-batch through a stage.
    """

    slow_gpu: SlowGpu = SlowGpu()
    slow_link: SlowLink = SlowLink()
    jitter_fraction: float = 0.0
    recovery: Recovery = Recovery()
    tokens: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.jitter_fraction <= 1.0:
            raise StrategyError(WHERE, "jitter", f"{self.jitter_fraction} is not a coefficient of variation in [0, 1]")
        if not (math.isfinite(self.tokens) and self.tokens >= 0.0):
            raise StrategyError(WHERE, "tokens", f"{self.tokens} is not a number of tokens >= 0")
        if self.seed < 0:
            raise StrategyError(WHERE, "seed", f"{self.seed} is negative")

    @property
    def slows(self) -> bool:
        """Whether a GPU or a link is slow."""
        return self.slow_gpu.time_factor != 1.0 or self.slow_link.bandwidth_fraction != 1.0

    def check_stages(self, num_stages: int, num_virtual_stages: int) -> None:
        """Raises `StrategyError` where a stage is named that the pipeline does not have."""
        _check_below("slow_gpu", self.slow_gpu.stage, num_stages, "pipeline stages")
        if self.slow_link.place is LinkPlace.BOUNDARY:
            _check_below("slow_link", self.slow_link.stage, num_virtual_stages - 1, "boundaries of virtual stages")
        else:
            _check_below("slow_link", self.slow_link.stage, num_stages, "pipeline stages")


NONE = Circumstances()
