"""How many layers each virtual pipeline stage has under Megatron-LM's arguments."""

from __future__ import annotations

import re

from meshwright.costmodel.errors import InputError
from meshwright.planner.foreign.settings import Settings

_REPEATED = (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)")
LAYOUT_SIGNS = frozenset("EtmL")


def virtual_stages(settings: Settings) -> int:
    """Virtual stages a device; where they do not divide, the number rounded down, at least 1."""
    pp = settings.integer("pipeline_model_parallel_size")
    if settings.has("pipeline_model_parallel_layout"):
        return max(1, len(layout(settings)) // pp)
    if settings.has("num_virtual_stages_per_pipeline_rank"):
        return settings.integer("num_virtual_stages_per_pipeline_rank")
    if settings.has("num_layers_per_virtual_pipeline_stage"):
        return max(1, counted_layers(settings) // pp // settings.integer("num_layers_per_virtual_pipeline_stage"))
    return 1


def counted_layers(settings: Settings) -> int:
    """Layers that are shared among stages: embedding and loss count as one each where the arguments say so."""
    ends = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
    return settings.integer("num_layers") + sum(settings.on(end) for end in ends)


def layers_per_stage(settings: Settings) -> tuple[int, ...]:
    """Layers of each virtual stage in model order; an `InputError` where the layers cannot be shared out so."""
    if settings.has("pipeline_model_parallel_layout"):
        return tuple(stage.count("t") for stage in layout(settings))
    pp, chunks = settings.integer("pipeline_model_parallel_size"), virtual_stages(settings)
    each = _layers_of_devices(settings, pp)
    counts = [each[stage % pp] // chunks for stage in range(pp * chunks)]
    if pp > 1 or chunks > 1:
        counts[0] -= settings.on("account_for_embedding_in_pipeline_split")
        counts[-1] -= settings.on("account_for_loss_in_pipeline_split")
    if sum(counts) != settings.integer("num_layers") or min(counts) < 0:
        problem = (
            f"{settings.integer('num_layers')} layers cannot be shared among {pp} stages of {chunks} virtual stages"
        )
        raise InputError(settings.where, "--pipeline-model-parallel-size", problem)
    return tuple(counts)


def _layers_of_devices(settings: Settings, pp: int) -> list[int]:
    """Layers of each device, rounded down where they do not divide."""
    first = settings.integer("decoder_first_pipeline_num_layers", 0)
    last = settings.integer("decoder_last_pipeline_num_layers", 0)
    left = pp - bool(first) - bool(last)
    counted = counted_layers(settings) if pp > 1 else settings.integer("num_layers")
    share = (counted - first - last) // left if left > 0 else 0
    return [first or share, *[share] * (pp - 2), last or share][:pp] if pp > 1 else [share]


def layout(settings: Settings) -> tuple[str, ...]:
    """The stages of `--pipeline-model-parallel-layout`, as E (embedding), t (layer), m (prediction), L (loss).

    Parts may repeat: Ettt|(tt|)*29,m|L has 32 stages.
    """
    text = settings.text("pipeline_model_parallel_layout").strip("'\"").replace(",", "").replace(" ", "")
    for pattern in _REPEATED:
        text = re.sub(pattern, lambda match: match[1] * int(match[2]), text)
    wrong = set(text) - LAYOUT_SIGNS - {"|"}
    if wrong:
        problem = f"{sorted(wrong)[0]!r} is no part of a layout; expected E, t, m, L, |, (...)*N"
        raise InputError(settings.where, "--pipeline-model-parallel-layout", problem)
    return tuple(text.split("|"))
