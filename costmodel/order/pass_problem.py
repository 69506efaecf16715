"""One pass of one layer as a scheduling problem: operators as numbers, what each waits for, what each may share.

Streams: computation, NVLink, network and copy engine. Communication that a runtime does not overlap blocks: it takes
its turn on the compute stream and nothing runs beside it. While communication and computation run beside each other
both are slower, by the profile's interference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from meshwright.costmodel.formulas.fusion import fused_s
from meshwright.costmodel.formulas.interference import between_nodes
from meshwright.costmodel.hardware import Interference
from meshwright.costmodel.order.fusion import FusedPair, fused_pairs
from meshwright.costmodel.order.signature import Signature, signature
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.program.operators import Operator, Resource

STREAMS = (Resource.COMPUTE, Resource.NVLINK, Resource.NETWORK, Resource.COPY_ENGINE)
NUM_STREAMS = len(STREAMS)
COMPUTE, COMMUNICATING, COPYING = 0, (1, 2), 3
NO_LINK = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoveredCommunication:
    """An overlapped communication, by index, and what may run on the compute stream while it does, as bit masks.

    `beside`: what neither leads to it nor follows from it; `cover`: also the products of its fused kernels.
    `stretching`: communication on other links that may run at the same time and makes computation beside it last
    longer. `follows`: places in the list of communications of those that lead to it.
    """

    index: int
    beside: int
    cover: int
    stretching: int
    pairs: tuple[FusedPair, ...]
    follows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassShape:
    """What follows from names and axes alone, worked out once for all sizes of a program; by operator.

    `link`: stream of an overlapped communication, NO_LINK for computation and for what blocks. `is_compute`: whether it
    slows and is slowed. `before`: direct dependencies. `apart`: bit mask of the operators that neither lead to it nor
    follow from it. `pairs`: fused kernels there are. `communications`: the overlapped ones, in program order.
    """

    link: tuple[int, ...]
    is_compute: tuple[bool, ...]
    before: tuple[tuple[int, ...], ...]
    apart: tuple[int, ...]
    pairs: tuple[FusedPair, ...]
    communications: tuple[CoveredCommunication, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassProblem:
    """The operators of one pass in program order, with their seconds alone.

    By stream: `loss`, the share of its speed that computation loses while the stream is busy; `stretch`, how much
    longer communication takes beside computation; `num_sms`, what communication takes; `occupied_s`, seconds in which
    fused kernels that stand here as computation occupy a link.
    """

    operators: tuple[Operator, ...]
    time_s: tuple[float, ...]
    shape: PassShape
    loss: tuple[float, ...]
    stretch: tuple[float, ...]
    num_sms: tuple[int, ...]
    fused_share: float
    occupied_s: tuple[float, ...] = (0.0,) * NUM_STREAMS

    @property
    def link(self) -> tuple[int, ...]:
        """Stream of each overlapped communication, NO_LINK for other operators."""
        return self.shape.link

    @property
    def pairs(self) -> tuple[FusedPair, ...]:
        """The fused kernels there are."""
        return self.shape.pairs

    def fused_times_s(self, pair: FusedPair) -> tuple[float, float, float]:
        """Seconds of a fused kernel, of its hidden communication, of its slow-down."""
        between_s = sum(self.time_s[index] for index in pair.members if index not in (pair.product, pair.communication))
        stream = STREAMS.index(self.operators[pair.communication].resource)
        return fused_s(
            self.time_s[pair.product],
            between_s,
            self.time_s[pair.communication],
            share=self.fused_share,
            loss=self.loss[stream],
            stretch=self.stretch[stream],
        )


def pass_problem(
    operators: tuple[Operator, ...],
    time_s: Mapping[str, float],
    overlap: LayerOverlap,
    interference: Interference,
    inside_share: float = 0.0,
    copying_loss: float = 0.0,
) -> PassProblem:
    """The problem of ordering one pass. `time_s` has the seconds of each operator when it runs alone.

    `inside_share`: seconds that its communication between nodes would take inside one, over those that it takes.
    `copying_loss`: the share of its speed that computation loses while copies to or from the host run; with
    collectives beside both, of the speed that these leave.
    """
    shape = _shape(operators, overlap)
    inside, network = interference.slowdowns(nvlink=True), interference.slowdowns(nvlink=False)
    pairs = [inside, between_nodes(inside, network, inside_share)]
    losses = [1.0 - 1.0 / compute for compute, _ in pairs]
    return PassProblem(
        operators=operators,
        time_s=tuple(time_s[op.name] for op in operators),
        shape=shape,
        loss=(0.0, *losses, copying_loss * (1.0 - sum(losses))),
        stretch=(1.0, *(communication for _, communication in pairs), 1.0),
        num_sms=(0, interference.collective_sms, interference.network_sms, 0),
        fused_share=overlap.fused_share,
    )


def _shape(operators: tuple[Operator, ...], overlap: LayerOverlap) -> PassShape:
    return _shape_of(tuple(map(signature, operators)), overlap)


@lru_cache(maxsize=4096)
def _shape_of(signatures: tuple[Signature, ...], overlap: LayerOverlap) -> PassShape:
    before = _dependencies(signatures)
    link = tuple(_link(op, overlap) for op in signatures)
    pairs = tuple(pair for pair in fused_pairs(signatures, overlap) if _is_convex(pair, before))
    apart = unrelated(before)
    return PassShape(
        link=link,
        is_compute=tuple(op.resource is Resource.COMPUTE for op in signatures),
        before=before,
        pairs=pairs,
        apart=apart,
        communications=covered_communications(link, apart, pairs),
    )


def covered_communications(
    link: tuple[int, ...], apart: tuple[int, ...], pairs: tuple[FusedPair, ...]
) -> tuple[CoveredCommunication, ...]:
    """The overlapped communications with what may run beside each."""
    on_compute = sum(1 << index for index, stream in enumerate(link) if stream == NO_LINK)
    indices = [index for index, stream in enumerate(link) if stream != NO_LINK]
    covered = []
    for place, index in enumerate(indices):
        mine = tuple(pair for pair in pairs if pair.communication == index)
        beside = apart[index] & on_compute
        others = sum(1 << other for other in indices if link[other] != link[index])
        products = sum({1 << pair.product for pair in mine})
        covered.append(
            CoveredCommunication(
                index=index,
                beside=beside,
                cover=beside | products,
                stretching=apart[index] & others,
                pairs=mine,
                follows=tuple(other for other in range(place) if not apart[index] >> indices[other] & 1),
            )
        )
    return tuple(covered)


def _link(op: Signature, overlap: LayerOverlap) -> int:
    if op.axis is not None and overlap.level(op.axis) is OverlapLevel.NONE:
        return NO_LINK
    if op.resource is Resource.COMPUTE:
        return NO_LINK
    return STREAMS.index(op.resource)


def _dependencies(operators: tuple[Signature, ...]) -> tuple[tuple[int, ...], ...]:
    """An operator waits for all earlier ones that write what it reads."""
    producers: dict[str, list[int]] = {}
    before = []
    for index, op in enumerate(operators):
        before.append(tuple(dict.fromkeys(source for name in op.reads for source in producers.get(name, ()))))
        for name in op.writes:
            producers.setdefault(name, []).append(index)
    return tuple(before)


def unrelated(before: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Bit masks of the operators that are unrelated to each."""
    related = [1 << index for index in range(len(before))]
    leading: list[int] = []
    for index, sources in enumerate(before):
        mask = 0
        for source in sources:
            mask |= leading[source] | 1 << source
        leading.append(mask)
        related[index] |= mask
        for source in range(index):
            if mask >> source & 1:
                related[source] |= 1 << index
    everything = (1 << len(before)) - 1
    return tuple(everything & ~mask for mask in related)


def _is_convex(pair: FusedPair, before: tuple[tuple[int, ...], ...]) -> bool:
    """Whether nothing outside the pair waits for one member and is waited for by another."""
    inside = set(pair.members)
    tainted: set[int] = set()
    for index in range(min(inside), max(inside) + 1):
        waits = set(before[index])
        if index in inside:
            if waits & tainted:
                return False
        elif waits & (inside | tainted):
            tainted.add(index)
    return True
