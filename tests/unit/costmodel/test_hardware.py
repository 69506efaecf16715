"""What a cluster is: legal figures only, nodes counted right."""

from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import ClusterError, ProfileError
from meshwright.costmodel.hardware import (
    PROFILE_SCHEMA_VERSION,
    ClusterSpec,
    HardwareProfile,
    Interference,
    SmShare,
)
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
        ("pcie_bytes_per_s", 1e13),
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


def _share(num_sms: int, compute_slowdown: float = 1.2) -> SmShare:
    return SmShare(num_sms=num_sms, time_factor=2.0, compute_slowdown=compute_slowdown, communication_slowdown=1.5)


def test_a_share_takes_the_place_of_what_the_library_takes() -> None:
    measured = Interference(
        collective_sms=24, compute_slowdown=1.4, communication_slowdown=1.6, shares=(_share(8), _share(16))
    )
    taken = measured.on(_share(8))
    assert (taken.collective_sms, taken.slowdowns(nvlink=True)) == (8, (1.2, 1.5))
    assert taken.slowdowns(nvlink=False) == measured.slowdowns(nvlink=False)
    assert taken.shares == ()


@pytest.mark.parametrize("num_sms", [(8, 8), (8, 24)])
def test_shares_are_told_apart_by_their_sms(num_sms: tuple[int, int]) -> None:
    """An order stores how many SMs are taken, and nothing else of the share."""
    with pytest.raises(ProfileError, match=r"interference\.shares\.num_sms: .* SMs stand twice"):
        Interference(
            collective_sms=24,
            compute_slowdown=1.4,
            communication_slowdown=1.6,
            shares=tuple(map(_share, num_sms)),
        )


@pytest.mark.parametrize(
    ("field", "value"), [("num_sms", 0), ("time_factor", 0.0), ("time_factor", float("inf")), ("compute_slowdown", 0.9)]
)
def test_impossible_shares_are_refused(field: str, value: float) -> None:
    with pytest.raises(ProfileError, match=f"interference.shares.{field}"):
        msgspec.structs.replace(_share(8), **{field: value})


def test_a_share_that_stops_computation_beside_both_kinds_of_traffic_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"beside compute_slowdown 20\.0 stops compute"):
        Interference(
            collective_sms=24,
            compute_slowdown=1.4,
            communication_slowdown=1.6,
            network_compute_slowdown=1.1,
            shares=(_share(8, compute_slowdown=20.0),),
        )
