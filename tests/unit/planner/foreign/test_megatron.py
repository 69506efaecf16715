from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import UNSET

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import DenseFfnSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import AxisOrder, ContextMethod, Dispatch, Mesh, Recompute, ZeroStage
from meshwright.costmodel.tables import AttentionBackend
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.foreign import Source
from meshwright.planner.foreign.megatron import MEGATRON
from meshwright.planner.foreign.megatron.model import model_of, padded_vocabulary
from meshwright.planner.foreign.megatron.stages import layers_per_stage, virtual_stages
from meshwright.planner.foreign.settings import Reading

Read = Callable[[str], Reading]


def run_of(reading: Reading, num_gpus: int) -> TrainingConfiguration:
    return MEGATRON.configuration_of(reading.settings, load_cluster("h100", num_gpus=num_gpus), 1.0)


def rules(reading: Reading, num_gpus: int) -> list[str]:
    return [violation.rule for violation in MEGATRON.broken_rules(reading.settings, num_gpus)]


# Published scripts.


def test_gpt3_175b(published: Callable[..., Reading]) -> None:
    reading = published("gpt3_175b.sh")
    assert reading.num_gpus == 8
    assert reading.unknown == ()
    run = run_of(reading, 1024)
    assert run.model.name == "gpt3-175b"
    assert (run.model.num_layers, run.model.hidden, run.model.learned_positions) == (96, 12288, 2048)
    assert run.model.vocab == 51200  # 50,257 entries, to a multiple of 128 x tp 8
    assert run.model.tied_embeddings
    assert run.model.layers[0].ffn == DenseFfnSpec(intermediate=49152, gated=False, bias=True)
    assert run.mesh == Mesh(pp=16, dp=8, tp=8)
    assert [len(stage) for stage in run.stages] == [6] * 16
    assert not run.stages[0][0].sequence_parallel
    assert run.sharding.zero is ZeroStage.NONE
    assert (run.runtime.overlap_gradient_reduce, run.runtime.fp32_gradients) == (False, False)
    assert (run.workload.global_batch, run.workload.seq_len) == (1536, 2048)
    assert "dropout" in " ".join(use.option for use in MEGATRON.unmodelled(reading.settings))


def test_gpt3_175b_as_published_breaks_two_rules(published: Callable[..., Reading]) -> None:
    broken = MEGATRON.broken_rules(published("gpt3_175b.sh").settings, 8)
    assert [violation.rule for violation in broken] == [
        "the GPUs are a multiple of tp x pp x cp",
        "either a batch or a schedule of batches",
    ]
    assert broken[0].values == "8 GPUs, tp 8 x pp 16 x cp 1 = 128"
    assert broken[0].fix == "128 GPUs"


def test_llama3_8b_fp8(published: Callable[..., Reading]) -> None:
    reading = published("llama3_8b_fp8.sh")
    assert reading.num_gpus == 8
    assert reading.unknown == ()  # the branch that does not hold is not followed
    run = run_of(reading, 8)
    assert run.model.layers == load_model("llama-3.1-8b").layers
    assert run.model.vocab == 128256
    assert run.workload.precision is Precision.FP8
    assert run.mesh == Mesh(dp=8)
    assert run.sharding.zero is ZeroStage.OPTIMIZER
    assert (run.runtime.gradient_reduce_bytes, run.runtime.parameter_gather_bytes) == (2, 1)
    assert run.runtime.overlap_parameter_gather
    assert run.runtime.attention_backend is AttentionBackend.CUDNN
    assert run.num_micro_batches == 16
    assert rules(reading, 8) == []


def test_mixtral_8x7b(published: Callable[..., Reading]) -> None:
    reading = published("mixtral_8x7b.sh")
    assert reading.num_gpus == 8
    assert published("mixtral_8x7b.sh", SLURM_NNODES="8").num_gpus == 64
    run = run_of(reading, 64)
    assert run.model.layers == load_model("mixtral-8x7b").layers
    assert run.model.vocab == 32000
    assert run.mesh == Mesh(pp=4, dp=16, ep=8)
    assert {strategy.dispatch for stage in run.stages for strategy in stage} == {Dispatch.ALL_TO_ALL}
    assert run.num_micro_batches == 16
    assert [note.partition(":")[0] for note in reading.notes] == ["line 25"]
    broken = MEGATRON.broken_rules(reading.settings, 8)
    assert [violation.values for violation in broken] == ["8 GPUs, etp 1 x ep 8 x pp 4 = 32"]


