from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.circumstances import LinkPlace, Recovery, SlowGpu, SlowLink
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.expert_load import ExpertPlacement, ZipfLoad
from meshwright.costmodel.step import predict
from meshwright.planner.circumstance_changes import CIRCUMSTANCE_CHANGES
from meshwright.planner.draft import Draft, changed_configuration, draft_of


def _changed(configuration: TrainingConfiguration, **values: str) -> TrainingConfiguration:
    """As `--set` does it; `__` stands for the dot."""
    draft = draft_of(configuration)
    given = {name.replace("__", "."): text for name, text in values.items()}
    for key, change in CIRCUMSTANCE_CHANGES.items():
        if key in given:
            draft = change.put(draft, change.read(key, given[key], change.get(draft)))
    return changed_configuration(configuration, draft)


def test_putting_what_is_there_changes_nothing(tiny_configuration: TrainingConfiguration) -> None:
    nothing = {
        "workload__expert_load": "balanced",
        "workload__expert_placement": "contiguous",
        "workload__capacity_factor": "dropless",
        "cluster__slow_gpu": "1",
        "cluster__slow_link": "1",
        "cluster__jitter": "0",
        "run__detection_s": "600",
        "run__restart_s": "5 min",
        "run__checkpoint_store_s": "0",
        "run__checkpoint_write_s": "to-host",
        "run__checkpoint_interval_s": "optimal",
        "run__repair_s": "0",
        "run__spares": "0",
        "run__seed": "0",
    }
    changed = _changed(tiny_configuration, **nothing)
    assert changed == tiny_configuration
    assert predict(changed) == predict(tiny_configuration)


def test_every_key_can_be_read_back(tiny_configuration: TrainingConfiguration) -> None:
    """What `get` shows of a value, `read` takes."""
    draft = draft_of(tiny_configuration)
    for key, change in CIRCUMSTANCE_CHANGES.items():
        if key != "run.tokens":  # 0, no goal, can only be left out
            assert change.put(draft, change.read(key, str(change.get(draft)), change.get(draft))) == draft, key


def test_loads_and_capacities(tiny_configuration: TrainingConfiguration, tmp_path: Path) -> None:
    changed = _changed(
        tiny_configuration,
        workload__expert_load="zipf:1.2",
        workload__expert_placement="packed",
        workload__capacity_factor="1.25",
    )
    assert changed.workload.known_load == ZipfLoad(exponent=1.2, placement=ExpertPlacement.PACKED)
    assert changed.workload.capacity == 1.25
    path = tmp_path / "loads.json"
    path.write_text(str([1 / 8] * 8))
    assert str(_changed(tiny_configuration, workload__expert_load=f"histogram:{path}").workload.known_load) == (
        f"histogram:{path}"
    )


