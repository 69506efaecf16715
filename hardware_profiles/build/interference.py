"""What communication costs the computation beside it, and the other way round, from samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from meshwright.costmodel.hardware import Interference, SmShare
from meshwright.costmodel.program.operators import CollectiveWork, GemmWork, GroupedGemmWork, Work
from meshwright.hardware_profiles.measurements import Implementation, InterferenceSample

DIGITS = 3
_Pair = tuple[Work, CollectiveWork]


def interference(samples: Sequence[InterferenceSample], base: Interference) -> Interference | None:
    """Medians over products beside NCCL's collectives as NCCL sets them up; None where nothing was measured.

    Thread blocks that NCCL was given instead, one a SM, are shares of the SMs, by the pairs that were also measured as
    NCCL sets them up.
    """
    by_blocks: dict[int, list[InterferenceSample]] = defaultdict(list)
    for sample in samples:
        if sample.implementation is Implementation.NCCL and isinstance(sample.compute, GemmWork | GroupedGemmWork):
            by_blocks[sample.num_ctas].append(sample)
    chosen = by_blocks.pop(0, [])
    if not chosen:
        return None
    compute, communication = _slowdowns(chosen)
    as_chosen_s = {(one.compute, one.communication): one.communication_alone_s for one in chosen}
    comparable = {
        blocks: [one for one in found if (one.compute, one.communication) in as_chosen_s]
        for blocks, found in sorted(by_blocks.items())
    }
    return msgspec.structs.replace(
        base,
        compute_slowdown=compute,
        communication_slowdown=communication,
        shares=tuple(_share(blocks, found, as_chosen_s) for blocks, found in comparable.items() if found),
    )


def _share(num_sms: int, samples: Sequence[InterferenceSample], as_chosen_s: Mapping[_Pair, float]) -> SmShare:
    """`as_chosen_s`: seconds of each pair's communication alone, as NCCL sets it up."""
    factors = [one.communication_alone_s / as_chosen_s[one.compute, one.communication] for one in samples]
    compute, communication = _slowdowns(samples)
    return SmShare(
        num_sms=num_sms,
        time_factor=round(median(factors), DIGITS),
        compute_slowdown=compute,
        communication_slowdown=communication,
    )


def _slowdowns(samples: Sequence[InterferenceSample]) -> tuple[float, float]:
    """Of computation and of communication, beside each other over alone."""
    compute = median(sample.compute_beside_s / sample.compute_alone_s for sample in samples)
    communication = median(sample.communication_beside_s / sample.communication_alone_s for sample in samples)
    return round(max(1.0, compute), DIGITS), round(max(1.0, communication), DIGITS)
