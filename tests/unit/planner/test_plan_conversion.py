from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.hardware_profiles import load_cluster, load_profile, profile_names
from meshwright.hardware_profiles import preset_names as cluster_names
from meshwright.planner.cluster_record import cluster_of, cluster_record, shipped_profile_name
from meshwright.planner.plan import Plan, content_hash
from meshwright.planner.plan_conversion import configuration_of, model_of, model_record, plan_warnings
from meshwright.planner.plan_orders import plan_orders

replace = msgspec.structs.replace


def test_a_plan_stands_for_its_configuration(tiny_plan: Plan, tiny_configuration: TrainingConfiguration) -> None:
    assert configuration_of(tiny_plan) == replace(tiny_configuration, orders=plan_orders(tiny_configuration))


def test_a_plan_promises_the_prediction_of_its_configuration(tiny_plan: Plan) -> None:
    prediction = predict(configuration_of(tiny_plan))
    promised = tiny_plan.prediction
    assert promised.step_time_s == prediction.step_time_s
    assert promised.peak_memory_bytes == prediction.peak_memory_bytes
    assert promised.breakdown_s == prediction.breakdown_s
    low_s, high_s = promised.step_time_interval_s
    assert low_s < promised.step_time_s < high_s


def test_layers_are_grouped_by_stage_and_strategy(tiny_plan: Plan) -> None:
    groups = [(group.virtual_stage, group.first_layer, group.num_layers) for group in tiny_plan.layers]
    assert groups == [(0, 0, 2), (1, 2, 1), (1, 3, 1)]
    assert {group.kind for group in tiny_plan.layers} == {"MoE top-2 of 8"}


def test_a_recomputed_layer_keeps_less(tiny_plan: Plan) -> None:
    kept, recomputed = tiny_plan.layers[1], tiny_plan.layers[2]
    assert set(recomputed.kept_tensors) < set(kept.kept_tensors)
    assert "hidden" in recomputed.kept_tensors


def test_stages_say_where_they_lie(tiny_plan: Plan) -> None:
    stages = [(s.virtual_stage, s.device, s.chunk, s.first_layer, s.num_layers) for s in tiny_plan.pipeline.stages]
    assert stages == [(0, 0, 0, 0, 2), (1, 1, 0, 2, 2)]
    assert tiny_plan.pipeline.num_micro_batches == 8


def test_a_model_survives_its_record(tiny_configuration: TrainingConfiguration) -> None:
    record = model_record(tiny_configuration.model)
    assert model_of(record) == tiny_configuration.model
    assert record.hash == content_hash(tiny_configuration.model)
    assert [run.count for run in record.layer_runs] == [4]


@pytest.mark.parametrize("name", cluster_names())
def test_a_cluster_survives_its_record(name: str) -> None:
    cluster = load_cluster(name)
    record = cluster_record(cluster)
    assert record.custom_profile is None
    assert cluster_of(record) == cluster


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_is_known_whatever_its_links(name: str) -> None:
    profile = load_profile(name)
    gpu = replace(profile.gpu, nvlink_bytes_per_s=123e9, usable_memory_bytes=40e9)
    assert shipped_profile_name(replace(profile, gpu=gpu)) == name


def test_a_profile_of_ones_own_is_carried_in_full() -> None:
    cluster = load_cluster("h100")
    own = replace(cluster, profile=replace(cluster.profile, gpu=replace(cluster.gpu, num_sms=100)))
    record = cluster_record(own)
    assert record.custom_profile == own.profile
    assert cluster_of(record) == own


def test_a_profile_that_changed_is_warned_of(tiny_plan: Plan) -> None:
    assert plan_warnings(tiny_plan) == ()
    older = replace(tiny_plan, cluster=replace(tiny_plan.cluster, profile_hash="0" * 64))
    assert plan_warnings(older) == ("the profile h100 changed since this plan was made",)


def test_another_version_is_warned_of(tiny_plan: Plan) -> None:
    assert "meshwright 0.0.1" in plan_warnings(replace(tiny_plan, meshwright_version="0.0.1"))[0]


def test_the_hash_tells_kinds_of_layers_apart(tiny_configuration: TrainingConfiguration) -> None:
    layer = tiny_configuration.model.layers[0]
    assert content_hash(layer.ffn) != content_hash(replace(layer.ffn, top_k=1))
    assert content_hash(layer) != content_hash(layer.ffn)
