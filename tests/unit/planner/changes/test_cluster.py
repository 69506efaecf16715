from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.planner.changes import CHANGES, parse_changes
from meshwright.planner.cluster_record import cluster_of, cluster_record
from meshwright.planner.draft import draft_of, settled


def _changed(configuration: TrainingConfiguration, *settings: str) -> ClusterSpec:
    values = parse_changes(settings)
    draft = draft_of(configuration)
    for key in (key for key in CHANGES if key in values):
        change = CHANGES[key]
        draft = change.put(draft, change.read(key, values[key], change.get(draft)))
    return settled(draft).cluster


@pytest.mark.parametrize(
    ("settings", "nics", "network_bytes_per_s"),
    [
        (("nics_per_node=4",), 4, 25e9),
        (("nics_per_node=2x",), 16, 100e9),
        (("nics_per_node=4", "network_bytes_per_s=30 GB/s"), 4, 30e9),
        (("nics_per_node=4", "gpus_per_node=4"), 4, 50e9),
        (("nics_per_node=4", "gpus_per_node=2"), 4, 100e9),
        (("gpus_per_node=4",), 4, 50e9),
        (("network_bytes_per_s=2x",), 8, 100e9),
    ],
)
def test_gpus_share_the_adapters_of_their_node(
    tiny_configuration: TrainingConfiguration, settings: tuple[str, ...], nics: int, network_bytes_per_s: float
) -> None:
    cluster = _changed(tiny_configuration, *settings)
    assert (cluster.num_nics, cluster.network_bytes_per_s) == (nics, network_bytes_per_s)
    assert cluster_of(cluster_record(cluster)) == cluster


def test_the_number_that_it_was_changes_nothing(tiny_configuration: TrainingConfiguration) -> None:
    assert _changed(tiny_configuration, "nics_per_node=8") == tiny_configuration.cluster
    assert _changed(tiny_configuration, "nics_per_node=1x") == tiny_configuration.cluster


def test_adapters_follow_the_gpus_of_a_node_where_they_can(tiny_configuration: TrainingConfiguration) -> None:
    replace = msgspec.structs.replace
    cluster = replace(tiny_configuration.cluster, nics_per_node=2, network_bytes_per_s=12.5e9)
    shared = replace(tiny_configuration, cluster=cluster)
    changed = _changed(shared, "gpus_per_node=4")
    assert (changed.num_nics, changed.network_bytes_per_s) == (1, 12.5e9)
    with pytest.raises(StrategyError, match=r"nics_per_node: 2 GPUs a node with 2 adapters for 8 GPUs .* set cluster"):
        _changed(shared, "gpus_per_node=2")


def test_peaks_follow_the_sms_unless_they_are_given(tiny_configuration: TrainingConfiguration) -> None:
    before = tiny_configuration.cluster.gpu
    half = _changed(tiny_configuration, f"num_sms={before.num_sms // 2}").gpu
    assert half.num_sms == before.num_sms // 2
    assert half.bf16_flops_per_s == pytest.approx(before.bf16_flops_per_s / 2)
    assert half.fp8_flops_per_s == pytest.approx(before.fp8_flops_per_s / 2)
    given = _changed(tiny_configuration, "bf16_flops_per_s=900e12", f"num_sms={before.num_sms // 2}").gpu
    assert given.bf16_flops_per_s == 900e12
    assert _changed(tiny_configuration, f"num_sms={before.num_sms}") == tiny_configuration.cluster
