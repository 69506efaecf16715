"""torchtitan's own rules: every one that the options break, with the values and the nearest that would do.

The rules are those of `ParallelDims`, `parallelize`, the pipeline's set-up and the trainer in the version that
`data/torchtitan.json` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.planner.foreign.settings import Settings
from meshwright.planner.foreign.torchtitan.configuration import (
    CP,
    EP,
    ETP,
    GLOBAL_BATCH,
    LOCAL_BATCH,
    MICRO_BATCH,
    PARTS,
    PP,
    REPLICATE,
    SCHEDULE,
    SHARD,
    SINGLE_STAGE,
    TP,
    chunks_of,
    compiles_model,
    end_weights,
    global_batch,
    model_of,
    shard_degree,
    signed,
    uses_float8,
)
from meshwright.planner.foreign.torchtitan.flavors import flavor_table
from meshwright.planner.foreign.violation import Violation, nearest_divisors, nearest_multiples

WHOSE = "torchtitan"
PER_STAGE = "parallelism.pipeline_parallel_layers_per_stage"
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")
Rule = tuple[bool, str, str, str]


def broken_rules(settings: Settings, num_gpus: int) -> tuple[Violation, ...]:
    """All rules that are broken, sizes first."""
    return broken_rules_for(settings, model_of(settings), num_gpus)


def broken_rules_for(settings: Settings, model: ModelSpec, num_gpus: int) -> tuple[Violation, ...]:
    """All rules that are broken with a model, whatever flavor the options name."""
    rules = (
        *_sizes(settings, num_gpus),
        *_widths(settings, model),
        *_experts(settings, model, num_gpus),
        *_batch(settings, num_gpus),
        *(_pipeline(settings, model) if settings.integer(PP) > 1 else ()),
        *_features(settings, num_gpus),
    )
    return tuple(
        Violation(whose=WHOSE, rule=rule, values=values, fix=fix) for breaks, rule, values, fix in rules if breaks
    )


def _sizes(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    degrees = {name: settings.integer(name) for name in (REPLICATE, CP, TP, PP)}
    shard, others = shard_degree(settings, num_gpus), prod(degrees.values())
    text = " x ".join(f"{name.partition('.')[2].removesuffix('_degree')} {degree}" for name, degree in degrees.items())
    left = signed(settings, SHARD) < 1
    yield (
        others * shard != num_gpus or shard < 1,
        "the degrees multiply to the GPUs",
        f"{text} x data_parallel_shard {signed(settings, SHARD)}, {num_gpus} GPUs",
        f"{nearest_multiples(others, num_gpus)} GPUs" if left or num_gpus % others else f"{SHARD} {num_gpus // others}",
    )


def _widths(settings: Settings, model: ModelSpec) -> Iterator[Rule]:
    tp, cp, seq = settings.integer(TP), settings.integer(CP), settings.integer("training.seq_len")
    yield (
        seq % (tp * 2 * cp) != 0,
        "the sequence is a multiple of tp x 2 cp",
        f"{seq} tokens, tp {tp}, cp {cp}",
        f"training.seq_len {nearest_multiples(2 * tp * cp, seq)}",
    )
    for attention in dict.fromkeys(layer.attention for layer in model.layer_types):
        for heads, what in ((attention.num_heads, "heads"), (attention.num_kv_heads, "key-value heads")):
            yield (
                heads % tp != 0,
                f"tp divides the {what}",
                f"{heads} {what}, tp {tp}",
                f"{TP} {nearest_divisors(heads, tp)}",
            )


def _experts(settings: Settings, model: ModelSpec, num_gpus: int) -> Iterator[Rule]:
    ep, etp, tp = settings.integer(EP), settings.integer(ETP), settings.integer(TP)
    moes = [layer.ffn for layer in model.layer_types if isinstance(layer.ffn, MoeFfnSpec)]
    if not moes or ep == 1:
        deepep = settings.text("parallelism.expert_parallel_comm_backend") == "deepep"
        yield bool(moes) and deepep, "DeepEP needs expert parallelism", f"ep {ep}", f"{EP} 8"
        return
    count = moes[0].num_experts
    yield count % ep != 0, "ep divides the experts", f"{count} experts, ep {ep}", f"{EP} {nearest_divisors(count, ep)}"
    yield etp not in (1, tp), "etp is 1 or tp", f"etp {etp}, tp {tp}", f"{ETP} 1"
    ranks = shard_degree(settings, num_gpus) * settings.integer(CP) * tp
    yield (
        ranks % (ep * etp) != 0,
        "ep x etp divides shard x cp x tp",
        f"ep {ep} x etp {etp}, shard x cp x tp = {ranks}",
        f"{EP} {nearest_divisors(max(1, ranks // etp), ep)}",
    )
    deepep = settings.text("parallelism.expert_parallel_comm_backend") == "deepep"
    yield deepep and etp > 1, "DeepEP does not split experts", f"etp {etp}", f"{ETP} 1"


def _batch(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    dp, local = settings.integer(REPLICATE) * max(1, shard_degree(settings, num_gpus)), settings.integer(LOCAL_BATCH)
    batch = global_batch(settings, dp)
    yield (
        batch % (local * dp) != 0,
        "the global batch is a multiple of the local batch x dp",
        f"global batch {batch}, local batch {local} x dp {dp} = {local * dp}",
        f"{GLOBAL_BATCH} {nearest_multiples(local * dp, batch)}",
    )


def _pipeline(settings: Settings, model: ModelSpec) -> Iterator[Rule]:
    pp, local, micro = settings.integer(PP), settings.integer(LOCAL_BATCH), settings.integer(MICRO_BATCH)
    name = settings.text("model.name")
    yield name in flavor_table().without_pipeline, f"{name} has no pipeline", f"pp {pp}", f"{PP} 1"
    yield (
        local % micro != 0,
        "micro-batches of the pipeline divide the local batch",
        f"local batch {local}, micro-batch {micro}",
        f"{MICRO_BATCH} {nearest_divisors(local, micro)}",
    )
    chunks, schedule, layers = chunks_of(settings, model), settings.text(SCHEDULE), model.num_layers
    single, ends = schedule in SINGLE_STAGE, end_weights(settings)
    stages = pp * chunks
    if settings.has(PARTS):
        stages = len(settings.words(PARTS))
    elif settings.has(PER_STAGE):
        stages = ceil((layers + sum(ends)) / settings.integer(PER_STAGE))
    yield (
        stages % pp != 0,
        "the stages are a multiple of pp",
        f"{stages} stages, pp {pp}",
        f"{nearest_multiples(pp, stages)} stages",
    )
    yield (
        single and chunks != 1,
        f"{schedule} has one stage a rank",
        f"{chunks} stages a rank",
        f"{SCHEDULE} Interleaved1F1B",
    )
    yield (
        not single and chunks < 2,
        f"{schedule} has two stages a rank or more",
        f"{chunks} stage a rank",
        f"{SCHEDULE} 1F1B",
    )
    yield (
        schedule in V_SHAPED and chunks != 2,
        f"{schedule} has two stages a rank",
        f"{chunks} stages a rank",
        f"{SCHEDULE} Interleaved1F1B",
    )
    share = (layers + sum(ends)) // stages
    yield (
        share < 1,
        "each stage has a layer",
        f"{layers} layers, {stages} stages",
        f"{PP} {max(1, (layers + sum(ends)) // chunks)}",
    )
    yield (
        share >= 1 and max(ends) > share,
        "the ends count no more than a stage",
        f"{ends}, {share} layers a stage",
        "less for the ends",
    )
    parts = settings.words(PARTS)
    listed = sum(part.count("layers.") for part in parts)
    yield bool(parts) and listed != layers, "the parts have all layers", f"{listed} of {layers}", PARTS


def _features(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    asynchronous = settings.on("parallelism.enable_async_tensor_parallel") and settings.integer(TP) > 1
    yield (
        asynchronous and not compiles_model(settings),
        "async TP needs a compiled model",
        "compile.enable false",
        "compile.enable true",
    )
    recipe = settings.text("quantize.linear.float8.recipe_name")
    gathers = settings.on("quantize.linear.float8.enable_fsdp_float8_all_gather")
    yield (
        bool(recipe) and gathers,
        "an FP8 recipe excludes the FP8 all-gather",
        recipe,
        "drop quantize.linear.float8.recipe_name",
    )
    grouped = any("grouped_mm.float8" in name for name in settings.words("model.converters"))
    yield grouped and settings.integer(PP) > 1, "FP8 experts have no pipeline", f"pp {settings.integer(PP)}", f"{PP} 1"
    yield (
        grouped and settings.integer(CP) > 1,
        "FP8 experts have no context parallelism",
        f"cp {settings.integer(CP)}",
        f"{CP} 1",
    )
    mx = [name for name in settings.words("model.converters") if "mx" in name.split(".")]
    yield bool(mx), "MX formats need newer GPUs than Hopper", " ".join(mx), "quantize.linear.float8"
    overlap = settings.text(SCHEDULE) == "DualPipeV" and settings.on(
        "parallelism.pipeline_parallel_expert_parallel_overlap"
    )
    both = settings.integer(PP) > 1 and settings.integer(EP) > 1
    mode = settings.text("activation_checkpoint.mode")
    yield (
        overlap and both and mode != "none",
        "DualPipeV's overlap excludes recomputation",
        mode,
        "activation_checkpoint.mode none",
    )
    replicate = settings.integer(REPLICATE)
    plain = replicate > 1 and shard_degree(settings, num_gpus) * settings.integer(CP) == 1
    yield plain and replicate != num_gpus, "DDP stands alone", f"{REPLICATE} {replicate}, {num_gpus} GPUs", f"{SHARD} 2"
    ulp = uses_float8(settings) and settings.text("training.mixed_precision_param") == "float32"
    yield ulp, "FP8 products start from BF16 parameters", "training.mixed_precision_param float32", "bfloat16"
