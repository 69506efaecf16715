"""A profile built from samples predicts those samples: every table is asked as it was filled."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.hardware import Basis, HardwareProfile, SmShare
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    CopyWork,
    CustomKernel,
    CustomWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Pass,
    Precision,
    Work,
)
from meshwright.costmodel.tables import GroupedGemmLaw, Source
from meshwright.hardware_profiles import load_profile
from meshwright.hardware_profiles.build import build_profile
from meshwright.hardware_profiles.build.alone import one_node
from meshwright.hardware_profiles.build.clocks import (
    at_training_clocks,
    training_clock_hz,
    training_reference_s,
)
from meshwright.hardware_profiles.measurements import (
    MEASUREMENTS_FOLDER,
    MEASUREMENTS_SCHEMA_VERSION,
    Implementation,
    InterferenceSample,
    LaunchSample,
    Machine,
    Measurements,
    Purpose,
    Sample,
    SustainedSample,
    load_measurements,
)

SLOWER = 1.25
"""Everything on the imagined machine takes so much longer than the shipped H100 says."""


def machine() -> Machine:
    return Machine(
        gpu="NVIDIA H100 80GB HBM3",
        num_gpus=2,
        num_sms=132,
        total_memory_bytes=85_520_809_984,
        usable_memory_bytes=84_000_000_000,
        driver="580.1",
        cuda="13.0",
        cudnn="9.19",
        nccl="2.28.9",
        torch="2.11.0",
        python="3.12",
        host_cpu="a processor",
        sm_clock_mhz=1700.0,
        memory_clock_mhz=2619.0,
        power_w=690.0,
        power_limit_w=700.0,
        temperature_celsius=60.0,
        date="2026-11-28",
        command="meshwright profile",
    )


def sample(work: Work, time_s: float, implementation: Implementation, purpose: Purpose = Purpose.FIT) -> Sample:
    return Sample(
        work=work,
        implementation=implementation,
        purpose=purpose,
        time_s=time_s,
        low_s=time_s,
        high_s=time_s,
        repeats=5,
    )


def measurements(*samples: Sample, interference: tuple[InterferenceSample, ...] = ()) -> Measurements:
    return Measurements(
        schema_version=MEASUREMENTS_SCHEMA_VERSION, machine=machine(), samples=samples, interference=interference
    )


@pytest.fixture(scope="module")
def base() -> HardwareProfile:
    return load_profile("h100")


PRODUCTS = tuple(
    GemmWork(m=m, n=n, k=k, precision=precision)
    for precision in Precision
    for m in (512, 4096)
    for n in (1024, 8192)
    for k in (1024, 4096)
)
GROUPED = tuple(
    GroupedGemmWork(num_groups=groups, rows=groups * rows, n=n, k=k)
    for rows in (64, 256, 1024, 4096)
    for groups in (8, 64)
    for n, k in ((2048, 768), (4096, 4096))
)
ATTENTION = tuple(
    AttentionWork(
        batch=2,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        value_head_dim=128,
        query_len=length,
        key_len=length,
        pairs=length * length / 2,
        backward=backward,
    )
    for length in (2048, 8192)
    for backward in (False, True)
)
COLLECTIVES = tuple(
    CollectiveWork(collective=collective, num_bytes=float(num_bytes), group=Group(size=2, ranks_per_node=2))
    for collective in Collective
    for num_bytes in (2**20, 2**26)
)


@pytest.mark.parametrize(
    ("works", "implementation"),
    [
        (PRODUCTS, Implementation.CUBLAS),
        (ATTENTION, Implementation.CUDNN),
        (COLLECTIVES, Implementation.NCCL),
    ],
)
def test_tables_give_back_what_they_were_built_from(
    base: HardwareProfile, works: tuple[Work, ...], implementation: Implementation
) -> None:
    times_s = [SLOWER * operator_timing(work, one_node(base)).time_s for work in works]
    built = build_profile(
        measurements(*(sample(work, s, implementation) for work, s in zip(works, times_s, strict=True))), base=base
    )
    for work, time_s in zip(works, times_s, strict=True):
        timing = operator_timing(work, one_node(built))
        assert timing.time_s == pytest.approx(time_s, rel=1e-3)
        assert timing.basis is Basis.MEASURED


def test_a_law_is_found_again_from_what_it_says(base: HardwareProfile) -> None:
    """Times by a law that nobody measured; the fit sees the times alone."""
    law = GroupedGemmLaw(
        precision=Precision.BF16,
        direction=Pass.FORWARD,
        rate_fraction=0.6,
        tile_depth=150.0,
        bandwidth_fraction=0.8,
        start_s=9e-6,
        sharpness=3.0,
        provenance=base.gemm[0].provenance,
    )
    true = one_node(msgspec.structs.replace(base, grouped_laws=(law,)))
    times_s = [operator_timing(work, true).time_s for work in GROUPED]
    built = build_profile(
        measurements(
            *(sample(work, s, Implementation.GROUPED_MM) for work, s in zip(GROUPED, times_s, strict=True)),
        ),
        base=msgspec.structs.replace(base, grouped_laws=()),
    )
    errors = [operator_timing(work, one_node(built)).time_s / s - 1.0 for work, s in zip(GROUPED, times_s, strict=True)]
    assert max(map(abs, errors)) < 0.03


def test_a_law_of_dense_products_is_found_again_from_what_it_says(base: HardwareProfile) -> None:
    """Products that none of the samples is near, and that no table corrects."""
    table = base.gemm[0]
    assert table.law is not None
    law = msgspec.structs.replace(table.law, rate_fraction=0.6, tile_depth=300.0, bandwidth_fraction=0.7, start_s=5e-6)
    bare = msgspec.structs.replace(table, law=law, efficiencies=(1.0,) * len(table.efficiencies))
    true = one_node(msgspec.structs.replace(base, gemm=(bare, *base.gemm[1:]), gemm_variants=()))
    shapes = [(m, n, k) for m in (128, 640, 4096, 20480) for n in (320, 1792, 8192) for k in (256, 1408, 2048, 8192)]
    works = [
        GemmWork(m=m, n=n, k=k, direction=direction) for m, n, k in shapes for direction in (Pass.FORWARD, Pass.WGRAD)
    ]
    built = build_profile(
        measurements(*(sample(work, operator_timing(work, true).time_s, Implementation.CUBLAS) for work in works)),
        base=msgspec.structs.replace(base, gemm=base.gemm[1:], gemm_variants=()),
    )
    for m, n, k in ((1000, 1000, 1000), (300, 12345, 777), (9000, 500, 2300), (16384, 16384, 500)):
        work = GemmWork(m=m, n=n, k=k)
        expected_s = operator_timing(work, true).time_s
        assert operator_timing(work, one_node(built)).time_s == pytest.approx(expected_s, rel=0.05), work


def test_too_few_products_for_a_law_correct_that_of_the_base(base: HardwareProfile) -> None:
    work = GemmWork(m=4096, n=4096, k=4096)
    built = build_profile(measurements(sample(work, 3e-4, Implementation.CUBLAS)), base=base)
    assert built.gemm[0].law == base.gemm[0].law
    assert operator_timing(work, one_node(built)).time_s == pytest.approx(3e-4, rel=1e-3)


def test_few_grouped_products_leave_the_table_of_the_base(base: HardwareProfile) -> None:
    few = (sample(work, 1e-3, Implementation.GROUPED_MM) for work in GROUPED[:5])
    built = build_profile(measurements(*few), base=base)
    assert built.grouped_laws == base.grouped_laws
    assert built.grouped_gemm == base.grouped_gemm


def test_other_kinds_of_product_are_ratios_to_the_forward_one(base: HardwareProfile) -> None:
    work = GemmWork(m=4096, n=1024, k=4096)
    variants = [
        GemmWork(m=4096, n=1024, k=4096, direction=Pass.DGRAD),
        GemmWork(m=4096, n=1024, k=4096, direction=Pass.WGRAD, accumulates_fp32=True),
    ]
    built = build_profile(
        measurements(
            sample(work, 100e-6, Implementation.CUBLAS),
            *(
                sample(variant, time_s, Implementation.CUBLAS)
                for variant, time_s in zip(variants, (110e-6, 150e-6), strict=True)
            ),
        ),
        base=base,
    )
    for variant, time_s in zip(variants, (110e-6, 150e-6), strict=True):
        assert operator_timing(variant, one_node(built)).time_s == pytest.approx(time_s, rel=1e-3)
    plain = GemmWork(m=4096, n=1024, k=4096, direction=Pass.WGRAD)  # not measured: as the forward product
    assert operator_timing(plain, one_node(built)).time_s == pytest.approx(100e-6, rel=1e-3)


def test_what_is_kept_apart_changes_nothing(base: HardwareProfile) -> None:
    fit = sample(PRODUCTS[0], 1e-4, Implementation.CUBLAS)
    check = sample(GemmWork(m=1000, n=1000, k=1000), 1.0, Implementation.CUBLAS, Purpose.CHECK)
    assert build_profile(measurements(fit, check), base=base) == build_profile(measurements(fit), base=base)


def test_shapes_left_out_of_the_grid_are_extrapolated(base: HardwareProfile) -> None:
    corner = GemmWork(m=4096, n=8192, k=4096)
    kept = [work for work in PRODUCTS if work != corner]
    built = build_profile(measurements(*(sample(work, 1e-3, Implementation.CUBLAS) for work in kept)), base=base)
    assert operator_timing(corner, one_node(built)).basis is Basis.EXTRAPOLATED
    assert operator_timing(kept[0], one_node(built)).basis is Basis.MEASURED


def test_memory_bound_kernels_eager_and_fused(base: HardwareProfile) -> None:
    work = MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1e9, write_bytes=1e9)
    small = msgspec.structs.replace(work, read_bytes=1e6, write_bytes=1e6)
    backward = msgspec.structs.replace(work, backward=True)
    built = build_profile(
        measurements(
            sample(work, 1.0e-3, Implementation.COMPILED),
            sample(work, 1.5e-3, Implementation.EAGER),
            sample(small, 11.5e-6, Implementation.EAGER),
            sample(backward, 3.0e-3, Implementation.COMPILED),
        ),
        base=base,
    )
    cluster = one_node(built)
    assert operator_timing(small, cluster, fused_kernels=False).time_s == pytest.approx(11.5e-6, rel=1e-2)
    assert operator_timing(backward, cluster).time_s == pytest.approx(3.0e-3, rel=1e-3)
    start_s = built.launch.kernel_floor_s  # of one size all time is traffic, to which the least start is added
    assert operator_timing(work, one_node(built)).time_s == pytest.approx(1.0e-3 + start_s, rel=1e-4)
    assert operator_timing(work, one_node(built), fused_kernels=False).time_s == pytest.approx(1.5e-3, rel=1e-3)


def test_custom_kernels_are_told_apart_from_those_of_pytorch(base: HardwareProfile) -> None:
    custom = CustomWork(kernel=CustomKernel.PERMUTE, num_bytes=1.2e9)
    work = MemoryWork(kernel=MemoryKernel.PERMUTE, read_bytes=1e9, write_bytes=1e9, custom=custom)
    built = build_profile(
        measurements(sample(work, 1e-3, Implementation.COMPILED), sample(work, 0.5e-3, Implementation.CUSTOM)),
        base=msgspec.structs.replace(base, custom_kernels=()),
    )
    (entry,) = built.custom_kernels
    assert (entry.kernel, entry.provenance.source) == (CustomKernel.PERMUTE, Source.MEASURED)
    cluster = one_node(built)
    start_s = built.launch.kernel_floor_s
    assert operator_timing(work, cluster).time_s == pytest.approx(1e-3 + start_s, rel=1e-3)
    assert operator_timing(work, cluster, custom_kernels=True).time_s == pytest.approx(0.5e-3 + start_s, rel=1e-3)


def test_what_custom_kernels_were_not_measured_are_the_bases(base: HardwareProfile) -> None:
    work = MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1e9, write_bytes=1e9)
    built = build_profile(measurements(sample(work, 1e-3, Implementation.COMPILED)), base=base)
    assert built.custom_kernels == base.custom_kernels
    assert {entry.kernel for entry in built.custom_kernels} == set(CustomKernel)


def test_scalars_bring_their_citation(base: HardwareProfile) -> None:
    copy = MemoryWork(kernel=MemoryKernel.COPY, read_bytes=1e9, write_bytes=1e9)
    raw = measurements(
        sample(copy, 1e-3, Implementation.FUSED), sample(CopyWork(num_bytes=1e9), 0.02, Implementation.COPY_ENGINE)
    )
    launch = LaunchSample(eager_s=5e-6, collective_eager_s=None, cuda_graph_s=1e-6, kernel_floor_s=2e-6)
    built = build_profile(msgspec.structs.replace(raw, launch=launch), base=base)
    assert built.gpu.copy_bytes_per_s == pytest.approx(2e12)
    assert built.gpu.pcie_bytes_per_s == pytest.approx(5e10)
    assert built.gpu.usable_memory_bytes == 84_000_000_000
    assert built.launch.eager_s == 5e-6
    assert built.launch.collective_eager_s == base.launch.collective_eager_s
    sources = {citation.figure: citation for citation in built.citations}
    assert sources["gpu.copy_bytes_per_s"].source is Source.MEASURED
    assert "meshwright profile" in sources["gpu.copy_bytes_per_s"].text
    assert sources["gpu.bf16_flops_per_s"].source is Source.DATASHEET
    assert len(sources) == len(built.citations)


def test_interference_is_the_median_over_products(base: HardwareProfile) -> None:
    def beside(factor: float) -> InterferenceSample:
        return InterferenceSample(
            compute=GemmWork(m=8192, n=8192, k=8192),
            communication=COLLECTIVES[0],
            implementation=Implementation.NCCL,
            num_ctas=0,
            compute_alone_s=1.0,
            compute_beside_s=factor,
            communication_alone_s=1.0,
            communication_beside_s=2.0 * factor,
        )

    built = build_profile(measurements(interference=tuple(map(beside, (1.1, 1.2, 1.6)))), base=base)
    assert built.interference.compute_slowdown == 1.2
    assert built.interference.communication_slowdown == 2.4


def test_shares_of_the_sms_are_compared_pair_by_pair(base: HardwareProfile) -> None:
    """A pair that could not be measured as NCCL sets it up says nothing of the other numbers of thread blocks."""

    def pair(size: int, num_ctas: int, alone_s: float) -> InterferenceSample:
        return InterferenceSample(
            compute=GemmWork(m=size, n=size, k=size),
            communication=COLLECTIVES[0],
            implementation=Implementation.NCCL,
            num_ctas=num_ctas,
            compute_alone_s=1.0,
            compute_beside_s=1.0 + num_ctas / 100,
            communication_alone_s=alone_s,
            communication_beside_s=1.5 * alone_s,
        )

    found = (pair(8192, 0, 2.0), pair(8192, 8, 5.0), pair(4096, 8, 99.0), pair(4096, 16, 99.0))
    built = build_profile(measurements(interference=found), base=base).interference
    share = SmShare(num_sms=8, time_factor=2.5, compute_slowdown=1.08, communication_slowdown=1.5)
    assert built.shares == (share,)


def test_samples_that_judge_say_nothing_of_the_clock_of_training(base: HardwareProfile) -> None:
    """Where no layer was measured, the median clock is that of the samples that tables are built from."""
    work = GemmWork(m=4096, n=4096, k=4096)
    fit = msgspec.structs.replace(sample(work, 1e-3, Implementation.CUBLAS), reference_s=1e-3, clock_hz=1.6e9)
    check = msgspec.structs.replace(fit, purpose=Purpose.CHECK, reference_s=9e-3, clock_hz=0.8e9)
    assert training_clock_hz(measurements(fit, check, check)) == 1.6e9
    assert training_reference_s(measurements(fit, check, check)) == 1e-3
    assert build_profile(measurements(fit, check, check), base=base) == build_profile(measurements(fit), base=base)


def test_times_are_brought_to_the_clocks_of_a_training_step(base: HardwareProfile) -> None:
    """Two products beside slower and faster reference products; the layer says that a step's takes 2 ms."""
    large, small = GemmWork(m=4096, n=4096, k=4096), GemmWork(m=8, n=4096, k=4096)
    copy = MemoryWork(kernel=MemoryKernel.COPY, read_bytes=1e6, write_bytes=1e6)
    samples = tuple(
        msgspec.structs.replace(sample(work, 1e-3, Implementation.CUBLAS), reference_s=reference_s)
        for work, reference_s in ((large, 1.6e-3), (small, 1.6e-3))
    )
    layer = SustainedSample(
        works=(large, copy), alone_s=(1e-3, 5e-4), references_s=(1.6e-3, 1.6e-3), together_s=1.25e-3 + 5e-4
    )
    raw = msgspec.structs.replace(measurements(*samples), sustained=layer)
    reference_s = training_reference_s(raw)
    assert reference_s == pytest.approx(2e-3)
    times_s = [at_training_clocks(one, base.gpu, reference_s).time_s for one in samples]
    assert times_s == pytest.approx([1.25e-3, 1e-3])  # 8 rows wait for memory, whatever the clock
    assert training_reference_s(measurements(*samples)) == pytest.approx(1.6e-3)
    assert training_reference_s(measurements()) is None


