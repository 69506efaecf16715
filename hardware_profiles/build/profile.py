"""A profile of what was measured, over one that says what was not: data sheet, network, other group sizes."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from meshwright.costmodel.hardware import HardwareProfile
from meshwright.costmodel.program.operators import Pass
from meshwright.costmodel.tables import Citation, GroupedGemmLaw, GroupedGemmTable, LinkCurve, Provenance, Source
from meshwright.hardware_profiles.build.attention import attention_curves
from meshwright.hardware_profiles.build.clocks import (
    at_training_clocks,
    training_clock_hz,
    training_reference_s,
)
from meshwright.hardware_profiles.build.custom_kernels import custom_kernel_shares
from meshwright.hardware_profiles.build.figures import gpu_figures, launch_cost
from meshwright.hardware_profiles.build.grouped import grouped_laws
from meshwright.hardware_profiles.build.interference import interference
from meshwright.hardware_profiles.build.links import link_curves
from meshwright.hardware_profiles.build.memory import memory_shares
from meshwright.hardware_profiles.build.products import product_tables, product_variants
from meshwright.hardware_profiles.measurements import Machine, Measurements, Purpose, Sample

Table = TypeVar("Table")
Part = TypeVar("Part", contravariant=True)


def build_profile(measurements: Measurements, *, base: HardwareProfile) -> HardwareProfile:
    """The profile of the measured machine.

    `base`: a profile of the same GPU type, or of the nearest one. What was measured replaces its tables, one kind of
    table (a precision, a direction, a head size, a group size) after the other; the rest of it stays, with its sources.
    Samples whose purpose is CHECK are never used.
    """
    fit = tuple(sample for sample in measurements.samples if sample.purpose is Purpose.FIT)
    provenance = Provenance(source=Source.MEASURED, text=_text(measurements))
    figures = gpu_figures(measurements.machine, fit, base, provenance)
    profile = msgspec.structs.replace(
        base,
        gpu=figures.gpu,
        launch=launch_cost(measurements.launch, base.launch),
        citations=(*figures.citations, *_kept(base.citations, figures.citations, lambda citation: citation.figure)),
    )
    reference_s = training_reference_s(measurements)
    clock_hz = training_clock_hz(measurements)
    fit = tuple(at_training_clocks(sample, profile.gpu, reference_s, clock_hz) for sample in fit)
    gemm = product_tables(fit, profile.gpu, base.gemm, provenance)
    profile = msgspec.structs.replace(profile, gemm=(*gemm, *_kept(base.gemm, gemm, lambda table: table.precision)))
    profile = msgspec.structs.replace(profile, gemm_variants=product_variants(fit, profile, provenance))
    return _with_interference(_with_other_tables(profile, fit, provenance), measurements, provenance)


def _with_other_tables(profile: HardwareProfile, fit: tuple[Sample, ...], provenance: Provenance) -> HardwareProfile:
    """The tables that are measured relative to dense products, and those of links."""
    laws = grouped_laws(fit, profile.gpu, provenance)
    attention = attention_curves(fit, profile, provenance)
    memory = memory_shares(fit, profile, provenance)
    custom = custom_kernel_shares(fit, profile.gpu, provenance)
    links = link_curves(fit, profile.gpu, provenance)
    return msgspec.structs.replace(
        profile,
        grouped_gemm=_without_law(profile.grouped_gemm, laws),
        grouped_laws=(*laws, *_kept(profile.grouped_laws, laws, lambda law: (law.precision, law.direction))),
        attention=(*attention, *_kept(profile.attention, attention, lambda t: (t.backend, t.backward, t.head_dim))),
        memory=(*memory, *_kept(profile.memory, memory, lambda share: (share.kernel, share.backward))),
        custom_kernels=(*custom, *_kept(profile.custom_kernels, custom, lambda entry: entry.kernel)),
        links=(*links, *_kept(profile.links, links, _link_key)),
    )


def _with_interference(profile: HardwareProfile, measurements: Measurements, provenance: Provenance) -> HardwareProfile:
    measured = interference(measurements.interference, profile.interference)
    if measured is None:
        return profile
    text = f"{provenance.text}, over products beside collectives inside a node; the SMs taken and what traffic between"
    citation = Citation(figure="interference", source=provenance.source, text=f"{text} nodes takes are assumed")
    kept = _kept(profile.citations, (citation,), lambda one: one.figure)
    return msgspec.structs.replace(profile, interference=measured, citations=(*kept, citation))


def _link_key(curve: LinkCurve) -> tuple[str, int]:
    return curve.collective.value, curve.group_size


def _without_law(
    tables: tuple[GroupedGemmTable, ...], laws: tuple[GroupedGemmLaw, ...]
) -> tuple[GroupedGemmTable, ...]:
    """The tables of grouped products that no law replaces."""
    replaced = {(law.precision, law.direction is Pass.WGRAD) for law in laws}
    return tuple(table for table in tables if (table.precision, table.weight_gradient) not in replaced)


class _Key(Protocol[Part]):
    def __call__(self, part: Part, /) -> object: ...


def _kept(base: tuple[Table, ...], measured: tuple[Table, ...], key: _Key[Table]) -> tuple[Table, ...]:
    """The tables of the base that nothing measured replaces."""
    replaced = {key(table) for table in measured}
    return tuple(table for table in base if key(table) not in replaced)


def _text(measurements: Measurements) -> str:
    text = measured_text(measurements.machine)
    if measurements.complete:
        return text
    return f"{text}; incomplete: interrupted after {len(measurements.samples)} samples"


def measured_text(machine: Machine) -> str:
    """Where, when and how, in a line."""
    return (
        f"{machine.num_gpus} x {machine.gpu}, {machine.date}: `{machine.command}`; driver {machine.driver}, CUDA "
        f"{machine.cuda}, torch {machine.torch}, cuDNN {machine.cudnn}, NCCL {machine.nccl}; at work "
        f"{machine.sm_clock_mhz:.0f} MHz, {machine.power_w:.0f} of {machine.power_limit_w:.0f} W, "
        f"{machine.temperature_celsius:.0f} degC; random data, medians"
    )
