from __future__ import annotations

from collections.abc import Callable

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.stage_cost import cost_context
from meshwright.costmodel.strategy import ContextMethod, Dispatch, Mesh, Recompute, ZeroStage
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.foreign import Source
from meshwright.planner.foreign.settings import Reading
from meshwright.planner.foreign.torchtitan import TORCHTITAN
from meshwright.planner.foreign.torchtitan.flavors import flavor_model, flavor_table

Read = Callable[[str], Reading]
L8 = "--model.flavor 8B --training.seq_len 8192"
MOE = "--model.name deepseek_v3 --model.flavor 16B --training.seq_len 4096 --training.local_batch_size 8"


def run_of(reading: Reading, num_gpus: int) -> TrainingConfiguration:
    return TORCHTITAN.configuration_of(reading.settings, load_cluster("h100", num_gpus=num_gpus), 1.0)


# Published files.


def test_llama3_8b(published: Callable[..., Reading]) -> None:
    reading = published("llama3_8b.toml")
    assert reading.num_gpus is None
    assert (reading.unknown, reading.unmodelled) == ((), ())
    assert {use.group for use in reading.ignored} == {"job", "optimizer", "at a value that changes nothing"}
    run = run_of(reading, 64)
    assert run.model == load_model("llama-3.1-8b")
    assert run.mesh == Mesh(dp=64)
    assert (run.workload.global_batch, run.pipeline.micro_batch, run.num_micro_batches) == (64, 1, 1)
    assert {strategy.recompute for strategy in run.stages[0]} == {Recompute.EVERY_SECOND_GEMM}
    assert run.sharding.zero is ZeroStage.PARAMETERS
    assert not run.runtime.fused_kernels  # compile.enable = false
    assert run.workload.precision is Precision.BF16


def test_llama3_70b(published: Callable[..., Reading]) -> None:
    run = run_of(published("llama3_70b.toml"), 256)
    assert run.model == load_model("llama-3.1-70b")
    assert run.mesh == Mesh(dp=32, tp=8)
    assert (run.workload.global_batch, run.pipeline.micro_batch) == (256, 8)
    assert {strategy.recompute for strategy in run.stages[0]} == {Recompute.FULL}
    assert run.stages[0][0].sequence_parallel


def test_deepseek_v3_671b(published: Callable[..., Reading]) -> None:
    reading = published("deepseek_v3_671b.toml", "--parallelism.expert_parallel_degree 8")
    run = run_of(reading, 256)
    assert run.model.layers == load_model("deepseek-v3").layers
    assert run.model.mtp_depth == 0  # torchtitan has no prediction modules
    assert run.mesh == Mesh(dp=256, ep=8)
    assert run.pipeline.schedule is ScheduleKind.ONE_F_ONE_B  # the schedule counts with a pipeline only
    assert "run again" in " ".join(use.why for use in TORCHTITAN.unmodelled(reading.settings))
    assert TORCHTITAN.broken_rules(reading.settings, 256) == ()


# Single mappings.


@pytest.mark.parametrize(
    ("added", "counts", "kind", "chunks"),
    [
        ("--parallelism.pipeline_parallel_degree 4", (8, 9, 8, 7), ScheduleKind.ONE_F_ONE_B, 1),
        (
            "--parallelism.pipeline_parallel_degree 4 --parallelism.pipeline_parallel_schedule Interleaved1F1B",
            (4, 5, 4, 4, 4, 4, 4, 3),
            ScheduleKind.INTERLEAVED,
            2,
        ),
        (
            "--parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_schedule DualPipeV"
            " --parallelism.pipeline_parallel_first_stage_less_layers 0"
            " --parallelism.pipeline_parallel_last_stage_less_layers 0",
            (8, 8, 8, 8),
            ScheduleKind.DUALPIPE_V,
            2,
        ),
        (
            "--parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_schedule Interleaved1F1B"
            " --parallelism.pipeline_parallel_layers_per_stage 6",
            (5, 6, 6, 6, 5, 4),
            ScheduleKind.INTERLEAVED,
            3,
        ),
    ],
)
def test_pipelines(torchtitan: Read, added: str, counts: tuple[int, ...], kind: ScheduleKind, chunks: int) -> None:
    reading = torchtitan(f"{L8} --training.local_batch_size 8 {added}")
    run = run_of(reading, 8)
    assert tuple(len(stage) for stage in run.stages) == counts
    assert (run.pipeline.schedule, run.pipeline.virtual_stages, run.pipeline.micro_batch) == (kind, chunks, 1)
    assert run.num_micro_batches == 8
    assert run.sharding.zero is ZeroStage.OPTIMIZER  # beside a pipeline: parameters gathered, one reduction a step
    assert cost_context(run).state.holds_fp32_gradients
    assert TORCHTITAN.broken_rules(reading.settings, 8) == ()