def test_deepseek_v3(published: Callable[..., Reading]) -> None:
    reading = published("deepseek_v3.sh")
    assert reading.num_gpus == 256
    assert reading.unknown == ()
    run = run_of(reading, 256)
    assert run.model.layers == load_model("deepseek-v3").layers
    assert (run.model.name, run.model.vocab, run.model.mtp_depth) == ("deepseek-v3", 129280, 1)
    assert run.mesh == Mesh(dp=256, ep=8)
    assert run.sharding.zero is ZeroStage.PARAMETERS
    assert {strategy.recompute for strategy in run.stages[0]} == {Recompute.FFN}
    assert run.stages[0][3].dispatch is Dispatch.ALL_TO_ALL_DEDUP
    assert run.runtime.expert_load_deviation == 0.0
    unmodelled = " ".join(use.why for use in MEGATRON.unmodelled(reading.settings))
    assert "less memory is needed than predicted" in unmodelled
    plain = published("deepseek_v3.sh", USE_MEGATRON_FSDP="0", EP="16")
    assert run_of(plain, 256).sharding.zero is ZeroStage.OPTIMIZER
    assert run_of(plain, 256).mesh.ep == 16


# Single mappings.


@pytest.mark.parametrize(
    ("added", "counts"),
    [
        ("--pipeline-model-parallel-size 4", (8, 8, 8, 8)),
        ("--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 4", (4,) * 8),
        ("--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2", (4,) * 8),
        (
            "--pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers 7"
            " --decoder-last-pipeline-num-layers 5",
            (7, 10, 10, 5),
        ),
        ("--pipeline-model-parallel-size 3 --decoder-last-pipeline-num-layers 8", (12, 12, 8)),
        (
            "--pipeline-model-parallel-size 2 --num-layers 30 --account-for-embedding-in-pipeline-split"
            " --account-for-loss-in-pipeline-split",
            (15, 15),
        ),
        (
            "--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2 --num-layers 30"
            " --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split",
            (3, 4, 4, 4, 4, 4, 4, 3),
        ),
        ("--pipeline-model-parallel-size 4 --pipeline-model-parallel-layout 'Et*7|(t*9|)*2t*7,L'", (7, 9, 9, 7)),
    ],
)
def test_layers_of_stages(megatron: Read, dense_arguments: str, added: str, counts: tuple[int, ...]) -> None:
    reading = megatron(f"{dense_arguments} --global-batch-size 48 {added}")
    settings = reading.settings
    assert layers_per_stage(settings) == counts
    assert virtual_stages(settings) == len(counts) // settings.integer("pipeline_model_parallel_size")
    assert rules(reading, 12) == []


@pytest.mark.parametrize(
    ("added", "slots", "copy_bytes"), [("", 0, 0), ("--use-megatron-fsdp", 1, 0), ("--use-torch-fsdp2", 1, 2)]
)
def test_fsdp_has_room_for_whole_gradients(
    megatron: Read, dense_arguments: str, added: str, slots: int, copy_bytes: int
) -> None:
    runtime = run_of(megatron(f"{dense_arguments} --global-batch-size 48 {added}"), 8).runtime
    assert (runtime.gradient_slots, runtime.gradient_copy_bytes) == (slots, copy_bytes)


def test_bf16_weights_beside_fp8_copies_are_said_to_be_missing(megatron: Read, dense_arguments: str) -> None:
    def options(added: str) -> list[str]:
        reading = megatron(f"{dense_arguments} --global-batch-size 48 {added}")
        return [use.option for use in MEGATRON.unmodelled(reading.settings) if "fp8" in use.option]

    assert options("") == options("--fp8-format hybrid --fp8-param-gather") == []
    assert options("--fp8-format hybrid") == ["no --fp8-param-gather"]


def test_virtual_stages_are_interleaved(megatron: Read, dense_arguments: str) -> None:
    added = "--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2 --global-batch-size 16"
    run = run_of(megatron(f"{dense_arguments} {added}"), 8)
    assert (run.pipeline.schedule, run.pipeline.virtual_stages) == (ScheduleKind.INTERLEAVED, 2)


@pytest.mark.parametrize(
    ("added", "policies"),
    [
        ("", {Recompute.NONE: 32}),
        ("--recompute-activations", {Recompute.CORE_ATTENTION: 32}),
        ("--recompute-granularity selective", {Recompute.CORE_ATTENTION: 32}),
        ("--recompute-granularity selective --recompute-modules mlp", {Recompute.FFN: 32}),
        ("--recompute-granularity selective --recompute-modules layernorm", {Recompute.NORM_ACTIVATION: 32}),
        ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1", {Recompute.FULL: 32}),
        (
            "--recompute-granularity full --recompute-method block --recompute-num-layers 3",
            {Recompute.FULL: 12, Recompute.NONE: 20},
        ),
    ],
)
def test_recomputation(megatron: Read, dense_arguments: str, added: str, policies: dict[Recompute, int]) -> None:
    run = run_of(megatron(f"{dense_arguments} {added} --pipeline-model-parallel-size 4"), 8)
    chosen = [strategy.recompute for stage in run.stages for strategy in stage]
    assert {policy: chosen.count(policy) for policy in set(chosen)} == policies
    if "block" in added:
        assert [strategy.recompute for strategy in run.stages[1]][:4] == [Recompute.FULL] * 3 + [Recompute.NONE]


