from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    CustomKernel,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Pass,
    Precision,
)
from meshwright.executor.measure_hardware import Extent, Survey, build_survey
from meshwright.executor.measure_hardware.survey.links import groups_of
from meshwright.executor.measure_hardware.survey.random_sizes import log_uniform
from meshwright.executor.measure_hardware.survey.skew import zipf_rows, zipf_shares
from meshwright.hardware_profiles.measurements import Implementation, Purpose


@pytest.fixture(scope="module")
def full() -> Survey:
    return build_survey(Extent.FULL, num_gpus=2, gpus_per_node=2)


def test_every_key_is_one_entry(full: Survey) -> None:
    entries = (*full.local, *full.health, *full.links, *full.peer_copies)
    keys = [entry.key for entry in entries]
    keys += [pair.key for pair in (*full.link_interference, *full.copy_interference)]
    assert [key for key, count in Counter(keys).items() if count > 1] == []


def test_a_seed_gives_the_same_survey(full: Survey) -> None:
    assert build_survey(Extent.FULL, num_gpus=2, gpus_per_node=2) == full
    assert build_survey(Extent.FULL, num_gpus=2, gpus_per_node=2, seed=1) != full


def test_products_of_every_layout(full: Survey) -> None:
    kinds = {
        (entry.work.precision, entry.work.direction, entry.work.accumulates_fp32)
        for entry in full.local
        if isinstance(entry.work, GemmWork)
    }
    plain = {(precision, direction, False) for precision in Precision for direction in Pass}
    assert kinds == plain | {(precision, Pass.WGRAD, True) for precision in Precision}


@pytest.mark.parametrize("direction", [Pass.FORWARD, Pass.WGRAD])
def test_narrow_products_lie_close_together(full: Survey, direction: Pass) -> None:
    shapes = {
        (entry.work.m, entry.work.n, entry.work.k)
        for entry in full.local
        if isinstance(entry.work, GemmWork)
        and (entry.work.direction, entry.work.precision) == (direction, Precision.BF16)
        and entry.purpose is Purpose.FIT
        and not entry.work.accumulates_fp32
    }
    widths = sorted({n for _, n, _ in shapes if 512 <= n <= 1024})
    assert all(above / below <= 1.5 for below, above in pairwise(widths))
    rows, depths = ({shape[axis] for shape in shapes} for axis in (0, 2))
    small = {(m, n, k) for m in rows for n in widths for k in depths if m <= 1024 and k <= 4096}
    assert small <= shapes  # a grid without gaps: gaps would be filled by the nearest point


def test_grouped_products_of_every_layout_even_and_skewed(full: Survey) -> None:
    entries = [entry for entry in full.local if isinstance(entry.work, GroupedGemmWork)]
    assert {entry.work.direction for entry in entries if isinstance(entry.work, GroupedGemmWork)} == set(Pass)
    skewed = [entry for entry in entries if entry.rows_per_group]
    assert skewed
    for entry in skewed:
        assert isinstance(entry.work, GroupedGemmWork)
        assert sum(entry.rows_per_group) == entry.work.rows
        assert len(entry.rows_per_group) == entry.work.num_groups


def test_attention_by_both_kernels(full: Survey) -> None:
    found = {
        (entry.implementation, entry.work.head_dim, entry.work.backward)
        for entry in full.local
        if isinstance(entry.work, AttentionWork)
    }
    for backward in (False, True):
        for dim in (64, 128):
            assert {(Implementation.CUDNN, dim, backward), (Implementation.FA2, dim, backward)} <= found
        assert (Implementation.CUDNN, 192, backward) in found


def test_every_family_of_memory_bound_kernels(full: Survey) -> None:
    assert {entry.work.kernel for entry in full.local if isinstance(entry.work, MemoryWork)} == set(MemoryKernel)


def test_a_fifth_of_products_and_attention_judges_the_tables(full: Survey) -> None:
    for kind in (GemmWork, GroupedGemmWork, AttentionWork):
        purposes = Counter(entry.purpose for entry in full.local if isinstance(entry.work, kind))
        assert purposes[Purpose.CHECK] == pytest.approx(0.25 * purposes[Purpose.FIT], rel=0.1)


def test_no_shape_both_builds_and_judges_a_table(full: Survey) -> None:
    entries = (*full.local, *full.links)
    by_purpose = {
        purpose: {(e.work, e.implementation) for e in entries if e.purpose is purpose and not e.peer_shares}
        for purpose in Purpose
    }
    assert not by_purpose[Purpose.FIT] & by_purpose[Purpose.CHECK]


def test_collectives_of_every_kind_and_size(full: Survey) -> None:
    sizes: dict[Collective, set[float]] = {collective: set() for collective in Collective}
    for entry in full.links:
        assert isinstance(entry.work, CollectiveWork)
        sizes[entry.work.collective].add(entry.work.num_bytes)
    for found in sizes.values():
        assert min(found) == 4096.0
        assert max(found) == 2.0**30


def test_one_gpu_has_no_links() -> None:
    survey = build_survey(Extent.FULL, num_gpus=1, gpus_per_node=1)
    assert survey.num_samples == len(survey.local)


@pytest.mark.parametrize(
    ("num_gpus", "gpus_per_node", "shapes"),
    [
        (1, 1, []),
        (2, 2, [(2, 2)]),
        (8, 8, [(2, 2), (4, 4), (8, 8)]),
        (6, 6, [(2, 2)]),
        (16, 8, [(2, 2), (4, 4), (8, 8), (16, 8), (2, 1)]),
    ],
)
def test_groups(num_gpus: int, gpus_per_node: int, shapes: list[tuple[int, int]]) -> None:
    expected = tuple(Group(size=size, ranks_per_node=ranks) for size, ranks in shapes)
    assert groups_of(num_gpus, gpus_per_node) == expected


def test_skewed_rows() -> None:
    rows = zipf_rows(8192, 8)
    assert sum(rows) == 8192
    assert list(rows) == sorted(rows, reverse=True)
    assert all(count % 16 == 0 for count in rows)
    assert sum(zipf_shares(7)) == pytest.approx(1.0)


def test_random_sizes_keep_to_their_bounds() -> None:
    sizes = log_uniform("seed", 200, 128.0, 4096.0, 16)
    assert all(112 <= size <= 4112 and size % 16 == 0 for size in sizes)
    assert sizes == log_uniform("seed", 200, 128.0, 4096.0, 16)


def test_custom_kernels_are_measured_where_they_run(full: Survey) -> None:
    def custom(survey: Survey) -> list[MemoryWork]:
        return [
            entry.work
            for entry in survey.local
            if entry.implementation is Implementation.CUSTOM and isinstance(entry.work, MemoryWork)
        ]

    assert custom(full) == []
    works = custom(build_survey(Extent.FULL, num_gpus=2, gpus_per_node=2, custom_kernels=True))
    kernels = {work.custom.kernel for work in works if work.custom}
    assert kernels == set(CustomKernel) - {CustomKernel.UNPERMUTE_BACKWARD}  # the executor weighs before FC2