@pytest.mark.parametrize(
    ("added", "whole"),
    [
        ("", (5,)),
        ("--parallelism.pipeline_parallel_degree 4", (1, 1, 1, 1)),
        ("--parallelism.pipeline_parallel_degree 8", (0,) * 8),
    ],
)
def test_every_sixth_layer_is_one_of_a_process(torchtitan: Read, added: str, whole: tuple[int, ...]) -> None:
    """torchtitan counts the layers of a process, whose stages have fewer than six with eight of them."""
    selective = "--activation_checkpoint.mode selective --activation_checkpoint.selective_ac_option 6"
    run = run_of(torchtitan(f"{L8} --training.local_batch_size 8 {selective} {added}"), 8)
    assert tuple(sum(one.recompute is Recompute.FULL for one in stage) for stage in run.stages) == whole


@pytest.mark.parametrize(("model", "cuts"), [("llama-3.1-8b", True), ("qwen3-32b", False), ("gpt-oss-20b", False)])
def test_the_best_plan_is_a_pipeline_only_where_the_model_can_be_cut(model: str, cuts: bool) -> None:
    assert TORCHTITAN.pipelines(load_model(model)) is cuts


def test_parts_that_are_listed() -> None:
    toml = f"""
[model]
flavor = "8B"
[training]
local_batch_size = 2
[parallelism]
pipeline_parallel_degree = 2
module_fqns_per_model_part = [
  ["tok_embeddings", {", ".join(f'"layers.{i}"' for i in range(15))}],
  [{", ".join(f'"layers.{i}"' for i in range(15, 32))}, "norm", "output"],
]
"""
    reading = TORCHTITAN.read(Source(where="x.toml", text=toml, suffix=".toml"))
    assert [len(stage) for stage in run_of(reading, 8).stages] == [15, 17]


def test_hybrid_sharding_and_plain_replicas(torchtitan: Read) -> None:
    hybrid = "--parallelism.data_parallel_replicate_degree 2 --parallelism.context_parallel_degree 2"
    run = run_of(torchtitan(f"{L8} {hybrid}"), 16)
    assert run.mesh == Mesh(dp=8, cp=2)
    assert (run.sharding.zero, run.sharding.shard_degree) == (ZeroStage.PARAMETERS, 8)
    plain = run_of(torchtitan(f"{L8} --parallelism.data_parallel_replicate_degree 8"), 8)
    assert plain.sharding.zero is ZeroStage.NONE
    never = run_of(torchtitan(f"{L8} --parallelism.fsdp_reshard_after_forward never"), 8)
    assert never.sharding.zero is ZeroStage.GRADIENTS


@pytest.mark.parametrize(
    ("added", "etp"),
    [
        ("--parallelism.tensor_parallel_degree 2", 2),
        ("--parallelism.tensor_parallel_degree 2 --parallelism.expert_parallel_degree 4", 1),
        (
            "--parallelism.tensor_parallel_degree 2 --parallelism.expert_parallel_degree 4"
            " --parallelism.expert_tensor_parallel_degree 2",
            2,
        ),
    ],
)
def test_experts_are_split_over_tp_without_expert_parallelism(torchtitan: Read, added: str, etp: int) -> None:
    assert run_of(torchtitan(f"{MOE} {added}"), 8).mesh.etp == etp


def test_recomputation_of_every_second_layer(torchtitan: Read) -> None:
    run = run_of(torchtitan(f"{L8} --activation_checkpoint.selective_ac_option 2"), 8)
    assert [strategy.recompute for strategy in run.stages[0]][:4] == [
        Recompute.NONE,
        Recompute.FULL,
        Recompute.NONE,
        Recompute.FULL,
    ]
    none = run_of(torchtitan(f"{L8} --activation_checkpoint.mode none"), 8)
    assert {strategy.recompute for strategy in none.stages[0]} == {Recompute.NONE}


