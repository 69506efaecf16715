"""Megatron-LM's rules on pipeline stages: how layers and micro-batches divide among them."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.planner.foreign.megatron.configuration import global_batch, model_parallel_size
from meshwright.planner.foreign.megatron.stages import counted_layers, layout, virtual_stages
from meshwright.planner.foreign.settings import Settings
from meshwright.planner.foreign.violation import nearest_divisors, nearest_multiples

Rule = tuple[bool, str, str, str]
PP = "--pipeline-model-parallel-size"
FIRST, LAST = "decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"
PER_CHUNK = "num_layers_per_virtual_pipeline_stage"
CHUNKS = "num_virtual_stages_per_pipeline_rank"
LAYOUT = "pipeline_model_parallel_layout"
ENDS = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")


def stage_rules(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    """The rules of the split that the arguments ask for, and of the interleaved schedule."""
    given = [settings.written(name) for name in (PER_CHUNK, CHUNKS, LAYOUT) if settings.has(name)]
    yield (
        len(given) > 1,
        "virtual stages are given in one way",
        " and ".join(given),
        f"keep {given[-1] if given else ''}",
    )
    uneven = settings.has(FIRST) or settings.has(LAST)
    ends = [settings.written(end) for end in ENDS if settings.on(end)]
    yield (
        uneven and bool(ends),
        "either stages of given length or ends that count as layers",
        " ".join(ends),
        "drop one of them",
    )
    if settings.has(LAYOUT):
        yield from _layout_rules(settings)
    elif uneven:
        yield from _uneven_rules(settings)
    else:
        yield from _even_rules(settings)
    if virtual_stages(settings) > 1:
        yield from _interleaved_rules(settings, num_gpus)


def _even_rules(settings: Settings) -> Iterator[Rule]:
    pp, counted = settings.integer("pipeline_model_parallel_size"), counted_layers(settings)
    ends = counted - settings.integer("num_layers")
    words = f"{counted - ends} layers" + (f" + {ends} for the ends" if ends else "")
    yield (
        counted % pp != 0,
        "pp divides the layers",
        f"{words}, pp {pp}",
        f"{PP} {nearest_divisors(counted, pp)}, or --decoder-first-pipeline-num-layers and -last-",
    )
    each = counted // pp
    for name in (PER_CHUNK, CHUNKS):
        if settings.has(name) and counted % pp == 0:
            size = settings.integer(name)
            what = "layers a virtual stage" if name == PER_CHUNK else "virtual stages"
            yield (
                each % size != 0,
                f"the {what} divide the layers of a stage",
                f"{each} layers a stage, {size} {what}",
                f"{settings.written(name)} {nearest_divisors(each, size)}",
            )


def _uneven_rules(settings: Settings) -> Iterator[Rule]:
    pp, layers = settings.integer("pipeline_model_parallel_size"), settings.integer("num_layers")
    ends = [settings.integer(name) for name in (FIRST, LAST) if settings.has(name)]
    left, stages = layers - sum(ends), pp - len(ends)
    divides = stages > 0 and left > 0 and left % stages == 0
    yield (
        not (divides or left == stages == 0),
        "the stages between the given ones share the other layers evenly",
        f"{layers} layers, {' + '.join(map(str, ends))} on given stages, {left} on the other {stages}",
        f"--num-layers {sum(ends) + max(1, round(left / max(1, stages))) * stages}, or other ends",
    )
    yield (
        settings.has(PER_CHUNK),
        "stages of given length take a number of virtual stages",
        f"{settings.written(PER_CHUNK)} {settings.text(PER_CHUNK)}",
        settings.written(CHUNKS),
    )
    chunks = virtual_stages(settings)
    for size in (*ends, *((left // stages,) if divides else ())):
        yield (
            size % chunks != 0,
            "virtual stages divide the layers of each stage",
            f"{size} layers, {chunks} virtual stages",
            f"{settings.written(CHUNKS)} {nearest_divisors(size, chunks)}",
        )


def _layout_rules(settings: Settings) -> Iterator[Rule]:
    pp, stages = settings.integer("pipeline_model_parallel_size"), layout(settings)
    written = settings.written(LAYOUT)
    yield (
        len(stages) % pp != 0,
        "a layout has a multiple of pp stages",
        f"{len(stages)} stages, pp {pp}",
        f"{nearest_multiples(pp, len(stages))} stages",
    )
    parts = "".join(stages)
    layers, depth = settings.integer("num_layers"), settings.integer("mtp_num_layers")
    yield parts.count("t") != layers, "a layout has all layers", f"{parts.count('t')} of {layers}", written
    yield parts.count("m") != depth, "a layout has all prediction modules", f"{parts.count('m')} of {depth}", written
    yield parts.count("E") != 1 or stages[0][:1] != "E", "a layout begins with the embedding", stages[0], written
    yield parts.count("L") != 1 or stages[-1][-1:] != "L", "a layout ends with the loss", stages[-1], written
    other = [settings.written(name) for name in (FIRST, LAST) if settings.has(name)]
    other += [settings.written(end) for end in ENDS if settings.on(end)]
    yield bool(other), "a layout stands alone", " ".join(other), f"drop {' '.join(other)}"


def _interleaved_rules(settings: Settings, num_gpus: int) -> Iterator[Rule]:
    pp, chunks = settings.integer("pipeline_model_parallel_size"), virtual_stages(settings)
    least = 2 if settings.on("overlap_p2p_comm") else 3
    words = "" if least == 2 else " and without overlap of messages three"
    yield (
        pp < least,
        f"virtual stages need a pipeline of two stages{words}",
        f"{chunks} virtual stages, pp {pp}",
        f"{PP} {least}",
    )
    replica, micro = model_parallel_size(settings), settings.integer("micro_batch_size")
    if num_gpus % replica:
        return
    dp = num_gpus // replica
    count = global_batch(settings, dp) // (micro * dp)
    group = settings.integer("microbatch_group_size_per_virtual_pipeline_stage", pp)
    rest = count % group
    yield (
        not pp <= group <= count or 0 < rest < pp,
        "an interleaved pipeline takes micro-batches in groups of pp",
        f"{count} micro-batches of a replica, groups of {group}, pp {pp}",
        f"--global-batch-size {nearest_multiples(group * micro * dp, count * micro * dp)}",
    )