def test_times_go_by_cycles_where_the_clock_was_read(base: HardwareProfile) -> None:
    """A product at 1.6 GHz beside a reference that claims more; a step runs at 1.2 GHz."""
    large, small = GemmWork(m=4096, n=4096, k=4096), GemmWork(m=8, n=4096, k=4096)
    clocked, waiting = (
        msgspec.structs.replace(sample(work, 9e-4, Implementation.CUBLAS), reference_s=2e-3, clock_hz=1.6e9)
        for work in (large, small)
    )
    layer = SustainedSample(
        works=(large,), alone_s=(9e-4,), references_s=(2e-3,), together_s=9e-4, together_clock_hz=1.2e9
    )
    raw = msgspec.structs.replace(measurements(clocked, waiting), sustained=layer)
    assert training_clock_hz(raw) == 1.2e9
    assert training_clock_hz(measurements(clocked)) == 1.6e9
    assert training_clock_hz(measurements()) is None
    assert at_training_clocks(clocked, base.gpu, 2e-3, 1.2e9).time_s == pytest.approx(1.2e-3)
    assert at_training_clocks(waiting, base.gpu, 2e-3, 1.2e9) == waiting
    unclocked = msgspec.structs.replace(clocked, clock_hz=None)
    assert at_training_clocks(unclocked, base.gpu, 3e-3, 1.2e9).time_s == pytest.approx(1.35e-3)
    built = one_node(build_profile(raw, base=base))
    assert operator_timing(large, built).time_s == pytest.approx(1.2e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["h100", "h200"])
def test_the_shipped_profile_is_the_one_of_the_shipped_measurements(name: str) -> None:
    base = load_profile(name)
    assert build_profile(load_measurements(MEASUREMENTS_FOLDER / f"{name}.json"), base=base) == base
