"""Builds the program of one decoder layer under one strategy."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.model import DenseFfnSpec, LayerSpec
from meshwright.costmodel.program.attention import AttentionBlock
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.dense_ffn import DenseFfnBlock
from meshwright.costmodel.program.moe_ffn import MoeFfnBlock
from meshwright.costmodel.program.operators import MemoryKernel
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting

OUTPUT = "next_hidden"


@lru_cache(maxsize=65536)
def build_layer(layer: LayerSpec, setting: ProgramSetting) -> LayerProgram:
    """The operators of `layer`, forward and backward, for one micro-batch on one rank."""
    builder = ProgramBuilder(setting)
    attention = AttentionBlock(builder, layer)
    attention.add_forward()
    ffn = _FeedForward(builder, layer)
    ffn.add_forward()
    ffn.add_backward()
    attention.add_backward()
    extra_norms = (layer.num_norms - 2) * setting.hidden
    builder.add_weights(dense=extra_norms)
    return builder.finish(OUTPUT)


class _FeedForward:
    """Norm, dense or MoE block, residual; and their backward."""

    def __init__(self, builder: ProgramBuilder, layer: LayerSpec) -> None:
        self.builder = builder
        self.layer = layer
        self.block = _block(builder, layer)

    def add_forward(self) -> None:
        b = self.builder
        elements = b.setting.tokens * b.setting.hidden
        b.module = "ffn"
        b.tensor("ln2_out", elements)
        b.elementwise("norm2", MemoryKernel.NORM, ("ln2_in",), ("ln2_out",))
        b.add_weights(dense=b.setting.hidden * (2 if self.layer.norm_bias else 1))
        self.block.add_forward()
        b.module = "ffn"
        b.tensor(OUTPUT, elements)
        b.elementwise("residual2", MemoryKernel.RESIDUAL, self._residual_inputs, (OUTPUT,))

    @property
    def _residual_inputs(self) -> tuple[str, ...]:
        shared = isinstance(self.block, MoeFfnBlock) and self.block.shared is not None
        return ("ln2_in", "ffn_out", "shared_out") if shared else ("ln2_in", "ffn_out")

    def add_backward(self) -> None:
        b = self.builder
        b.module = "ffn"
        self.block.add_backward(f"grad:{OUTPUT}", "grad:ln2_out")
        b.module = "ffn"
        reads = ("ln2_in", "grad:ln2_out", f"grad:{OUTPUT}")
        b.elementwise_backward("norm2.backward", MemoryKernel.NORM, reads, ("grad:ln2_in",))


def _block(builder: ProgramBuilder, layer: LayerSpec) -> DenseFfnBlock | MoeFfnBlock:
    if isinstance(layer.ffn, DenseFfnSpec):
        return DenseFfnBlock(
            builder,
            intermediate=layer.ffn.intermediate,
            gated=layer.ffn.gated,
            split=builder.setting.strategy.ffn_tp,
            prefix="",
            output="ffn_out",
        )
    return MoeFfnBlock(builder, layer)
