"""Failures, checkpoints and restarts of a run in closed form."""

from __future__ import annotations

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.formulas.goodput import (
    daly_interval_s,
    effective_fraction,
    run_mean_time_between_failures_s,
    waiting_fraction,
)
from meshwright.costmodel.formulas.memory import host_copy_s
from meshwright.costmodel.step import StageMemory
from meshwright.costmodel.value import Value


class Interruptions(Value, frozen=True, kw_only=True):
    """What stops a run, in seconds, and the share of its time in which it trains.

    mean_time_between_failures_s: of the whole run. checkpoint_interval_s: training between two checkpoints.
    checkpoint_write_s: what each blocks. checkpoint_store_s: until it is safe. repair_s: how long a node is away.
    waiting_fraction: share of the time in which more nodes are away than there are spares.
    effective_fraction: training over wall time, waiting included.
    """

    mean_time_between_failures_s: float
    checkpoint_interval_s: float
    checkpoint_write_s: float
    checkpoint_store_s: float
    detection_s: float
    restart_s: float
    num_spare_nodes: int
    repair_s: float
    waiting_fraction: float
    effective_fraction: float

    @property
    def downtime_s(self) -> float:
        """From a failure to the first step after it, unless it waits for a repair."""
        return self.detection_s + self.restart_s


def interruptions(
    configuration: TrainingConfiguration, memory: tuple[StageMemory, ...], step_s: float
) -> Interruptions | None:
    """The interruptions of a run of steps of `step_s`; None where the cluster has no mean time between failures.

    Without a spare, a run waits for the repair: going on with fewer replicas would change the global batch, and is not
    possible at all where an expert-parallel group spans replicas. Waiting and losing work are taken as independent.
    """
    cluster, recovery = configuration.cluster, configuration.circumstances.recovery
    if cluster.mean_time_between_failures_s is None:
        return None
    mean_s = run_mean_time_between_failures_s(cluster.mean_time_between_failures_s, cluster.num_gpus)
    written = recovery.checkpoint_write_s
    write_s = copy_to_host_s(configuration, memory) if isinstance(written, str) else written
    given = recovery.checkpoint_interval_s
    best_s = max(step_s, daly_interval_s(write_s, mean_s), recovery.checkpoint_store_s)
    interval_s = best_s if isinstance(given, str) else given
    waiting = waiting_fraction(recovery.num_spare_nodes, mean_s, recovery.repair_s)
    downtime_s = recovery.detection_s + recovery.restart_s
    effective = effective_fraction(interval_s, write_s, downtime_s, mean_s, recovery.checkpoint_store_s)
    return Interruptions(
        mean_time_between_failures_s=mean_s,
        checkpoint_interval_s=interval_s,
        checkpoint_write_s=write_s,
        checkpoint_store_s=recovery.checkpoint_store_s,
        detection_s=recovery.detection_s,
        restart_s=recovery.restart_s,
        num_spare_nodes=recovery.num_spare_nodes,
        repair_s=recovery.repair_s,
        waiting_fraction=waiting,
        effective_fraction=effective * (1.0 - waiting),
    )


def copy_to_host_s(configuration: TrainingConfiguration, memory: tuple[StageMemory, ...]) -> float:
    """Seconds in which a GPU copies the state that it alone holds to host memory: master weights and moments.

    That is all that a two-stage checkpoint blocks; host memory is written to storage beside the following steps
    (MegaScale, arXiv 2402.15627, section 4.4).
    """
    most_bytes = max(stage.optimizer for stage in memory)
    return host_copy_s(most_bytes, configuration.cluster.gpu.pcie_bytes_per_s)