def test_context_parallelism(megatron: Read, dense_arguments: str) -> None:
    ring = run_of(megatron(f"{dense_arguments} --context-parallel-size 4"), 8)
    assert (ring.mesh.cp, ring.stages[0][0].context_method) == (4, ContextMethod.RING)
    gathered = run_of(megatron(f"{dense_arguments} --context-parallel-size 4 --cp-comm-type all_gather"), 8)
    assert gathered.stages[0][0].context_method is ContextMethod.ALL_GATHER
    ulysses = run_of(megatron(f"{dense_arguments} --context-parallel-size 4 --cp-comm-type a2a"), 8)
    assert (ulysses.mesh.cp, ulysses.mesh.sp, ulysses.stages[0][0].sp) == (1, 4, 4)
    added = "--context-parallel-size 8 --cp-comm-type a2a+p2p --hierarchical-context-parallel-sizes 2 4"
    mixed = run_of(megatron(f"{dense_arguments} {added}"), 8)
    assert (mixed.mesh.sp, mixed.mesh.cp) == (2, 4)


@pytest.mark.parametrize(
    ("added", "field", "value"),
    [
        ("--tp-comm-overlap --sequence-parallel", "overlap.tensor", "fused"),
        ("--overlap-moe-expert-parallel-comm", "overlap.expert", "inter-batch"),
        ("--overlap-grad-reduce", "overlap_gradient_reduce", True),
        ("", "overlap_gradient_reduce", False),
        ("", "fp32_gradients", True),
        ("--grad-reduce-in-bf16", "gradient_reduce_bytes", 2),
        ("--attention-backend flash", "attention_backend", "fa2"),
        ("--cuda-graph-impl full_iteration", "cuda_graphs", True),
        ("--cuda-graph-impl local --cuda-graph-modules attn", "cuda_graphs", False),
        ("--moe-expert-capacity-factor 1.0", "routing_wait_s", 0.0),
    ],
)
def test_runtime(megatron: Read, moe_arguments: str, added: str, field: str, value: object) -> None:
    runtime: object = run_of(megatron(f"{moe_arguments} {added}"), 8).runtime
    for name in field.split("."):
        runtime = getattr(runtime, name)
    assert runtime == value


def test_sharding_order_and_padding(megatron: Read, moe_arguments: str) -> None:
    added = "--use-distributed-optimizer --num-distributed-optimizer-instances 2 --use-tp-pp-dp-mapping"
    run = run_of(megatron(f"{moe_arguments} {added} --pipeline-model-parallel-size 2"), 16)
    assert (run.sharding.zero, run.sharding.shard_degree) == (ZeroStage.OPTIMIZER, 4)
    assert run.mesh.order is AxisOrder.DP_OUTERMOST
    padded = "--moe-expert-capacity-factor 1.25 --moe-pad-expert-input-to-capacity"
    workload = run_of(megatron(f"{moe_arguments} {padded}"), 8).workload
    assert (workload.capacity_factor, workload.expert_imbalance) == (1.25, 1.0)
    dropping = run_of(megatron(f"{moe_arguments} --moe-expert-capacity-factor 1.25"), 8).workload
    assert dropping.capacity_factor is UNSET
    offloaded = "--optimizer-cpu-offload --use-precision-aware-optimizer"
    assert run_of(megatron(f"{moe_arguments} {offloaded}"), 8).sharding.offload_optimizer


def test_experts_are_split_over_tp_unless_told_otherwise(megatron: Read, moe_arguments: str) -> None:
    split = "--tensor-model-parallel-size 2 --sequence-parallel --expert-model-parallel-size 4"
    assert run_of(megatron(f"{moe_arguments} {split}"), 8).mesh.etp == 2
    assert run_of(megatron(f"{moe_arguments} {split} --expert-tensor-parallel-size 1"), 8).mesh.etp == 1


