"""The registry names the formulas that the cost model really calls, no more and no fewer."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.operator_time import operator_timing
from meshwright.costmodel.prepared import prepare
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    MemoryKernel,
    MemoryWork,
    Pass,
    Precision,
    Work,
)
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.explain import formula_registry
from meshwright.planner.explain.formula_registry import formulas_of, known_formulas, names

INSIDE, ACROSS, SPREAD = (
    Group(size=8, ranks_per_node=8),
    Group(size=16, ranks_per_node=2),
    Group(size=4, ranks_per_node=1),
)


def _collective(kind: Collective, group: Group) -> CollectiveWork:
    return CollectiveWork(collective=kind, num_bytes=3e6, group=group)


ATTENTION = AttentionWork(
    batch=1, num_heads=8, num_kv_heads=2, head_dim=128, value_head_dim=128, query_len=4096, key_len=4096, pairs=2.0**23
)
WORKS: tuple[Work, ...] = (
    GemmWork(m=1000, n=2000, k=3000),
    GemmWork(m=1000, n=2000, k=3000, precision=Precision.FP8),
    GemmWork(m=1000, n=2000, k=3000, direction=Pass.WGRAD, accumulates_fp32=True),
    GroupedGemmWork(num_groups=4, rows=4000.0, n=2048, k=1024),
    GroupedGemmWork(num_groups=4, rows=4000.0, n=2048, k=1024, direction=Pass.WGRAD, accumulates_fp32=True),
    ATTENTION,
    MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1e6, write_bytes=1e6),
    *(_collective(kind, group) for kind in Collective for group in (ACROSS, SPREAD)),
    *(_collective(kind, INSIDE) for kind in (Collective.ALL_GATHER, Collective.ALL_TO_ALL)),
)


@pytest.fixture(scope="module")
def cluster() -> ClusterSpec:
    """H800 nodes: their NVLink is not the one that curves were measured on, so curves are carried over."""
    found = load_cluster("h800", num_gpus=64)
    prepare(found.profile)
    return found


@pytest.mark.parametrize("work", WORKS, ids=str)
def test_formulas_named_are_those_called(work: Work, cluster: ClusterSpec) -> None:
    called = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        name = frame.f_code.co_name
        if event == "call" and ".costmodel.formulas." in module and name.isidentifier() and name[0] != "_":
            called.add(f"{module.rpartition('.')[2]}.{name}")

    sys.setprofile(note)
    try:
        operator_timing.__wrapped__(work, cluster)
    finally:
        sys.setprofile(None)
    assert called == set(names(formulas_of(work, cluster.profile)))


@pytest.mark.parametrize("kind", list(Collective))
def test_nothing_is_communicated_by_one_rank(kind: Collective, cluster: ClusterSpec) -> None:
    assert formulas_of(_collective(kind, Group(size=1, ranks_per_node=1)), cluster.profile) == ()


def test_grouped_products_without_a_law_are_like_dense_ones() -> None:
    work = GroupedGemmWork(num_groups=4, rows=4000.0, n=2048, k=1024)
    by_tiles, like_dense = (names(formulas_of(work, load_cluster(name).profile)) for name in ("h100", "a100"))
    assert "matmul.tiled_product_s" in by_tiles
    assert "matmul.sustained_s" in like_dense


def test_every_formula_has_equation_and_source() -> None:
    formulas = known_formulas()
    assert len(formulas) > 25
    for name, formula in formulas.items():
        assert formula.name == name
        assert formula.equation, name
        assert formula.source, name


def test_every_formula_of_work_is_known() -> None:
    assert {
        name for work in WORKS for name in names(formulas_of(work, load_cluster("h800").profile))
    } <= known_formulas().keys()


def test_every_group_of_formulas_is_known() -> None:
    groups = [value for name, value in vars(formula_registry).items() if name.isupper() and isinstance(value, tuple)]
    assert len(groups) > 10
    assert {name for group in groups for name in names(group)} <= known_formulas().keys()