def test_a_histogram_of_another_model_is_refused(tiny_configuration: TrainingConfiguration, tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    path.write_text("[0.5, 0.5]")
    with pytest.raises(InputError, match=f"{path}: shares: 2 shares, but the model has 8 experts"):
        _changed(tiny_configuration, workload__expert_load=f"histogram:{path}")


def test_slow_parts_and_where_they_are(tiny_configuration: TrainingConfiguration) -> None:
    circumstances = _changed(
        tiny_configuration, cluster__slow_gpu="1.1@stage:1", cluster__slow_link="0.5@boundary:0"
    ).circumstances
    assert circumstances.slow_gpu == SlowGpu(time_factor=1.1, stage=1)
    assert circumstances.slow_link == SlowLink(bandwidth_fraction=0.5, place=LinkPlace.BOUNDARY, stage=0)
    worst = _changed(tiny_configuration, cluster__slow_gpu="1.1", cluster__slow_link="0.5@data-parallel").circumstances
    assert worst.slow_gpu == SlowGpu(time_factor=1.1)
    assert worst.slow_link == SlowLink(bandwidth_fraction=0.5, place=LinkPlace.DATA_PARALLEL)


def test_failures_and_goals(tiny_configuration: TrainingConfiguration) -> None:
    changed = _changed(
        tiny_configuration,
        cluster__mean_time_between_failures_s="50000 h",
        cluster__jitter="0.03",
        run__detection_s="2 min",
        run__restart_s="90",
        run__checkpoint_interval_s="10 min",
        run__checkpoint_write_s="2.5",
        run__checkpoint_store_s="1 min",
        run__repair_s="1 days",
        run__spares="4",
        run__tokens="15e12",
        run__seed="7",
    )
    assert changed.cluster.mean_time_between_failures_s == 50_000 * 3600.0
    circumstances = changed.circumstances
    assert circumstances.recovery == Recovery(
        detection_s=120.0,
        restart_s=90.0,
        checkpoint_interval_s=600.0,
        checkpoint_write_s=2.5,
        checkpoint_store_s=60.0,
        num_spare_nodes=4,
        repair_s=86400.0,
    )
    assert (circumstances.jitter_fraction, circumstances.tokens, circumstances.seed) == (0.03, 15e12, 7)
    twice = _changed(changed, cluster__mean_time_between_failures_s="2x")
    assert twice.cluster.mean_time_between_failures_s == 100_000 * 3600.0
    never = _changed(changed, cluster__mean_time_between_failures_s="none")
    assert never.cluster.mean_time_between_failures_s is None


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("workload.expert_load", "skewed", "'skewed' is unknown; expected balanced, zipf:EXPONENT or histogram:FILE"),
        ("workload.expert_load", "zipf", "'zipf' is unknown; expected balanced, zipf:EXPONENT or histogram:FILE"),
        (
            "workload.expert_load",
            "zipf:steep",
            "'steep' is not the exponent of a Zipf load from 0 to 8,",
        ),
        ("workload.expert_load", "zipf:20", "'20' is not the exponent of a Zipf load from 0 to 8,"),
        ("workload.expert_load", "histogram:", "'histogram:' is unknown; expected balanced"),
        ("workload.expert_placement", "random", "'random' is unknown; expected one of contiguous, packed"),
        ("workload.capacity_factor", "0", "'0' is not a positive capacity factor, as in 1.25, or dropless"),
        ("cluster.slow_gpu", "0.9", "'0.9' is not a factor >= 1 on the time of computation"),
        ("cluster.slow_gpu", "1.1@node:3", "place 'node:3' is unknown; expected one of stage"),
        ("cluster.slow_gpu", "1.1@stage:last", "'last' is not the number of a stage, from 0 on"),
        ("cluster.slow_link", "2", "'2' is not the share of bandwidth left, above 0 and at most 1"),
        ("cluster.slow_link", "0.5@ring", "place 'ring' is unknown; expected one of adapter, boundary, data-parallel"),
        ("cluster.jitter", "3 %", "'3 %' is not a coefficient of variation from 0 to 1, as in 0.03"),
        ("cluster.mean_time_between_failures_s", "0", "'0' is not a time > 0, as in '50000 h', nor none"),
        ("cluster.mean_time_between_failures_s", "-1x", "'-1' is not a factor, as in 2x"),
        ("run.restart_s", "-5", "'-5' is not a time >= 0, as in 90, 5 us or '10 min'"),
        ("run.restart_s", "5 miles", "unit 'miles' of '5 miles' is not one of ns, us"),
        ("run.checkpoint_interval_s", "best", "'best' is not a number with a unit, as in 5 us"),
        ("run.spares", "1.5", "'1.5' is not a whole number >= 0"),
        ("run.tokens", "many", "'many' is not a number of tokens, as in 15e12"),
        ("run.seed", "-1", "'-1' is not a whole number >= 0"),
    ],
)
def test_values_that_are_none(tiny_configuration: TrainingConfiguration, key: str, text: str, message: str) -> None:
    change = CIRCUMSTANCE_CHANGES[key]
    with pytest.raises(InputError) as error:
        change.read(key, text, change.get(draft_of(tiny_configuration)))
    assert str(error.value).startswith(f"--set: {key}: {message}")


def test_balanced_experts_are_not_placed(tiny_configuration: TrainingConfiguration) -> None:
    with pytest.raises(InputError, match=r"expert_placement: needs workload\.expert_load"):
        _changed(tiny_configuration, workload__expert_placement="packed")


def test_a_draft_without_circumstances_has_none(tiny_configuration: TrainingConfiguration) -> None:
    fields = {
        name: getattr(draft_of(tiny_configuration), name) for name in Draft.__struct_fields__ if name != "circumstances"
    }
    assert Draft(**fields) == draft_of(tiny_configuration)
    assert msgspec.structs.replace(tiny_configuration) == changed_configuration(tiny_configuration, Draft(**fields))