def test_patterns_of_layers(megatron: Read, moe_arguments: str) -> None:
    model = model_of(megatron(f"{moe_arguments} --moe-layer-freq [0]*2+[1]*30").settings)
    assert [layer.is_moe for layer in model.layers[:3]] == [False, False, True]
    assert [
        layer.is_moe for layer in model_of(megatron(f"{moe_arguments} --moe-layer-freq 2").settings).layers[:4]
    ] == [
        True,
        False,
        True,
        False,
    ]
    windows = model_of(megatron(f"{moe_arguments} --window-size 127,0 --window-attn-skip-freq 2").settings).layers
    assert [layer.attention.window for layer in windows[:4]] == [128, 0, 128, 0]


def test_sizes_that_are_not_given(megatron: Read) -> None:
    base = "--num-layers 2 --hidden-size 1024 --num-attention-heads 8 --seq-length 512 --max-position-embeddings 512"
    plain = model_of(megatron(f"{base} --micro-batch-size 1").settings)
    assert plain.layers[0].ffn == DenseFfnSpec(intermediate=4096, gated=False, bias=True)
    assert plain.layers[0].attention.num_kv_heads == 8
    gated = model_of(
        megatron(f"{base} --micro-batch-size 1 --swiglu --group-query-attention --num-query-groups 2").settings
    )
    assert isinstance(gated.layers[0].ffn, DenseFfnSpec)
    assert gated.layers[0].ffn.intermediate == 2688  # 4 x 1024 x 2/3 = 2730, to a multiple of 64
    assert gated.layers[0].attention.num_kv_heads == 2
    experts = model_of(megatron(f"{base} --micro-batch-size 1 --num-experts 4").settings).layers[0].ffn
    assert isinstance(experts, MoeFfnSpec)
    assert (experts.top_k, experts.intermediate) == (2, 4096)


@pytest.mark.parametrize(
    ("tokenizer", "entries"),
    [
        ("--vocab-size 1000", 1024),
        ("--padded-vocab-size 1001", 1001),
        ("", 50304),
        ("--tokenizer-type Llama2Tokenizer", 32000),
        ("--tokenizer-type HuggingFaceTokenizer --tokenizer-model meta-llama/Llama-3.1-8B-Instruct", 128256),
        ("--tokenizer-type HuggingFaceTokenizer --tokenizer-model /models/Qwen3-30B-A3B", 151936),
    ],
)
def test_vocabulary(megatron: Read, tokenizer: str, entries: int) -> None:
    assert padded_vocabulary(megatron(f"--num-layers 1 {tokenizer}").settings) == entries


def test_a_tokenizer_that_is_not_known_asks_for_its_size(megatron: Read) -> None:
    with pytest.raises(InputError, match=r"--vocab-size: the tokenizer \(my/own\) is not known here"):
        padded_vocabulary(
            megatron("--num-layers 1 --tokenizer-type HuggingFaceTokenizer --tokenizer-model my/own").settings
        )


# YAML.


def test_yaml_with_sections_and_with_model_args() -> None:
    sections = """
language_model:
  num_layers: 4
  add_bias_linear: false
  num_moe_experts: 8
model_parallel:
  tensor_model_parallel_size: 2
  sequence_parallel: true
  bf16: true
no_such_name: 3
lr: 1.0e-4
"""
    reading = MEGATRON.read(Source(where="run.yaml", text=sections, suffix=".yaml"))
    settings = reading.settings
    assert (settings.integer("num_layers"), settings.integer("num_experts")) == (4, 8)
    assert not settings.on("add_bias_linear")
    assert settings.on("sequence_parallel")
    assert [flag.option for flag in reading.unknown] == ["--no-such-name 3"]
    assert [use.group for use in reading.ignored] == ["learning rate"]
    listed = "ENV_VARS: {X: 1}\nMODEL_ARGS:\n  --num-layers: 12\n  --bf16: true\n  --disable-bias-linear: true\n"
    other = MEGATRON.read(Source(where="run.yml", text=listed, suffix=".yml")).settings
    assert (other.integer("num_layers"), other.on("bf16"), other.on("add_bias_linear")) == (12, True, False)


@pytest.mark.parametrize(
    ("text", "problem"), [("- 1", "is no mapping"), ("a: [", "is no YAML"), ("a:", "holds no option")]
)
def test_yaml_that_holds_nothing(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        MEGATRON.read(Source(where="run.yaml", text=text, suffix=".yaml"))


def test_options_behind_the_file_count(published: Callable[..., Reading]) -> None:
    settings = published("mixtral_8x7b.sh", "--micro-batch-size 2 --pipeline-model-parallel-size=$PP", PP="2").settings
    assert settings.integer("micro_batch_size") == 2
    assert settings.integer("pipeline_model_parallel_size") == 2
