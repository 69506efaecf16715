"""Token embedding: look-up in a vocabulary split over tp, learned positions, and the gradient of both tables."""

from __future__ import annotations

from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.program.builder import ProgramBuilder
from meshwright.costmodel.program.operators import MemoryKernel, MemoryWork, Pass
from meshwright.costmodel.program.region import TensorRegion
from meshwright.costmodel.program.split import share

WEIGHT_BYTES = 2
FP32_BYTES = 4


def vocabulary_share(model: ModelSpec, tp: int) -> int:
    """Rows of the embedding, columns of the head, on one tensor-parallel rank: the vocabulary padded to whole rows."""
    return share(model.vocab, tp)


class EmbeddingBlock:
    """Looks tokens up; writes `output`, the residual stream.

    Each tensor-parallel rank looks up all tokens of the group in its part of the vocabulary, and the parts are summed
    by a reduce-scatter (all-reduce without sequence parallelism). Positions are added to a rank's own tokens.
    Token ids (8 bytes a token) are left out.
    """

    def __init__(self, builder: ProgramBuilder, model: ModelSpec, *, prefix: str = "", output: str = "hidden") -> None:
        self.builder = builder
        self.model = model
        self.prefix = prefix
        self.output = output
        self.tokens = builder.setting.tokens
        self.gathered_tokens = builder.setting.gathered_tokens
        self.tp = builder.setting.strategy.tp
        self.region = TensorRegion(builder, self.tp)
        self.rows = vocabulary_share(model, self.tp)

    @property
    def _summed(self) -> str:
        return f"{self.prefix}embedded" if self.model.learned_positions else self.output

    @property
    def _looked_up(self) -> str:
        return f"{self.prefix}embedding_partial" if self.tp > 1 else self._summed

    def add_weights(self) -> None:
        """Count this rank's rows of the table, and the positions, which every rank holds."""
        hidden = self.builder.setting.hidden
        self.builder.add_weights(dense=(self.rows + self.model.learned_positions) * hidden)

    def add_forward(self) -> None:
        """Append the look-up, the sum over tp and the positions."""
        b, hidden = self.builder, self.builder.setting.hidden
        b.module = "embedding"
        b.tensor(self._looked_up, self.gathered_tokens * hidden)
        written = b.bytes_of(self._looked_up)
        work = MemoryWork(kernel=MemoryKernel.PERMUTE, read_bytes=written / self.tp, write_bytes=written)
        b.forward(f"{self.prefix}embedding", work, (), (self._looked_up,))
        self.region.leave(self._looked_up, self._summed, self.tokens * hidden)
        if self.model.learned_positions:
            b.tensor(self.output, self.tokens * hidden)
            b.elementwise(f"{self.prefix}positions", MemoryKernel.RESIDUAL, (self._summed,), (self.output,))

    def add_backward(self) -> None:
        """Append the gradients of the tables, from the gradient of the output."""
        b, gradient = self.builder, f"grad:{self.output}"
        b.module = "embedding"
        if self.model.learned_positions:
            self._accumulate("positions.wgrad", gradient, self.tokens, self.model.learned_positions)
        gradient = self.region.enter_backward(gradient, self._looked_up, f"{self.prefix}embedding")
        self._accumulate("embedding.wgrad", gradient, self.gathered_tokens / self.tp, self.rows)

    def _accumulate(self, name: str, gradient: str, touched_rows: float, table_rows: int) -> None:
        """A dense 16-bit gradient is zeroed, its touched rows are added to, then it is added to the buffer.

        This is what PyTorch's embedding does: its gradient is as large as the table, however few tokens there are.
        """
        b, hidden = self.builder, self.builder.setting.hidden
        buffer_bytes = FP32_BYTES if b.setting.fp32_gradients else WEIGHT_BYTES
        touched, table = touched_rows * hidden * WEIGHT_BYTES, table_rows * hidden
        work = MemoryWork(
            kernel=MemoryKernel.PERMUTE,
            read_bytes=2 * touched + table * (WEIGHT_BYTES + buffer_bytes),
            write_bytes=touched + table * (WEIGHT_BYTES + buffer_bytes),
            num_kernels=3,
        )
        b.backward(f"{self.prefix}{name}", work, (gradient,), (), phase=Pass.WGRAD)
