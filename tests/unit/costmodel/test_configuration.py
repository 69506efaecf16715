from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.model import DenseFfnSpec
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.workload import Workload

replace = msgspec.structs.replace


def test_micro_batches_are_what_a_replica_gets_of_the_batch(tiny_configuration: TrainingConfiguration) -> None:
    assert tiny_configuration.num_micro_batches == 16 // 2
    assert replace(tiny_configuration, pipeline=Pipeline(micro_batch=4)).num_micro_batches == 2


def test_the_mesh_must_use_every_gpu(tiny_configuration: TrainingConfiguration) -> None:
    with pytest.raises(StrategyError, match=r"= 4 GPUs, but the cluster has 8"):
        replace(tiny_configuration, mesh=Mesh(pp=2, dp=2))


def test_there_is_a_stage_for_each_device_and_chunk(tiny_configuration: TrainingConfiguration) -> None:
    with pytest.raises(StrategyError, match="2 virtual stages, expected 4"):
        replace(tiny_configuration, pipeline=Pipeline(virtual_stages=2))


def test_stages_hold_all_layers(tiny_configuration: TrainingConfiguration) -> None:
    with pytest.raises(StrategyError, match="3 layers in all, but tiny has 4"):
        replace(tiny_configuration, stages=((LayerStrategy(),), (LayerStrategy(),) * 2))


def test_the_batch_is_a_multiple_of_what_a_round_takes(tiny_configuration: TrainingConfiguration) -> None:
    with pytest.raises(StrategyError, match=r"15 sequences are not a multiple of dp 2 x micro-batch 1 = 2"):
        replace(tiny_configuration, workload=Workload(global_batch=15, seq_len=2048))


@pytest.mark.parametrize("field", ["virtual_stages", "micro_batch"])
def test_a_pipeline_counts_from_1(field: str) -> None:
    with pytest.raises(StrategyError, match=field):
        replace(Pipeline(), **{field: 0})


def test_layers_of_a_stage_are_counted_by_kind_and_strategy(tiny_configuration: TrainingConfiguration) -> None:
    model = tiny_configuration.model
    dense = replace(model.layers[0], ffn=DenseFfnSpec(intermediate=4096))
    configuration = replace(tiny_configuration, model=replace(model, layers=(dense, *model.layers[1:])))
    keep, recompute = configuration.stages[1]
    assert configuration.layers_of(0) == {(dense, keep): 1, (model.layers[1], keep): 1}
    assert configuration.layers_of(1) == {(model.layers[2], keep): 1, (model.layers[3], recompute): 1}
    together = replace(configuration, stages=((keep,), (keep,) * 3))
    assert together.layers_of(1) == {(model.layers[1], keep): 3}
