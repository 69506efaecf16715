"""Collects the operators and tensors of a layer program; knows how one linear layer becomes GEMMs."""

from __future__ import annotations

from meshwright.costmodel.program.compression import COMPRESSED_AXES, Step, compress
from meshwright.costmodel.program.linear import LinearLayer
from meshwright.costmodel.program.operators import (
    GRADIENT,
    Axis,
    Collective,
    CollectiveWork,
    CustomKernel,
    CustomWork,
    Group,
    MemoryKernel,
    MemoryWork,
    Operator,
    Pass,
    Precision,
    Tensor,
    Work,
)
from meshwright.costmodel.program.program import LayerProgram, Weights
from meshwright.costmodel.program.setting import ProgramSetting


class ProgramBuilder:
    """A growing layer program.

    Tensors are registered with their number of elements; `grad:x` is the gradient of tensor x and takes its size.
    Operators are appended in program order. `module` names the part of the layer that is being built.
    """

    def __init__(self, setting: ProgramSetting) -> None:
        self.setting = setting
        self.module = ""
        self.weights = Weights()
        self._forward: list[Operator] = []
        self._backward: list[Operator] = []
        self._tensors: dict[str, Tensor] = {}
        self._auxiliary: dict[str, Tensor] = {}

    def tensor(self, name: str, elements: float) -> str:
        """Register an activation of `elements` values in the activation format; returns its name."""
        self._tensors[name] = Tensor(name=name, num_bytes=elements * self.setting.activation_bytes)
        return name

    def auxiliary(self, name: str, num_bytes: float) -> str:
        """Register a small tensor that closed forms leave out (statistics, maps, casts); returns its name."""
        self._auxiliary[name] = Tensor(name=name, num_bytes=num_bytes)
        return name

    def elements_of(self, name: str) -> float:
        """Values in a registered activation."""
        return self._tensors[name].num_bytes / self.setting.activation_bytes

    def bytes_of(self, name: str) -> float:
        """Bytes of a registered tensor, or of the tensor that a gradient belongs to."""
        base = name.removeprefix(GRADIENT)
        return (self._tensors.get(base) or self._auxiliary[base]).num_bytes

    def forward(
        self, name: str, work: Work, reads: tuple[str, ...], writes: tuple[str, ...], axis: Axis | None = None
    ) -> None:
        """Append a forward operator; a collective that travels in FP8 between its casts."""
        for step in self._steps(name, work, reads, writes, axis):
            self._forward.append(self._operator(step.name, Pass.FORWARD, step.work, step.reads, step.writes, step.axis))

    def backward(
        self,
        name: str,
        work: Work,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        axis: Axis | None = None,
        phase: Pass = Pass.DGRAD,
    ) -> None:
        """Append a backward operator, dgrad unless said otherwise; a collective in FP8 goes between its casts."""
        for step in self._steps(name, work, reads, writes, axis):
            self._backward.append(self._operator(step.name, phase, step.work, step.reads, step.writes, step.axis))

    def _steps(
        self, name: str, work: Work, reads: tuple[str, ...], writes: tuple[str, ...], axis: Axis | None
    ) -> tuple[Step, ...]:
        compressed = self.setting.strategy.communication is Precision.FP8 and axis in COMPRESSED_AXES
        if compressed and isinstance(work, CollectiveWork) and work.group.size > 1:
            wire = compress(name, work, reads, writes, axis)
            for tensor, num_bytes in wire.tensors:
                self.auxiliary(tensor, num_bytes)
            return wire.steps
        return (Step(name=name, work=work, reads=reads, writes=writes, axis=axis),)

    def _operator(
        self, name: str, phase: Pass, work: Work, reads: tuple[str, ...], writes: tuple[str, ...], axis: Axis | None
    ) -> Operator:
        return Operator(name=name, module=self.module, phase=phase, work=work, reads=reads, writes=writes, axis=axis)

    def memory_work(
        self,
        kernel: MemoryKernel,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        num_kernels: int = 1,
        *,
        backward: bool = False,
        custom: CustomKernel | None = None,
    ) -> MemoryWork:
        """A memory-bound kernel that reads and writes the named tensors once, as the custom one does."""
        read_bytes = sum(self.bytes_of(name) for name in reads)
        write_bytes = sum(self.bytes_of(name) for name in writes)
        return MemoryWork(
            kernel=kernel,
            read_bytes=read_bytes,
            write_bytes=write_bytes,
            num_kernels=num_kernels,
            backward=backward,
            custom=None if custom is None else CustomWork(kernel=custom, num_bytes=read_bytes + write_bytes),
        )

    def elementwise(
        self,
        name: str,
        kernel: MemoryKernel,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        num_kernels: int = 1,
        *,
        custom: CustomKernel | None = None,
    ) -> None:
        """Append a memory-bound forward operator over whole tensors."""
        self.forward(name, self.memory_work(kernel, reads, writes, num_kernels, custom=custom), reads, writes)

    def elementwise_backward(
        self,
        name: str,
        kernel: MemoryKernel,
        reads: tuple[str, ...],
        writes: tuple[str, ...],
        num_kernels: int = 1,
        *,
        custom: CustomKernel | None = None,
    ) -> None:
        """Append a memory-bound backward operator over whole tensors."""
        work = self.memory_work(kernel, reads, writes, num_kernels, backward=True, custom=custom)
        self.backward(name, work, reads, writes)

    def collective(
        self, name: str, axis: Axis, work: CollectiveWork, reads: tuple[str, ...], writes: tuple[str, ...]
    ) -> None:
        """Append a forward collective."""
        self.forward(name, work, reads, writes, axis)

    def collective_backward(
        self, name: str, axis: Axis, work: CollectiveWork, reads: tuple[str, ...], writes: tuple[str, ...]
    ) -> None:
        """Append a backward collective."""
        self.backward(name, work, reads, writes, axis)

    def all_gather(self, group: Group, gathered: str) -> CollectiveWork:
        """An all-gather whose output is the named tensor."""
        return CollectiveWork(collective=Collective.ALL_GATHER, num_bytes=self.bytes_of(gathered), group=group)

    def reduce_scatter(self, group: Group, partial: str) -> CollectiveWork:
        """A reduce-scatter whose input is the named tensor."""
        return CollectiveWork(collective=Collective.REDUCE_SCATTER, num_bytes=self.bytes_of(partial), group=group)

    def all_reduce(self, group: Group, partial: str) -> CollectiveWork:
        """An all-reduce of the named tensor."""
        return CollectiveWork(collective=Collective.ALL_REDUCE, num_bytes=self.bytes_of(partial), group=group)

    def all_to_all(self, group: Group, sent: str) -> CollectiveWork:
        """An all-to-all that sends the named tensor."""
        return CollectiveWork(collective=Collective.ALL_TO_ALL, num_bytes=self.bytes_of(sent), group=group)

    def linear(self, layer: LinearLayer, source: str, *targets: str) -> None:
        """Append y = x W: one GEMM, in FP8 after a cast of x that is kept (1 byte) for wgrad instead of x."""
        operand = self.cast_input(layer.name, layer.tokens * layer.width_in, source)
        self.forward(layer.name, layer.forward_work(self.setting.precision), (operand,), targets)

    def linear_backward(self, layer: LinearLayer, source: str, gradients: tuple[str, ...], target: str) -> None:
        """Append dgrad (dx = dy W^T) and wgrad (dW = x^T dy) of a linear layer whose output gradients are given."""
        setting, name = self.setting, layer.name
        gradients = self.cast_gradient(name, layer.tokens * layer.width_out, gradients)
        self.backward(f"{name}.dgrad", layer.dgrad_work(setting.precision), gradients, (target,))
        work = layer.wgrad_work(setting.precision, fp32_gradients=setting.fp32_gradients)
        self.backward(f"{name}.wgrad", work, (self.operand(source), *gradients), (), phase=Pass.WGRAD)

    def post_norm(self, branch: str) -> str:
        """Append a norm between a block's output and its residual; returns the name of the result."""
        normed = self.tensor(f"{branch}_normed", self.elements_of(branch))
        self.elementwise(f"post_norm.{branch}", MemoryKernel.NORM, (branch,), (normed,))
        return normed

    def post_norm_backward(self, branch: str, gradient: str) -> str:
        """Append that norm's backward; returns the name of the branch's gradient."""
        target = GRADIENT + branch
        reads = (branch, gradient)
        self.elementwise_backward(f"post_norm.{branch}.backward", MemoryKernel.NORM, reads, (target,))
        return target

    def operand(self, source: str) -> str:
        """The name under which a linear layer's input is kept for wgrad: an FP8 copy where GEMMs run in FP8."""
        return f"{source}.fp8" if self.setting.precision is Precision.FP8 else source

    def cast_input(self, name: str, elements: float, source: str) -> str:
        """In FP8: append the cast of a linear layer's input, rows and columns (transposed for wgrad)."""
        if self.setting.precision is not Precision.FP8:
            return source
        target = self.operand(source)
        if target not in self._auxiliary:
            self.auxiliary(target, elements)
            work = MemoryWork(kernel=MemoryKernel.CAST, read_bytes=2 * elements, write_bytes=2 * elements)
            self.forward(f"{name}.cast", work, (source,), (target,))
        return target

    def cast_gradient(self, name: str, elements: float, gradients: tuple[str, ...]) -> tuple[str, ...]:
        """In FP8: append the cast of an output gradient, rows for dgrad and columns for wgrad."""
        if self.setting.precision is not Precision.FP8:
            return gradients
        target = self.auxiliary(f"{name}.dy.fp8", 2 * elements)
        work = MemoryWork(kernel=MemoryKernel.CAST, read_bytes=2 * elements, write_bytes=2 * elements)
        self.backward(f"{name}.dy.cast", work, gradients, (target,))
        return (target,)

    def add_weights(self, *, dense: float = 0.0, ffn: float = 0.0, expert: float = 0.0) -> None:
        """Count parameters held by this rank."""
        self.weights = self.weights + Weights(dense=dense, ffn=ffn, expert=expert)

    def include_forward(self, program: LayerProgram) -> None:
        """Append another program's forward operators, its tensors and its weights."""
        self._forward.extend(program.forward)
        self._tensors.update((tensor.name, tensor) for tensor in program.tensors)
        self._auxiliary.update((tensor.name, tensor) for tensor in program.auxiliary)
        self.weights = self.weights + program.weights

    def include_backward(self, program: LayerProgram) -> None:
        """Append another program's backward operators."""
        self._backward.extend(program.backward)

    def finish(self, output: str) -> LayerProgram:
        """The program, with tensors in the order in which they were registered."""
        return LayerProgram(
            forward=tuple(self._forward),
            backward=tuple(self._backward),
            tensors=tuple(self._tensors.values()),
            auxiliary=tuple(self._auxiliary.values()),
            weights=self.weights,
            output=output,
        )
