from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.formulas.experts import expected_imbalance
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.order.order_book import ModelEnd
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.stage_cost import cost_context, end_strategy, ends_of, stage_costs
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, ZeroStage

replace = msgspec.structs.replace


def test_the_ends_are_split_like_the_mesh() -> None:
    mesh = Mesh(pp=2, dp=4, tp=2, sp=2, cp=2, ep=4, etp=2)
    assert end_strategy(mesh) == LayerStrategy(tp=2, sp=2, cp=2, ffn_tp=2, ep=4, etp=2)


def test_prediction_modules_exchange_as_the_last_layer_does(tiny_configuration: TrainingConfiguration) -> None:
    copies = LayerStrategy(sp=2, ep=4, dispatch=Dispatch.ALL_TO_ALL_DEDUP, communication=Precision.FP8)
    configuration = replace(tiny_configuration, stages=(tiny_configuration.stages[0], (copies, copies)))
    deeper = replace(configuration.model, mtp_depth=1)
    assert ends_of(replace(configuration, model=deeper)) == replace(copies, ffn_tp=1)
    assert ends_of(configuration) == LayerStrategy(sp=2, ep=4)


def test_the_ends_split_the_residual_as_layers_do(tiny_configuration: TrainingConfiguration) -> None:
    whole = LayerStrategy(tp=2, ffn_tp=2, sequence_parallel=False)
    configuration = replace(tiny_configuration, mesh=Mesh(pp=2, dp=2, tp=2), stages=((whole,) * 2,) * 2)
    assert ends_of(configuration) == whole


def test_embedding_and_head_are_parts_of_the_first_and_the_last_stage(
    tiny_configuration: TrainingConfiguration,
) -> None:
    first, last = stage_costs(tiny_configuration)
    assert (first.num_parts, last.num_parts) == (3, 3)
    context, ends = cost_context(tiny_configuration), end_strategy(tiny_configuration.mesh)
    layer, strategy = tiny_configuration.model.layers[0], tiny_configuration.stages[0][0]
    one, embedding = context.layer(layer, strategy), context.embedding(ends)
    assert first.forward.total_s == pytest.approx(2 * one.compute.forward.total_s + embedding.compute.forward.total_s)
    assert first.static_bytes == pytest.approx(2 * one.state.static_bytes + embedding.state.static_bytes)
    assert first.kept_bytes == pytest.approx(2 * one.compute.kept_bytes + embedding.compute.kept_bytes)
    assert first.transient_bytes == max(one.compute.transient_bytes, embedding.compute.transient_bytes)


def test_a_stage_adds_up_layers_of_different_strategies(tiny_configuration: TrainingConfiguration) -> None:
    last = stage_costs(tiny_configuration)[1]
    context, layer = cost_context(tiny_configuration), tiny_configuration.model.layers[0]
    keeps, drops = (context.layer(layer, strategy).compute for strategy in tiny_configuration.stages[1])
    head = context.head(end_strategy(tiny_configuration.mesh)).compute
    assert last.backward.total_s == pytest.approx(sum(part.backward.total_s for part in (keeps, drops, head)))
    assert last.kept_bytes == pytest.approx(keeps.kept_bytes + drops.kept_bytes + head.kept_bytes)
    assert drops.kept_bytes < keeps.kept_bytes


def _alone(model: ModelSpec, configuration: TrainingConfiguration) -> TrainingConfiguration:
    """The model on one GPU."""
    return replace(
        configuration,
        model=model,
        cluster=configuration.cluster.with_gpus(1),
        mesh=Mesh(),
        sharding=Sharding(zero=ZeroStage.NONE),
        pipeline=Pipeline(),
        stages=((LayerStrategy(),) * model.num_layers,),
    )


@pytest.mark.parametrize("tied", [False, True])
def test_one_gpu_holds_every_parameter_once(tiny_configuration: TrainingConfiguration, tied: bool) -> None:
    model = replace(tiny_configuration.model, tied_embeddings=tied)
    (cost,) = stage_costs(_alone(model, tiny_configuration))
    assert cost.parameter_bytes == 2 * total_parameters(model)
    assert cost.optimizer_bytes == 12 * total_parameters(model)
    assert cost.param_gather_s == cost.grad_reduce_s == 0.0


