from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.overlap import OverlapLevel
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Dispatch, Recompute, ZeroStage
from meshwright.planner.validation.rows import TrainingRow, packaged_path, parse_row, read_table
from meshwright.planner.validation.run_description import describe

TABLE = {text.id: text for text in read_table(packaged_path())}


def row(name: str, **changes: object) -> TrainingRow:
    return msgspec.structs.replace(parse_row(TABLE[name]), **changes)


def test_a_megatron_row_with_userbuffers_and_virtual_stages() -> None:
    run = describe(row("T0091"))
    assert (run.mesh.tp, run.mesh.cp, run.mesh.pp, run.mesh.dp) == (4, 2, 4, 2)
    assert (run.pipeline.schedule, run.pipeline.virtual_stages) == (ScheduleKind.INTERLEAVED, 5)
    assert [len(stage) for stage in run.stages] == [4] * 20
    assert run.runtime.overlap.tensor is OverlapLevel.FUSED
    assert run.runtime.gradient_reduce_bytes == 2
    assert run.sharding.zero is ZeroStage.OPTIMIZER


def test_shortened_models_and_experts_split_over_tp() -> None:
    run = describe(row("T0052"))
    assert run.model.num_layers == 4
    assert (run.mesh.ep, run.mesh.etp) == (8, 4)
    assert run.runtime.routing_wait_s == 0.0  # tokens are dropped to a capacity: nothing waits for counts


def test_a_sharded_torch_row() -> None:
    run = describe(row("T0931"))
    assert run.sharding.zero is ZeroStage.PARAMETERS
    assert run.stages[0][0].recompute is Recompute.EVERY_SECOND_GEMM
    assert run.cluster.gpu.name.startswith("H100 96GB")
    assert describe(row("T0959")).sharding.zero is ZeroStage.GRADIENTS  # prints "reshard never"


def test_hsdp_shares_among_the_stated_ranks() -> None:
    assert describe(row("T0192")).sharding.shard_degree == 128


def test_a_local_batch_becomes_a_micro_batch_a_stage() -> None:
    assert (describe(row("T0983")).pipeline.micro_batch, describe(row("T0983")).num_micro_batches) == (4, 8)
    assert describe(row("T0984")).pipeline.virtual_stages == 2


def test_megascale_has_one_layer_a_chunk_and_gathers_tokens() -> None:
    run = describe(row("MSMOE1440"))
    assert run.pipeline.virtual_stages == 4
    assert run.stages[0][0].dispatch is Dispatch.ALL_GATHER
    assert run.runtime.expert_load_deviation > 0.0


def test_deepseeks_own_framework_has_two_chunks_a_device_and_16_bit_moments() -> None:
    own = next(text for text in read_table(packaged_path("peers.csv")) if "2,048 H800" in text.id)
    run = describe(parse_row(own))
    assert (run.pipeline.schedule, run.pipeline.virtual_stages) == (ScheduleKind.DUALPIPE_V, 2)
    assert len(run.stages) == 2 * run.mesh.pp
    assert run.runtime.optimizer_state_bytes == 4 + 2 + 2


def test_partly_full_recomputation_takes_that_many_layers() -> None:
    policies = [strategy.recompute for strategy in describe(row("T0501")).stages[0]]
    assert policies == [Recompute.FULL] * 5 + [Recompute.NONE] * 27


def test_unknown_recomputation_is_the_least_that_fits() -> None:
    light = row("T0307")
    assert describe(light).stages[0][0].recompute is Recompute.NONE
    assert describe(msgspec.structs.replace(light, micro_batch=4)).stages[0][0].recompute is not Recompute.NONE


def test_nodes_of_four_gpus() -> None:
    assert describe(row("T0363")).cluster.gpus_per_node == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpu": "b200"}, "gpu: 'b200' is unknown; expected one of h100-sxm"),
        ({"precision": "int4"}, "precision: 'int4' is unknown"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"framework": "horovod"}, "'horovod' is unknown"),
        ({"sharding": "zero9"}, "sharding: 'zero9' is unknown"),
        ({"recompute": "some"}, "recompute: 'some' is unknown"),
        ({"num_layers": 4096}, "num_layers: 4096"),
        ({"virtual_stages": 100}, "80 layers cannot fill 400 stages"),
    ],
)
def test_what_cannot_be_described_is_said(changes: dict[str, object], words: str) -> None:
    with pytest.raises(MeshwrightError) as caught:
        describe(row("T0091", **changes))
    assert words in str(caught.value)
