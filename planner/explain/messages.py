"""Communication outside layers, apart from that of model state: between stages, and the agreement before the update."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import CollectiveWork
from meshwright.costmodel.step import barrier_work, hop_works
from meshwright.costmodel.value import Value
from meshwright.planner.explain.formula_registry import formulas_of, names
from meshwright.planner.explain.operators import algorithm_of, group_words

HOP = "between stages"
BARRIER = "agreement on the gradient norm"


class MessageTerm(Value, frozen=True, kw_only=True):
    """A message, and between which virtual stages it passes: `hops` has the lower of each two."""

    what: str
    hops: tuple[int, ...]
    collective: str
    num_bytes: float
    group: str
    algorithm: str
    time_s: float
    formulas: tuple[str, ...]


def message_terms(configuration: TrainingConfiguration) -> tuple[MessageTerm, ...]:
    """Equal hops together, then the agreement."""
    alike: dict[CollectiveWork, list[int]] = {}
    for stage, work in enumerate(hop_works(configuration)):
        if work is not None:
            alike.setdefault(work, []).append(stage)
    cluster = configuration.cluster
    hops = (_message(HOP, tuple(stages), work, cluster) for work, stages in alike.items())
    return (*hops, *_barrier(cluster))


def _barrier(cluster: ClusterSpec) -> Iterator[MessageTerm]:
    work = barrier_work(cluster)
    if work is not None:
        yield _message(BARRIER, (), work, cluster)


def _message(what: str, hops: tuple[int, ...], work: CollectiveWork, cluster: ClusterSpec) -> MessageTerm:
    return MessageTerm(
        what=what,
        hops=hops,
        collective=work.collective.value.replace("_", "-"),
        num_bytes=work.num_bytes,
        group=group_words(work),
        algorithm=algorithm_of(work, cluster),
        time_s=operator_timing(work, cluster).time_s,
        formulas=names(formulas_of(work, cluster.profile)),
    )