def test_all_ranks_together_hold_every_parameter_once(tiny_configuration: TrainingConfiguration) -> None:
    """Optimizer state under ZeRO-1 is spread over all ranks of a stage, experts folded over dp x sp included."""
    total = sum(cost.optimizer_bytes for cost in stage_costs(tiny_configuration)) * 4
    assert total == pytest.approx(12 * total_parameters(tiny_configuration.model))


def test_the_busiest_rank_of_uneven_experts_sets_the_pace(tiny_configuration: TrainingConfiguration) -> None:
    layer, strategy = tiny_configuration.model.layers[0], LayerStrategy(sp=2, ep=4)
    context = cost_context(tiny_configuration)
    deviation = tiny_configuration.runtime.expert_load_deviation
    assert context.setting(layer, strategy).expert_imbalance == expected_imbalance(deviation, 8, 4) > 1.0
    uneven = replace(context, workload=replace(context.workload, expert_imbalance=2.0))
    assert uneven.setting(layer, strategy).expert_imbalance == 2.0
    balanced = replace(context, runtime=replace(context.runtime, expert_load_deviation=0.0))
    assert balanced.setting(layer, strategy).expert_imbalance == 1.0
    times = [c.layer(layer, strategy).compute.forward.total_s for c in (balanced, context, uneven)]
    assert times[-1] > times[0]
    assert times[1] >= times[0] * (1 - 1e-9)  # a little more may fit in the same wave of tiles


def test_offloaded_tensors_leave_the_gpu(tiny_configuration: TrainingConfiguration) -> None:
    context, layer = cost_context(tiny_configuration), tiny_configuration.model.layers[0]
    stays = LayerStrategy(sp=2, ep=4)
    leaves = replace(stays, offload=True)
    num_bytes = context.offloaded_bytes(layer, leaves)
    assert context.offloaded_bytes(layer, stays) == 0.0 < num_bytes
    here, there = context.layer(layer, stays).compute, context.layer(layer, leaves).compute
    assert there.kept_bytes == pytest.approx(here.kept_bytes - num_bytes)
    assert there.transient_bytes == pytest.approx(here.transient_bytes + 2 * num_bytes)
    assert there.forward.total_s >= here.forward.total_s
    copied_s = there.forward.hidden_pcie_s + there.forward.exposed_pcie_s
    assert copied_s == pytest.approx(num_bytes / context.cluster.gpu.pcie_bytes_per_s)


def test_prediction_modules_stand_with_the_head(tiny_configuration: TrainingConfiguration) -> None:
    deeper = replace(tiny_configuration, model=replace(tiny_configuration.model, mtp_depth=1))
    plain, more = stage_costs(tiny_configuration), stage_costs(deeper)
    assert more[0].forward == plain[0].forward
    layer_s = cost_context(deeper).layer(deeper.model.layers[-1], LayerStrategy(sp=2, ep=4)).compute.forward.total_s
    assert more[1].forward.total_s > plain[1].forward.total_s + 0.9 * layer_s


@pytest.mark.parametrize("changes", [{"tied_embeddings": True}, {"mtp_depth": 1}])
def test_ends_that_both_hold_the_table_sum_its_gradients(
    tiny_configuration: TrainingConfiguration, changes: dict[str, object]
) -> None:
    """Behind the last reduction, on both ends; not where one device has both."""
    both = replace(tiny_configuration, model=replace(tiny_configuration.model, **changes))
    apart, ends = cost_context(both), end_strategy(both.mesh)
    sum_s = apart.state.sum_of_ends_s(both.model.vocab * both.model.hidden, 1)
    assert sum_s > 0.0
    together = replace(apart, ends_together=True)
    assert apart.embedding(ends).state.optimizer_s == pytest.approx(together.embedding(ends).state.optimizer_s + sum_s)
    assert apart.head(ends).state.optimizer_s - sum_s == pytest.approx(
        apart.state.cost(apart.program(ModelEnd.HEAD, ends).weights, ends).optimizer_s
    )


def test_ends_without_a_table_in_common_sum_nothing(tiny_configuration: TrainingConfiguration) -> None:
    assert cost_context(tiny_configuration).sum_of_ends_s(end_strategy(tiny_configuration.mesh)) == 0.0
