"""A profile's predictions of the samples that it was not built from."""

from __future__ import annotations

from collections import defaultdict

from meshwright.costmodel.hardware import ClusterSpec, HardwareProfile
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import AttentionWork, MemoryWork
from meshwright.costmodel.tables import AttentionBackend
from meshwright.hardware_profiles.build.alone import one_node
from meshwright.hardware_profiles.build.clocks import at_training_clocks, training_clock_hz, training_reference_s
from meshwright.hardware_profiles.measurements import Implementation, Measurements, Purpose, Sample
from meshwright.planner.validation.operators.summary import (
    OperatorErrors,
    Target,
    family_of,
    summarized,
    target_of,
)


def held_apart_errors(
    measurements: Measurements, profile: HardwareProfile, *, purpose: Purpose = Purpose.CHECK
) -> tuple[OperatorErrors, ...]:
    """Errors by family over the samples of that purpose. FIT shows how closely the tables follow their own points."""
    cluster = one_node(profile, measurements.machine.num_gpus)
    reference_s, clock_hz = training_reference_s(measurements), training_clock_hz(measurements)
    errors: dict[str, list[float]] = defaultdict(list)
    targets: dict[str, Target | None] = {}
    for sample in measurements.samples:
        if sample.purpose is purpose and sample.implementation is not Implementation.COPY_ENGINE:
            family = _family(sample)
            at_clocks = at_training_clocks(sample, profile.gpu, reference_s, clock_hz)
            errors[family].append(sample_error(at_clocks, cluster))
            targets[family] = target_of(sample.work)
    return summarized(errors, targets)


def sample_error(sample: Sample, cluster: ClusterSpec) -> float:
    """Predicted over measured time of a sample, less 1."""
    backend = AttentionBackend.FA2 if sample.implementation is Implementation.FA2 else AttentionBackend.BEST
    timing = operator_timing(
        sample.work,
        cluster,
        attention_backend=backend,
        fused_kernels=sample.implementation is not Implementation.EAGER,
        custom_kernels=sample.implementation is Implementation.CUSTOM,
    )
    return timing.time_s / sample.time_s - 1.0


def _family(sample: Sample) -> str:
    """The family, with what else sets samples apart."""
    family = family_of(sample.work)
    if isinstance(sample.work, AttentionWork):
        return f"{family}, {sample.implementation.value}"
    if isinstance(sample.work, MemoryWork):
        apart = (Implementation.EAGER, Implementation.CUSTOM)
        return f"{family}, {sample.implementation.value if sample.implementation in apart else 'fused'}"
    return f"{family}, skewed" if sample.rows_per_group or sample.peer_shares else family
