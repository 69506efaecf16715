from __future__ import annotations

from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.stage_cost import stage_costs
from meshwright.planner.held.offload import host_bytes


def test_nothing_offloaded_takes_nothing(tiny_configuration: TrainingConfiguration) -> None:
    assert host_bytes(tiny_configuration) == 0.0


def test_optimizer_state_of_the_fullest_stage_for_each_gpu_of_a_node(tiny_configuration: TrainingConfiguration) -> None:
    offloaded = replace(tiny_configuration, sharding=Sharding(offload_optimizer=True))
    most = max(cost.optimizer_bytes for cost in stage_costs(tiny_configuration))
    assert host_bytes(offloaded) == 8 * most > 0


def test_activations_of_every_micro_batch_in_flight(tiny_configuration: TrainingConfiguration) -> None:
    keep = replace(tiny_configuration.stages[0][0], offload=True)
    even = replace(tiny_configuration.runtime, expert_load_deviation=0.0)
    offloaded = replace(tiny_configuration, runtime=even, stages=((keep, keep), tiny_configuration.stages[1]))
    # fc1_out and fc3_out of two layers: 1,024 tokens a rank go to two experts each, over as many ranks.
    rows, width, bf16 = 1024 * 2, 2048, 2
    both, layers, in_flight, gpus = 2, 2, 2, 8
    assert host_bytes(offloaded) == rows * width * bf16 * both * layers * in_flight * gpus
