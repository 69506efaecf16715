"""Embedding, head and loss by their programs, against autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from meshwright.costmodel.model import AttentionSpec, DenseFfnSpec, LayerSpec, ModelSpec
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.program.ends import build_embedding, build_head
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens
from meshwright.executor.model.part import Part, PartDescription
from meshwright.executor.model.stage import Stage

TOKENS, HIDDEN, VOCAB = 12, 8, 20
ATTENTION = AttentionSpec(num_heads=2, num_kv_heads=2, head_dim=4, value_head_dim=4)
LAYER = LayerSpec(attention=ATTENTION, ffn=DenseFfnSpec(intermediate=16), norm_bias=True)
MODEL = ModelSpec(name="tiny", hidden=HIDDEN, vocab=VOCAB, layers=(LAYER,), head_bias=True)
SETTING = ProgramSetting(hidden=HIDDEN, micro_batch=2, seq_len=6, strategy=LayerStrategy(), gpus_per_node=8)
CONTEXT = LayerContext(layer=LAYER, setting=SETTING, device=torch.device("cpu"), dtype=torch.float64)


@pytest.mark.parametrize("fused", [True, False])
def test_loss_and_gradients_of_both_ends(fused: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"embedding": (VOCAB, HIDDEN), "head": (VOCAB, HIDDEN), "head.bias": (VOCAB,)}
    shapes |= {"final_norm": (HIDDEN,), "final_norm.bias": (HIDDEN,)}
    weights = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    ids = torch.randint(VOCAB, (2, TOKENS), generator=generator)
    tokens = MicroBatchTokens(inputs_T=ids[0], labels_T=ids[1])

    parameters = Parameters(weights)
    programs = (build_embedding(MODEL, SETTING), build_head(MODEL, SETTING, fused_cross_entropy=fused))
    parts = [
        Part(
            PartDescription(title="end", program=program, context=CONTEXT, recompute=Recompute.NONE, order=None),
            parameters,
        )
        for program in programs
    ]
    stage = Stage(parts, is_first=True, is_last=True, token_weight=1.0 / TOKENS, routed=lambda *_: None)
    loss = stage.forward(0, None, tokens)
    assert stage.backward(0, None) is None

    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    hidden = F.embedding(ids[0], leaves["embedding"])
    normed = F.layer_norm(hidden, (HIDDEN,), leaves["final_norm"], leaves["final_norm.bias"], 1e-6)
    expected = F.cross_entropy(F.linear(normed, leaves["head"], leaves["head.bias"]), ids[1])
    expected.backward()
    torch.testing.assert_close(loss / TOKENS, expected.detach())
    for name, leaf in leaves.items():
        torch.testing.assert_close(parameters.gradients[name], leaf.grad)


def test_dgrad_and_wgrad_apart_are_both_together() -> None:
    program = build_head(MODEL, SETTING)
    description = PartDescription(title="head", program=program, context=CONTEXT, recompute=Recompute.NONE, order=None)
    passes = description.passes()
    apart = {one.operator.name for kind in (PassKind.DGRAD, PassKind.WGRAD) for one in passes[kind]}
    assert apart == {one.operator.name for one in passes[PassKind.BACKWARD]}
