"""The programs of a model's two ends: embedding, and head with the multi-token-prediction modules."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.embedding import EmbeddingBlock, vocabulary_share
from meshwright.costmodel.program.head import HeadBlock
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.mtp import MtpModule
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting


@lru_cache(maxsize=4096)
def build_embedding(model: ModelSpec, setting: ProgramSetting) -> LayerProgram:
    """The embedding of one micro-batch on one rank: from token ids to `hidden`, the first layer's input.

    Assumed: the vocabulary is split over tp (not over sp, cp), padded to whole rows; positions are not split. The
    backward pass has weight gradients alone, and keeps nothing but token ids, which are left out.
    """
    builder = ProgramBuilder(setting)
    embedding = EmbeddingBlock(builder, model)
    embedding.add_forward()
    embedding.add_weights()
    embedding.add_backward()
    return builder.finish("hidden")


@lru_cache(maxsize=4096)
def build_head(
    model: ModelSpec, setting: ProgramSetting, *, shares_embedding: bool = False, fused_cross_entropy: bool = True
) -> LayerProgram:
    """Final norm, logits and loss of one micro-batch on one rank, then the multi-token-prediction modules.

    `shares_embedding`: the embedding is on the same rank (one pipeline stage), so that a tied head, and the look-ups
    of prediction modules, need no copy of it here. Tied without it, first and last stage hold one copy each, and
    their gradients have to be summed between the two.
    Assumed: the vocabulary is split over tp, padded to whole columns; norm, matrix and loss are BF16 and FP32 even
    where layers are FP8; every token is predicted. Prediction modules stand behind the head on the same rank.
    """
    builder = ProgramBuilder(msgspec.structs.replace(setting, precision=Precision.BF16))
    head = HeadBlock(builder, model, fused=fused_cross_entropy)
    modules = _prediction_modules(builder, model, setting, fused_cross_entropy)
    head.add_forward()
    _count_matrices(builder, model, head, shares_embedding=shares_embedding)
    for module in modules:
        module.add_forward()
    for module in reversed(modules):
        module.add_backward(is_last=module is modules[-1])
    head.add_backward(accumulates=bool(modules))
    return builder.finish("loss_statistics")


def _prediction_modules(
    builder: ProgramBuilder, model: ModelSpec, setting: ProgramSetting, fused: bool
) -> list[MtpModule]:
    modules: list[MtpModule] = []
    source = "hidden"
    builder.tensor(source, setting.tokens * setting.hidden)
    for depth in range(1, model.mtp_depth + 1):
        layer = build_layer(model.layers[-1], setting)
        modules.append(MtpModule(builder, model, layer, depth=depth, source=source, fused=fused))
        source = modules[-1].output
    return modules


def _count_matrices(builder: ProgramBuilder, model: ModelSpec, head: HeadBlock, *, shares_embedding: bool) -> None:
    """The head's matrix unless it is the embedding at hand, and a copy of the embedding for prediction modules."""
    if model.tied_embeddings and shares_embedding:
        builder.add_weights(dense=head.biases)
    else:
        head.add_matrix()
    if model.mtp_depth and not model.tied_embeddings and not shares_embedding:
        rows = vocabulary_share(model, builder.setting.strategy.tp)
        builder.add_weights(dense=rows * builder.setting.hidden)
