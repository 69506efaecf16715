from __future__ import annotations

import pytest

from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
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
from meshwright.costmodel.runtime import load_runtime
from meshwright.hardware_profiles import load_profile
from meshwright.planner.explain.citations import citations_of, figure


def _attention(head_dim: int, *, backward: bool = False, pairs: float = 2.0**23) -> AttentionWork:
    return AttentionWork(
        batch=1,
        num_heads=8,
        num_kv_heads=2,
        head_dim=head_dim,
        value_head_dim=head_dim,
        query_len=4096,
        key_len=4096,
        pairs=pairs,
        backward=backward,
    )


def _collective(kind: Collective, size: int, ranks_per_node: int) -> CollectiveWork:
    return CollectiveWork(collective=kind, num_bytes=1e6, group=Group(size=size, ranks_per_node=ranks_per_node))


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (GemmWork(m=1, n=1, k=1), ["gemm bf16"]),
        (GemmWork(m=1, n=1, k=1, precision=Precision.FP8), ["gemm fp8"]),
        (GemmWork(m=1, n=1, k=1, direction=Pass.DGRAD), ["gemm bf16", "gemm bf16 dgrad"]),
        (
            GemmWork(m=1, n=1, k=1, direction=Pass.WGRAD, accumulates_fp32=True),
            ["gemm bf16", "gemm bf16 wgrad into FP32"],
        ),
        (GroupedGemmWork(num_groups=1, rows=1.0, n=1, k=1), ["grouped gemm bf16 forward"]),
        (GroupedGemmWork(num_groups=1, rows=1.0, n=1, k=1, direction=Pass.WGRAD), ["grouped gemm bf16 wgrad"]),
        (
            GroupedGemmWork(num_groups=1, rows=1.0, n=1, k=1, direction=Pass.WGRAD, precision=Precision.FP8),
            ["grouped gemm fp8 wgrad", "gemm fp8"],
        ),
        (
            MemoryWork(kernel=MemoryKernel.NORM, read_bytes=1.0, write_bytes=1.0, backward=True),
            ["memory norm backward"],
        ),
        (MemoryWork(kernel=MemoryKernel.ROPE, read_bytes=1.0, write_bytes=1.0, backward=True), ["memory rope"]),
        (_attention(128), ["attention cudnn forward causal head 128"]),
        (_attention(80), ["attention cudnn forward causal head 128"]),
        (_attention(64, backward=True, pairs=2.0**24), ["attention cudnn backward full head 64"]),
        (MemoryWork(kernel=MemoryKernel.ROPE, read_bytes=1.0, write_bytes=1.0), ["memory rope"]),
        (_collective(Collective.ALL_GATHER, 8, 8), ["link all_gather x8"]),
        (_collective(Collective.ALL_GATHER, 16, 8), ["network"]),
        (_collective(Collective.ALL_TO_ALL, 16, 8), ["link all_to_all x8", "network"]),
        (_collective(Collective.ALL_TO_ALL, 2, 1), ["network"]),
        (_collective(Collective.ALL_TO_ALL, 1, 1), []),
    ],
    ids=str,
)
def test_tables_that_a_time_is_looked_up_in(work: Work, expected: list[str]) -> None:
    profile = load_profile("h100")
    cited = citations_of(work, profile, load_runtime("meshwright"))
    assert [entry.name for entry in cited] == expected
    assert all(entry.text for entry in cited)


def test_a_custom_kernel_is_cited_where_the_runtime_has_it() -> None:
    custom = CustomWork(kernel=CustomKernel.SWIGLU, num_bytes=2.0)
    work = MemoryWork(kernel=MemoryKernel.ACTIVATION, read_bytes=1.0, write_bytes=1.0, custom=custom)
    (ours,) = citations_of(work, load_profile("h100"), load_runtime("meshwright"))
    (theirs,) = citations_of(work, load_profile("h100"), load_runtime("megatron"))
    assert (ours.name, theirs.name) == ("custom kernel swiglu", "memory activation")
    assert "benchmarks/kernels.json" in ours.text


def test_a_backend_of_the_runtime_has_its_own_curves() -> None:
    runtime = load_runtime("llm-foundry")
    assert runtime.attention_backend.value == "fa2"
    (cited,) = citations_of(_attention(128), load_profile("h100"), runtime)
    assert cited.name == "attention fa2 forward causal head 128"


def test_a_group_size_between_measured_ones_cites_both() -> None:
    profile = load_profile("h100")
    sizes = sorted(curve.group_size for curve in profile.links if curve.collective is Collective.ALL_GATHER)
    between = next(size for size in range(2, 8) if size not in sizes)
    cited = citations_of(_collective(Collective.ALL_GATHER, between, between), profile, load_runtime("meshwright"))
    assert len(cited) == 2


def test_a_figure_has_its_citation() -> None:
    profile = load_profile("h800")
    assert "MegaScale-MoE" in figure(profile, "gpu.nvlink_bytes_per_s").text
    assert figure(profile, "network").source.value == "published"
