"""Tensor-parallel regions: what enters and leaves a pair of matrices whose inner width is split over ranks."""

from __future__ import annotations

from msgspec.structs import replace

from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.operators import GRADIENT, Axis, CollectiveWork, Precision


class TensorRegion:
    """Megatron's conjugate pairs around a column-split and a row-split matrix over `size` neighbouring ranks.

    Where tokens are split over the ranks too, the input is gathered and the output reduce-scattered; backward the
    mirror image (arXiv 2205.05198, section 4.2.2). Where every rank has all tokens, the input enters as it is and the
    output is all-reduced; backward the input's gradient is all-reduced instead (arXiv 1909.08053, section 3).
    """

    def __init__(self, builder: ProgramBuilder, size: int) -> None:
        strategy = builder.setting.strategy
        self.builder = builder
        self.size = size
        self.group = builder.setting.group(size)
        self.gathers = size > 1 and (strategy.sequence_parallel or strategy.tp == 1)

    def entered(self, source: str) -> str:
        """The name of `source` inside the region."""
        return f"{source}_ag" if self.gathers else source

    def enter(self, source: str, *, prefix: str = "", num_products: int = 1) -> str:
        """Gather `source` if tokens are split; returns its name inside, prefixed where another gather exists.

        `num_products` read it, which may each gather it.
        """
        if not self.gathers:
            return source
        b, target = self.builder, prefix + self.entered(source)
        b.tensor(target, b.elements_of(source) * self.size)
        work = self._travelling(b.all_gather(self.group, target), self._times(num_products))
        b.collective(f"all_gather.{prefix}{source}", Axis.TENSOR, work, (source,), (target,))
        return target

    def _times(self, num_products: int) -> int:
        return num_products if self.builder.setting.gathers_each_product else 1

    def _travelling(self, work: CollectiveWork, times: int) -> CollectiveWork:
        """A gather of values that may be quantized, as often as it happens."""
        setting = self.builder.setting
        share = 1.0 / setting.activation_bytes if setting.gathers_fp8 and setting.precision is Precision.FP8 else 1.0
        return replace(work, num_bytes=work.num_bytes * share * times)

    def leave(self, partial: str, output: str, tokens_elements: float) -> None:
        """Sum the ranks' `partial` outputs into `output`; nothing to do for one rank."""
        if self.size == 1:
            return
        b = self.builder
        b.tensor(output, tokens_elements)
        work = (b.reduce_scatter if self.gathers else b.all_reduce)(self.group, partial)
        b.collective(f"{work.collective}.{output}", Axis.TENSOR, work, (partial,), (output,))

    def enter_backward(self, gradient: str, partial: str, label: str) -> str:
        """Gather the output's gradient if tokens are split; returns the name inside."""
        if not self.gathers:
            return gradient
        b, target = self.builder, GRADIENT + partial
        work = self._travelling(b.all_gather(self.group, partial), 1)
        b.collective_backward(f"all_gather.grad_{label}", Axis.TENSOR, work, (gradient,), (target,))
        return target

    def inner_gradient(self, source: str, entered: str) -> str:
        """Where the dgrad of the column-split matrix writes: the gradient of `source` before it is summed."""
        if self.size == 1:
            return GRADIENT + source
        if self.gathers:
            return GRADIENT + entered
        return GRADIENT + self.builder.auxiliary(f"{source}_partial", self.builder.bytes_of(source))

    def leave_backward(self, gradient: str, source: str, label: str, *, num_products: int = 1) -> None:
        """Sum the ranks' `gradient` of the input into the gradient of `source`; nothing to do for one rank."""
        if self.size == 1:
            return
        b = self.builder
        work = (b.reduce_scatter if self.gathers else b.all_reduce)(self.group, gradient)
        work = replace(work, num_bytes=work.num_bytes * self._times(num_products))
        name = f"{work.collective}.{label}"
        b.collective_backward(name, Axis.TENSOR, work, (gradient,), (GRADIENT + source,))
