"""Products and attention of real models, at sizes that the grids do not have: tables are judged by them."""

from __future__ import annotations

from meshwright.costmodel.program.operators import GemmWork, GroupedGemmWork, Pass, Precision
from meshwright.costmodel.value import Value
from meshwright.executor.measure_hardware.entry import Entry
from meshwright.executor.measure_hardware.survey.attention import attention_pairs
from meshwright.executor.measure_hardware.survey.grouped import MOST_ROWS, MOST_WEIGHTS
from meshwright.hardware_profiles.measurements import Implementation, Purpose

TOKENS = (2048, 4096, 8192, 16384)
LONGEST_FLOPS = 1.2e13


class ModelShape(Value, frozen=True, kw_only=True):
    """Widths of a published model (its config.json). `ffn` 0: no dense layers; `experts` 0: no experts."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    dims: tuple[int, int]
    ffn: int = 0
    expert_ffn: int = 0
    experts: int = 0
    top_k: int = 1

    @property
    def qkv_width(self) -> int:
        """Columns of the matrix that makes queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.dims[0]


SHAPES = (
    ModelShape(name="Llama-3 8B", hidden=4096, heads=32, kv_heads=8, dims=(128, 128), ffn=14336),
    ModelShape(name="Llama-3 70B", hidden=8192, heads=64, kv_heads=8, dims=(128, 128), ffn=28672),
    ModelShape(
        name="Mixtral 8x7B",
        hidden=4096,
        heads=32,
        kv_heads=8,
        dims=(128, 128),
        expert_ffn=14336,
        experts=8,
        top_k=2,
    ),
    ModelShape(
        name="Qwen3-30B-A3B",
        hidden=2048,
        heads=32,
        kv_heads=4,
        dims=(128, 128),
        expert_ffn=768,
        experts=128,
        top_k=8,
    ),
    ModelShape(
        name="Qwen3-235B-A22B",
        hidden=4096,
        heads=64,
        kv_heads=4,
        dims=(128, 128),
        expert_ffn=1536,
        experts=128,
        top_k=8,
    ),
    ModelShape(
        name="DeepSeek-V3",
        hidden=7168,
        heads=128,
        kv_heads=128,
        dims=(192, 128),
        ffn=18432,
        expert_ffn=2048,
        experts=256,
        top_k=8,
    ),
    ModelShape(
        name="352B of arXiv 2505.11432",
        hidden=4096,
        heads=32,
        kv_heads=8,
        dims=(128, 128),
        expert_ffn=14336,
        experts=32,
        top_k=3,
    ),
)


def dense_candidates() -> tuple[Entry, ...]:
    """Every dense product of the models, tokens 2k to 16k, tensor parallel 1 to 8."""
    shapes = {
        (tokens, n, k)
        for model in SHAPES
        for tp in (1, 2, 4, 8)
        for n, k in _matrices(model, tp)
        for tokens in TOKENS
        if 2.0 * tokens * n * k <= LONGEST_FLOPS
    }
    works: list[GemmWork] = []
    for index, (tokens, n, k) in enumerate(sorted(shapes)):
        precision = Precision.FP8 if index % 4 == 3 and n % 16 == 0 and k % 16 == 0 else Precision.BF16
        works.append(GemmWork(m=tokens, n=n, k=k, precision=precision))
        works.append(GemmWork(m=tokens, n=k, k=n, direction=Pass.DGRAD, precision=precision))
        works.append(GemmWork(m=k, n=n, k=tokens, direction=Pass.WGRAD, precision=precision))
        works.append(GemmWork(m=k, n=n, k=tokens, direction=Pass.WGRAD, accumulates_fp32=True))
    return tuple(Entry(work=work, implementation=Implementation.CUBLAS, purpose=Purpose.CHECK) for work in works)


def _matrices(model: ModelShape, tp: int) -> tuple[tuple[int, int], ...]:
    """(n, k) of a layer's matrices on one of `tp` ranks."""
    attention = ((model.qkv_width // tp, model.hidden), (model.hidden, model.heads * model.dims[1] // tp))
    if not model.ffn:
        return attention
    return (*attention, (2 * model.ffn // tp, model.hidden), (model.hidden, model.ffn // tp))


def grouped_candidates() -> tuple[Entry, ...]:
    """Every grouped product of the models, tokens 2k to 16k a rank, expert parallel 1 to 8."""
    works: list[GroupedGemmWork] = []
    for model in SHAPES:
        for parallel in (1, 2, 4, 8) if model.experts else ():
            for tokens in TOKENS:
                works += _experts(model, parallel, tokens)
    entries = [Entry(work=w, implementation=Implementation.GROUPED_MM, purpose=Purpose.CHECK) for w in works]
    return tuple({entry.key: entry for entry in entries}.values())


def _experts(model: ModelShape, parallel: int, tokens: int) -> list[GroupedGemmWork]:
    groups, rows = model.experts // parallel, tokens * model.top_k
    shapes = ((2 * model.expert_ffn, model.hidden), (model.hidden, model.expert_ffn))
    if rows > MOST_ROWS or 2 * groups * model.hidden * model.expert_ffn > MOST_WEIGHTS:
        return []
    return [
        GroupedGemmWork(num_groups=groups, rows=rows, n=n, k=k, direction=direction)
        for n, k in shapes
        for direction in (Pass.FORWARD, Pass.DGRAD, Pass.WGRAD)
        if 2.0 * rows * n * k <= LONGEST_FLOPS
    ]


def attention_candidates() -> tuple[Entry, ...]:
    """Causal attention of the models, sequences of 3k to 12k, heads split 1 to 8 ways."""
    entries: list[Entry] = []
    for model in SHAPES:
        for split in (1, 2, 4, 8):
            for seq_len, batch in ((3072, 2), (6144, 1), (4096, 1), (12288, 1)):
                heads, kv_heads = model.heads // split, max(1, model.kv_heads // split)
                for implementation in (Implementation.CUDNN, Implementation.FA2):
                    if model.dims[0] == model.dims[1] or implementation is Implementation.CUDNN:
                        entries += attention_pairs(
                            implementation,
                            model.dims,
                            batch,
                            heads,
                            kv_heads,
                            seq_len,
                            causal=True,
                            purpose=Purpose.CHECK,
                        )
    return tuple({entry.key: entry for entry in entries}.values())