def test_runtime_and_formats(torchtitan: Read) -> None:
    options = (
        "--compile.enable --model.converters quantize.linear.float8 --parallelism.tensor_parallel_degree 2"
        " --parallelism.enable_async_tensor_parallel --quantize.linear.float8.enable_fsdp_float8_all_gather"
    )
    run = run_of(torchtitan(f"{L8} {options}"), 8)
    assert run.workload.precision is Precision.FP8
    assert run.runtime.fused_kernels
    assert run.runtime.overlap.tensor == "fused"
    assert run.runtime.parameter_gather_bytes == 1
    ring = "--parallelism.context_parallel_degree 2 --parallelism.context_parallel_rotate_method alltoall"
    assert run_of(torchtitan(f"{L8} {ring}"), 8).stages[0][0].context_method is ContextMethod.RING
    deepep = "--parallelism.expert_parallel_degree 8 --parallelism.expert_parallel_comm_backend deepep"
    assert run_of(torchtitan(f"{MOE} {deepep}"), 8).stages[0][1].dispatch is Dispatch.ALL_TO_ALL_DEDUP


def test_older_spellings_and_switches(torchtitan: Read) -> None:
    reading = torchtitan(
        "--model.flavor 8B --training.batch_size 4 --training.tensor_parallel_degree 2"
        " --experimental.pipeline_parallel_degree 2 --parallelism.no_pipeline_parallel_expert_parallel_overlap"
    )
    settings = reading.settings
    assert settings.integer("training.local_batch_size") == 4
    assert settings.integer("parallelism.tensor_parallel_degree") == 2
    assert not settings.on("parallelism.pipeline_parallel_expert_parallel_overlap")
    assert reading.unknown == ()


def test_every_flavor_is_a_model() -> None:
    for name, flavors in flavor_table().flavors.items():
        for flavor in flavors:
            assert flavor_model("x", name, flavor).num_layers > 0
    scout = flavor_model("x", "llama4", "17bx16e")
    assert {layer.attention.chunk for layer in scout.layers} == {0}
    assert {layer.attention.chunk for layer in flavor_model("x", "llama4", "17bx16e_irope").layers} == {0, 8192}


# Rules.


@pytest.mark.parametrize(
    ("options", "num_gpus", "rule", "fix"),
    [
        (f"{L8} --parallelism.tensor_parallel_degree 3", 8, "the degrees multiply to the GPUs", "6 or 9 GPUs"),
        (f"{L8} --parallelism.data_parallel_shard_degree 4", 8, "the degrees multiply", "shard_degree 8"),
        (f"{L8} --parallelism.tensor_parallel_degree 16", 16, "tp divides the key-value heads", "degree 8"),
        (f"{L8} --parallelism.context_parallel_degree 3", 9, "a multiple of tp x 2 cp", "8190 or 8196"),
        (f"{L8} --training.global_batch_size 100", 8, "a multiple of the local batch", "64 or 128"),
        (f"{MOE} --parallelism.expert_parallel_degree 6", 12, "ep divides the experts", "degree 4 or 8"),
        (
            f"{MOE} --parallelism.tensor_parallel_degree 4 --parallelism.expert_parallel_degree 2"
            " --parallelism.expert_tensor_parallel_degree 2",
            8,
            "etp is 1 or tp",
            "degree 1",
        ),
        (f"{MOE} --parallelism.expert_parallel_degree 16", 8, "ep x etp divides shard x cp x tp", "degree 8"),
        (f"{MOE} --parallelism.expert_parallel_comm_backend deepep", 8, "DeepEP needs expert parallelism", "degree 8"),
        (
            f"{L8} --parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_microbatch_size 3",
            8,
            "micro-batches of the pipeline divide the local batch",
            "size 2 or 4",
        ),
        (
            f"{L8} --parallelism.pipeline_parallel_degree 4 --parallelism.pipeline_parallel_layers_per_stage 4",
            8,
            "the stages are a multiple of pp",
            "8 or 12 stages",
        ),
        (
            f"{L8} --parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_layers_per_stage 6",
            8,
            "1F1B has one stage a rank",
            "Interleaved1F1B",
        ),
        (
            f"{L8} --parallelism.tensor_parallel_degree 2 --parallelism.enable_async_tensor_parallel",
            8,
            "async TP",
            "true",
        ),
        (f"{L8} --model.converters quantize.linear.mx", 8, "newer GPUs than Hopper", "float8"),
        (
            f"{MOE} --parallelism.expert_parallel_degree 2 --parallelism.pipeline_parallel_degree 2"
            " --parallelism.pipeline_parallel_schedule DualPipeV",
            8,
            "excludes recomputation",
            "mode none",
        ),
    ],
)
def test_a_broken_rule_names_its_fix(torchtitan: Read, options: str, num_gpus: int, rule: str, fix: str) -> None:
    broken = TORCHTITAN.broken_rules(torchtitan(options).settings, num_gpus)
    found = [violation for violation in broken if rule in violation.rule]
    assert len(found) == 1
    assert fix in found[0].fix


