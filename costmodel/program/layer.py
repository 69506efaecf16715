"""Builds the program of one decoder layer under one strategy."""

from __future__ import annotations

from functools import lru_cache

from meshwright.costmodel.formulas.parameters import norm_parameters
from meshwright.costmodel.model import DenseFfnSpec, LayerSpec
from meshwright.costmodel.program.attention import AttentionBlock
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.dense_ffn import DenseFfnBlock, DenseShape
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
    ffn = FeedForwardHalf(builder, layer)
    attention.add_forward()
    ffn.add_forward()
    ffn.add_backward()
    attention.add_backward()
    builder.add_weights(dense=norm_parameters(setting.hidden, layer.num_norms, layer.norm_bias))
    return builder.finish(OUTPUT)


class FeedForwardHalf:
    """Norm, dense or MoE block, residual; a layer of more than two norms has one behind the block too."""

    def __init__(self, builder: ProgramBuilder, layer: LayerSpec) -> None:
        self.builder = builder
        self.has_post_norm = layer.num_norms > 2
        self.block = _block(builder, layer)

    def add_forward(self) -> None:
        """Append the forward operators."""
        b = self.builder
        elements = b.setting.tokens * b.setting.hidden
        b.module = "ffn"
        b.tensor("ln2_out", elements)
        b.elementwise("norm2", MemoryKernel.NORM, ("ln2_in",), ("ln2_out",))
        self.block.add_forward()
        b.module = "ffn"
        outputs = self.block.outputs
        branches = (b.post_norm(outputs[0]), *outputs[1:]) if self.has_post_norm else outputs
        b.tensor(OUTPUT, elements)
        b.elementwise("residual2", MemoryKernel.RESIDUAL, ("ln2_in", *branches), (OUTPUT,))

    def add_backward(self) -> None:
        """Append the backward operators, from the gradient of the layer's output to that of ln2_in."""
        b, gradient = self.builder, f"grad:{OUTPUT}"
        b.module = "ffn"
        branch = b.post_norm_backward("ffn_out", gradient) if self.has_post_norm else gradient
        self.block.add_backward(branch, "ln2_out")
        b.module = "ffn"
        reads = ("ln2_in", "grad:ln2_out", gradient)
        b.elementwise_backward("norm2.backward", MemoryKernel.NORM, reads, ("grad:ln2_in",))


def _block(builder: ProgramBuilder, layer: LayerSpec) -> DenseFfnBlock | MoeFfnBlock:
    ffn = layer.ffn
    if not isinstance(ffn, DenseFfnSpec):
        return MoeFfnBlock(builder, ffn)
    split = builder.setting.strategy.ffn_tp
    shape = DenseShape(intermediate=ffn.intermediate, gated=ffn.gated, bias=ffn.bias, split=split)
    return DenseFfnBlock(builder, shape, prefix="", output="ffn_out")
