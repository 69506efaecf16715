"""Clusters from presets and YAML: units are read strictly, mistakes are named with file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodel.errors import ClusterError
from meshwright.hardware_profiles import load_cluster, preset_names

GOOD = """\
name: mine
gpu: h100
gpus_per_node: 8
network: 400 Gbit/s
network_latency: 3 us
nvlink_latency: 0.5 us
host_memory: 2 TB
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_presets() -> None:
    assert preset_names() == ("a100", "h100", "h100-hbm2e", "h20", "h200", "h800")
    cluster = load_cluster("h800", num_gpus=1440)
    assert (cluster.num_nodes, cluster.num_gpus, cluster.gpus_per_node) == (180, 1440, 8)
    assert cluster.network_bytes_per_s == 50e9
    assert load_cluster("a100").network_bytes_per_s == 25e9
    assert load_cluster("h100").num_gpus == 8


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    text = GOOD + "nvlink: 200 GB/s\nmemory: 70 GB\noversubscription: 2\nnum_gpus: 16\nprice_per_gpu_hour: 2.5\n"
    cluster = load_cluster(write(tmp_path, text))
    assert cluster.num_gpus == 16
    assert cluster.gpu.nvlink_bytes_per_s == 200e9
    assert cluster.gpu.usable_memory_bytes == 70e9
    assert (cluster.oversubscription, cluster.price_per_gpu_hour) == (2.0, 2.5)
    assert cluster.mean_time_between_failures_s is None


SHARED = GOOD.replace("network: 400 Gbit/s", "nic: 400 Gbit/s\nnics_per_node: 4")


@pytest.mark.parametrize(
    ("text", "nics", "network_bytes_per_s"),
    [
        (SHARED, 4, 25e9),
        (GOOD.replace("network:", "nic:"), 8, 50e9),
        (SHARED + "network: 200 Gbit/s\n", 4, 25e9),
        (GOOD + "nics_per_node: 4\n", 4, 50e9),
    ],
)
def test_adapters_that_gpus_share(tmp_path: Path, text: str, nics: int, network_bytes_per_s: float) -> None:
    cluster = load_cluster(write(tmp_path, text))
    assert (cluster.num_nics, cluster.network_bytes_per_s) == (nics, network_bytes_per_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHARED + "network: 400 Gbit/s\n", r"network: 50 GB/s for one GPU, but its share .* is 25 GB/s; leave one"),
        (GOOD.replace("network: 400 Gbit/s\n", "nics_per_node: 4\n"), "network: is missing"),
        (SHARED.replace("nics_per_node: 4", "nics_per_node: 0"), "nics_per_node: 0 is not a positive whole number"),
    ],
)
def test_adapters_that_contradict_the_network(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        load_cluster(write(tmp_path, text))


def test_part_of_a_node_is_allowed_but_not_part_of_several() -> None:
    assert load_cluster("h100", num_gpus=2).num_nodes == 1
    for num_gpus in (12, 0, -8):
        with pytest.raises(ClusterError, match="num_gpus"):
            load_cluster("h100", num_gpus=num_gpus)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("network:", "netwrok:"), "did you mean 'network'"),
        (("400 Gbit/s", "400"), "not a number with a unit"),
        (("400 Gbit/s", "400 GB"), "unit 'GB'"),
        (("400 Gbit/s", "0 Gbit/s"), "not a positive"),
        (("400 Gbit/s", "-400 Gbit/s"), "not a positive"),
        (("400 Gbit/s", ".nan"), "not a number with a unit"),
        (("3 us", "3 GB"), "unit 'GB'"),
        (("gpus_per_node: 8", "gpus_per_node: 0"), "not a positive whole number"),
        (("gpus_per_node: 8", "gpus_per_node: 7.5"), "not a positive whole number"),
        (("gpus_per_node: 8", "gpus_per_node: true"), "not a positive whole number"),
        (("gpu: h100", "gpu: h101"), "did you mean 'h100'"),
        (("host_memory: 2 TB\n", ""), "host_memory: is missing"),
        (("name: mine", "name: ''"), "not a text"),
        (("name: mine", "oversubscription: 0.5\nname: mine"), "oversubscription"),
        (("name: mine", "memory: 90 GB\nname: mine"), "usable_memory_bytes"),
        (("name: mine", "num_gpus: 12\nname: mine"), "not a multiple"),
        (("name: mine", "name: mine\nname: again"), "stands twice"),
        (("name: mine", "name: [mine"), "is not YAML"),
    ],
)
def test_says_what_is_wrong_in_one_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises((ClusterError,)) as caught:
        load_cluster(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_all_keys_that_are_unknown_or_missing_are_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("network:", "netwrok:").replace("gpus_per_node:", "gpu_per_node:").replace("name: mine\n", "")
    with pytest.raises(ClusterError) as caught:
        load_cluster(write(tmp_path, text))
    told = str(caught.value)
    assert "\n" not in told
    for words in (
        "netwrok: unknown key, did you mean 'network'",
        "gpu_per_node: unknown key, did you mean 'gpus_per_node'",
        "name: is missing",
        "network: is missing",
        "gpus_per_node: is missing",
    ):
        assert words in told
    assert told.count("known are") == 1


def test_missing_files_and_unknown_presets(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="did you mean 'h800'"):
        load_cluster("h80")
    with pytest.raises(ClusterError, match=r"no such file.*a100, h100"):
        load_cluster(tmp_path / "nowhere.yaml")
    with pytest.raises(ClusterError, match="mapping"):
        load_cluster(write(tmp_path, "- 8\n"))