@pytest.mark.parametrize(
    ("text", "suffix", "problem"),
    [
        ("[model", ".toml", "is no TOML"),
        ("[job]\ndescription = 'x'", ".toml", "has no option of torchtitan"),
        ("[training]\nseq_len = 0", ".toml", "x.toml:2: training.seq_len: '0' is not a whole number"),
        ("[activation_checkpoint]\nmode = 'some'", ".toml", "expected one of selective, full"),
        ("config = 1", ".py", "is a configuration in Python"),
    ],
)
def test_what_cannot_be_read(text: str, suffix: str, problem: str) -> None:
    with pytest.raises(InputError) as error:
        TORCHTITAN.read(Source(where=f"x{suffix}", text=text, suffix=suffix))
    assert problem in str(error.value)


def test_unknown_models_and_flavors_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="expected one of llama3, llama4"):
        flavor_model("x", "llama5", "8B")
    with pytest.raises(InputError, match="did you mean 405B"):
        flavor_model("x", "llama3", "450B")


def test_an_unknown_key_is_listed_with_its_line() -> None:
    toml = "[model]\nflavor = '8B'\n[parallelism]\ntensor_parallel_degre = 2\n"
    reading = TORCHTITAN.read(Source(where="x.toml", text=toml, suffix=".toml"))
    (unknown,) = reading.unknown
    assert (unknown.line, unknown.suggestion) == (4, "parallelism.tensor_parallel_degree")


# What export needs read rightly.


def test_a_flavor_called_like_a_preset_is_that_preset(torchtitan: Read) -> None:
    reading = torchtitan("--model.name qwen3 --model.flavor mixtral-8x7b --training.seq_len 4096")
    assert run_of(reading, 8).model.layers == load_model("mixtral-8x7b").layers


@pytest.mark.parametrize("name", ["qwen3", "gpt_oss"])
def test_families_without_a_pipeline(torchtitan: Read, name: str) -> None:
    flavor = {"qwen3": "8B", "gpt_oss": "20b"}[name]
    text = f"--model.name {name} --model.flavor {flavor} --training.seq_len 4096"
    pipeline = "--parallelism.pipeline_parallel_degree 2"

    def rules(text: str) -> list[str]:
        return [broken.rule for broken in TORCHTITAN.broken_rules(torchtitan(text).settings, 8)]

    assert f"{name} has no pipeline" not in rules(text)
    assert f"{name} has no pipeline" in rules(f"{text} {pipeline}")


def test_experts_without_their_converter_stay_in_bf16(torchtitan: Read) -> None:
    text = "--model.name qwen3 --model.flavor 30B-A3B --training.seq_len 4096 --model.converters quantize.linear.float8"

    def said(text: str) -> list[str]:
        return [use.why for use in TORCHTITAN.unmodelled(torchtitan(text).settings)]

    note = "experts stay in BF16 without their converter; predicted in FP8"
    assert note in said(text)
    assert note not in said(f"{text},quantize.grouped_mm.float8")
    assert note not in said("--model.name llama3 --model.flavor 8B --model.converters quantize.linear.float8")


def test_a_pipeline_that_takes_the_whole_batch_does_not_drain(torchtitan: Read) -> None:
    batch = "--training.local_batch_size 8 --training.global_batch_size 32"
    text = f"{L8} {batch} --parallelism.pipeline_parallel_degree 2"

    def drains(text: str) -> bool:
        return any("drains" in use.why for use in TORCHTITAN.unmodelled(torchtitan(text).settings))

    assert not drains(f"{text} --parallelism.data_parallel_shard_degree 4")
    assert drains(f"{text} --parallelism.data_parallel_shard_degree 2")
    assert drains(text)
