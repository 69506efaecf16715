"""Curves of fused attention from samples: share of the peak against sequence length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from meshwright.costmodel.formulas.attention import (
    attention_flops,
    idle_sm_factor,
    is_causal,
    last_block_overhang,
    resembled_length,
)
from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.program.operators import AttentionWork
from meshwright.costmodel.tables import AttentionBackend, AttentionCurve, Provenance
from meshwright.hardware_profiles.measurements import Implementation, Sample

BACKENDS = {Implementation.CUDNN: AttentionBackend.CUDNN, Implementation.FA2: AttentionBackend.FA2}
DIGITS = 4
CurveKey = tuple[AttentionBackend, bool, bool, int]


def attention_curves(
    samples: Iterable[Sample], profile: HardwareProfile, provenance: Provenance
) -> tuple[AttentionCurve, ...]:
    """A curve for each backend, direction, mask and head size: the median over numbers of heads at each length."""
    shares: dict[CurveKey, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        work = sample.work
        if isinstance(work, AttentionWork) and sample.implementation in BACKENDS:
            head_dim = round((work.head_dim + work.value_head_dim) / 2)
            key = (BACKENDS[sample.implementation], work.backward, is_causal(work), head_dim)
            overhang = last_block_overhang(work, longest_first=sample.implementation is not Implementation.FA2)
            shares[key][round(resembled_length(work))].append(_share(work, sample.time_s, profile, overhang))
    return tuple(
        AttentionCurve(
            backend=backend,
            backward=backward,
            causal=causal,
            head_dim=head_dim,
            seq_lens=tuple(sorted(by_length)),
            shares=tuple(round(median(by_length[length]), DIGITS) for length in sorted(by_length)),
            provenance=provenance,
        )
        for (backend, backward, causal, head_dim), by_length in shares.items()
    )


def _share(work: AttentionWork, time_s: float, profile: HardwareProfile, overhang: float) -> float:
    busy_s = time_s - profile.launch.kernel_floor_s
    idle = idle_sm_factor(work, profile.gpu.num_sms, overhang)
    return attention_flops(work) * idle / profile.gpu.bf16_flops_per_s / busy_s
