"""Published micro-benchmarks as work of the layer program: what ran, how long it took, who says so."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from meshwright.costmodel.formulas.attention import attention_flops
from meshwright.costmodel.program.operators import (
    AttentionWork,
    Collective,
    CollectiveWork,
    GemmWork,
    Group,
    GroupedGemmWork,
    Pass,
    Precision,
    Work,
)
from meshwright.costmodel.tables import AttentionBackend
from meshwright.costmodel.value import Value

FOLDER = Path(__file__).parent.parent / "data" / "micro"
PROFILES = {"H100": "h100", "H200": "h200", "H800": "h800"}
UNLIKE = ("PCIe", "NVL", "GH200")
"""Cards of other power and memory, for which there is no profile."""
PRECISIONS = {
    "bf16": Precision.BF16,
    "fp8": Precision.FP8,
    "fp8 e4m3": Precision.FP8,
    "fp8 e4m3 x e4m3": Precision.FP8,
}
BACKENDS = {
    "FA2": AttentionBackend.FA2,
    "FA3": AttentionBackend.BEST,
    "cuDNN": AttentionBackend.BEST,
    "cuDNN fused attn (TE)": AttentionBackend.BEST,
}
COLLECTIVES = {
    "all_reduce": Collective.ALL_REDUCE,
    "all-reduce": Collective.ALL_REDUCE,
    "all_gather": Collective.ALL_GATHER,
    "all-gather": Collective.ALL_GATHER,
    "reduce_scatter": Collective.REDUCE_SCATTER,
    "reduce-scatter": Collective.REDUCE_SCATTER,
    "all-to-all": Collective.ALL_TO_ALL,
}
PASSES = {"fwd": (False,), "bwd": (True,), "fwd+bwd": (False, True)}
DIRECTIONS = {"fwd": Pass.FORWARD, "dgrad": Pass.DGRAD, "wgrad": Pass.WGRAD}
TOTAL_ROWS = ("torchao-blockwise",)
"""Sources whose m counts the rows of all groups, not of one."""


class PublishedFigure(Value, frozen=True, kw_only=True):
    """Seconds that `works`, one after the other, were published to take on the GPU of a shipped profile."""

    id: str
    source: str
    profile: str
    implementation: str
    works: tuple[Work, ...]
    time_s: float
    attention_backend: AttentionBackend = AttentionBackend.BEST


class _Unused(Exception):
    """Why a row is not a figure."""


@lru_cache(maxsize=1)
def _read() -> tuple[tuple[PublishedFigure, ...], dict[str, str]]:
    figures, unused = [], {}
    for name, parse in (("gemm", _product), ("attention", _attention), ("collectives", _collective)):
        with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            for cells in csv.DictReader(stream):
                try:
                    figures.append(parse(cells))
                except _Unused as reason:
                    unused[cells["row_id"]] = str(reason)
    return tuple(figures), unused


def published_figures() -> tuple[PublishedFigure, ...]:
    """The packaged micro-benchmarks that an operator of ours describes."""
    return _read()[0]


def unused_rows() -> dict[str, str]:
    """Row: why it is not replayed."""
    return dict(_read()[1])


def _profile(gpu: str) -> str:
    if any(word in gpu for word in UNLIKE):
        raise _Unused(f"no profile of {gpu}")
    for word, profile in PROFILES.items():
        if word in gpu:
            return profile
    raise _Unused(f"no profile of {gpu}")


def _known(meanings: dict[str, object], value: str, what: str) -> object:
    if value not in meanings:
        raise _Unused(f"{what} {value} has no operator here")
    return meanings[value]


def _product(cells: dict[str, str]) -> PublishedFigure:
    if cells["batch"] not in ("", "1"):
        raise _Unused("a batched product")
    if not all(cells[side] for side in ("m", "n", "k")):
        raise _Unused("no shape")
    precision = PRECISIONS[cells["dtype"]]
    m, n, k = (int(cells[side]) for side in ("m", "n", "k"))
    work: Work = GemmWork(m=m, n=n, k=k, precision=precision)
    if "experts" in cells["op"]:
        raise _Unused("several products and an activation as one")
    if "grouped" in cells["op"]:
        groups = int(cells["groups"])
        work = GroupedGemmWork(
            num_groups=groups,
            rows=m if cells["source_id"] in TOTAL_ROWS else m * groups,
            n=n,
            k=k,
            precision=precision,
            direction=next((way for word, way in DIRECTIONS.items() if word in cells["op"]), Pass.FORWARD),
        )
    time_s = float(cells["time_us"]) * 1e-6 if cells["time_us"] else 2e-12 * m * n * k / float(cells["tflops"])
    return PublishedFigure(
        id=cells["row_id"],
        source=cells["source_id"],
        profile=_profile(cells["gpu"]),
        implementation=cells["library"],
        works=(work,),
        time_s=time_s,
    )


def _attention(cells: dict[str, str]) -> PublishedFigure:
    backend = BACKENDS[cells["kernel"]]
    if not cells["heads"] or not cells["batch"]:
        raise _Unused("no number of heads or sequences")
    length, dim = int(cells["seq_len"]), int(cells["head_dim"])
    works = tuple(
        AttentionWork(
            batch=int(cells["batch"]),
            num_heads=int(cells["heads"]),
            num_kv_heads=int(cells["kv_heads"] or cells["heads"]),
            head_dim=dim,
            value_head_dim=dim,
            query_len=length,
            key_len=length,
            pairs=length * length / (2 if cells["causal"] == "1" else 1),
            backward=backward,
        )
        for backward in PASSES[cells["pass"]]
    )
    return PublishedFigure(
        id=cells["row_id"],
        source=cells["source_id"],
        profile=_profile(cells["gpu"]),
        implementation=cells["kernel"],
        works=works,
        time_s=sum(attention_flops(work) for work in works) / (float(cells["tflops"]) * 1e12),
        attention_backend=backend,
    )


def _collective(cells: dict[str, str]) -> PublishedFigure:
    collective = _known(dict(COLLECTIVES), cells["collective"], "collective")
    if not cells["size_bytes"] or not cells["n_gpus"]:
        raise _Unused("no size or number of GPUs")
    num_gpus, num_nodes, num_bytes = int(cells["n_gpus"]), int(cells["n_nodes"]), float(cells["size_bytes"])
    if not isinstance(collective, Collective) or num_bytes < num_gpus:
        raise _Unused("less than a byte a GPU")
    rate = float(cells["algbw_gbs"] or 0.0)
    if not cells["time_us"] and not rate:
        raise _Unused("no time")
    return PublishedFigure(
        id=cells["row_id"],
        source=cells["source_id"],
        profile=_profile(cells["gpu"]),
        implementation=cells["algo"] or "NCCL",
        works=(
            CollectiveWork(
                collective=collective,
                num_bytes=num_bytes,
                group=Group(size=num_gpus, ranks_per_node=num_gpus // num_nodes),
            ),
        ),
        time_s=float(cells["time_us"]) * 1e-6 if cells["time_us"] else num_bytes / (rate * 1e9),
    )
