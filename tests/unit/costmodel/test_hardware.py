"""What a cluster is: legal figures only, nodes counted right."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import ClusterError, ProfileError
from meshwright.costmodel.hardware import PROFILE_SCHEMA_VERSION, ClusterSpec, HardwareProfile
from meshwright.costmodel.program.operators import Precision
from meshwright.hardware_profiles import load_cluster, load_profile


@pytest.fixture
def cluster() -> ClusterSpec:
    return load_cluster("h100", num_gpus=16)


def test_peak_by_precision() -> None:
    gpu = load_profile("h100").gpu
    assert gpu.peak_flops_per_s(Precision.BF16) == 989.4e12
    assert gpu.peak_flops_per_s(Precision.FP8) == 1978.9e12
    with pytest.raises(ProfileError, match="no FP8; choose precision bf16"):
        load_profile("a100").gpu.peak_flops_per_s(Precision.FP8)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["network_bytes_per_s", "network_latency_s", "host_memory_bytes"])
def test_impossible_cluster_figures_are_refused(cluster: ClusterSpec, field: str, value: float) -> None:
    with pytest.raises(ClusterError, match=field):
        msgspec.structs.replace(cluster, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nvlink_bytes_per_s", 0.0),
        ("num_sms", 0),
        ("usable_memory_bytes", 1e15),
        ("copy_bytes_per_s", 1e15),
        ("fp8_flops_per_s", -1.0),
    ],
)
def test_impossible_gpu_figures_are_refused(cluster: ClusterSpec, field: str, value: float) -> None:
    with pytest.raises(ProfileError, match=field):
        msgspec.structs.replace(cluster.gpu, **{field: value})


def test_nodes_are_counted_up(cluster: ClusterSpec) -> None:
    assert cluster.num_nodes == 2
    assert cluster.with_gpus(3).num_nodes == 1
    with pytest.raises(ClusterError, match="not a multiple of the 8 GPUs of a node"):
        cluster.with_gpus(9)
    with pytest.raises(ClusterError, match="oversubscription"):
        msgspec.structs.replace(cluster, oversubscription=0.9)


def test_a_profile_of_another_version_or_without_a_source_is_refused() -> None:
    profile = load_profile("h100")
    with pytest.raises(ProfileError, match="schema_version"):
        msgspec.structs.replace(profile, schema_version=PROFILE_SCHEMA_VERSION + 1)
    with pytest.raises(ProfileError, match=r"gpu\.name|gpu\.num_sms|has no citation"):
        msgspec.structs.replace(profile, citations=profile.citations[1:])


def test_a_profile_survives_json() -> None:
    profile = load_profile("h100")
    assert msgspec.json.decode(msgspec.json.encode(profile), type=HardwareProfile) == profile
