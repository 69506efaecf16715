"""`meshwright clusters`: the cluster presets and what their nodes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json, print_table

if TYPE_CHECKING:
    from meshwright.costmodel.hardware import ClusterSpec

COLUMNS = (
    "name",
    "GPU",
    "GPUs/node",
    "memory [GiB]",
    "memory [TB/s]",
    "BF16 [TFLOP/s]",
    "FP8 [TFLOP/s]",
    "NVLink [GB/s]",
    "network [Gbit/s]",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFigures:
    """What is printed of one preset. NVLink and network: one GPU, one direction. No FP8 is 0.

    `peak_source` and `network_source` are the profile's citations of the GPU's peak and of the network constants.
    """

    name: str
    gpu: str
    gpus_per_node: int
    memory_bytes: float
    memory_bytes_per_s: float
    bf16_flops_per_s: float
    fp8_flops_per_s: float
    nvlink_bytes_per_s: float
    network_bytes_per_s: float
    peak_source: str
    network_source: str


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """List the cluster presets with their main figures.

    Each name is a CLUSTER for `meshwright plan`. NVLink and network count one GPU and one direction; --json gives the
    sources in full.
    """
    from meshwright.hardware_profiles import load_cluster, preset_names

    figures = [cluster_figures(name, load_cluster(name)) for name in preset_names()]
    if as_json:
        print_json({"clusters": figures})
    else:
        print_table("Cluster presets", COLUMNS, [_row(figure) for figure in figures])
        print_table("Sources", ("name", "peak"), [(figure.name, figure.peak_source) for figure in figures])


def cluster_figures(name: str, cluster: ClusterSpec) -> ClusterFigures:
    """The main figures of a cluster."""
    gpu = cluster.gpu
    sources = {citation.figure: f"{citation.source}: {citation.text}" for citation in cluster.profile.citations}
    return ClusterFigures(
        name=name,
        gpu=gpu.name,
        gpus_per_node=cluster.gpus_per_node,
        memory_bytes=gpu.memory_bytes,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        bf16_flops_per_s=gpu.bf16_flops_per_s,
        fp8_flops_per_s=gpu.fp8_flops_per_s,
        nvlink_bytes_per_s=gpu.nvlink_bytes_per_s,
        network_bytes_per_s=cluster.network_bytes_per_s,
        peak_source=sources["gpu.bf16_flops_per_s"],
        network_source=sources["network"],
    )


def _row(figures: ClusterFigures) -> tuple[str, ...]:
    return (
        figures.name,
        figures.gpu,
        str(figures.gpus_per_node),
        f"{figures.memory_bytes / 2**30:.0f}",
        f"{figures.memory_bytes_per_s / 1e12:.2f}",
        f"{figures.bf16_flops_per_s / 1e12:.0f}",
        f"{figures.fp8_flops_per_s / 1e12:.0f}" if figures.fp8_flops_per_s else "-",
        f"{figures.nvlink_bytes_per_s / 1e9:.0f}",
        f"{figures.network_bytes_per_s * 8 / 1e9:.0f}",
    )
