"""Samples that no table is built from: shapes of real models and shapes drawn by chance, a quarter of the grids."""

from __future__ import annotations

import random

import msgspec

from meshwright.costmodel.program.operators import AttentionWork, GemmWork, GroupedGemmWork, Pass
from meshwright.executor.measure_hardware.entry import Entry
from meshwright.executor.measure_hardware.survey.attention import attention_pairs
from meshwright.executor.measure_hardware.survey.grouped import MOST_WEIGHTS
from meshwright.executor.measure_hardware.survey.models import (
    attention_candidates,
    dense_candidates,
    grouped_candidates,
)
from meshwright.executor.measure_hardware.survey.random_sizes import log_uniform
from meshwright.hardware_profiles.measurements import Implementation, Purpose

CHECK_SHARE = 0.25
LONGEST_FLOPS = 1.2e13
DIRECTIONS = (Pass.FORWARD, Pass.DGRAD, Pass.WGRAD)


def check_entries(grid: tuple[Entry, ...], seed: int) -> tuple[Entry, ...]:
    """A quarter as many other products, grouped products and attention as `grid` has, half of them drawn by chance."""
    measured = {msgspec.json.encode(entry.work) for entry in grid}
    chosen: list[Entry] = []
    kinds = (
        (GemmWork, dense_candidates(), _random_dense),
        (GroupedGemmWork, grouped_candidates(), _random_grouped),
        (AttentionWork, attention_candidates(), _random_attention),
    )
    for kind, candidates, draw in kinds:
        count = round(CHECK_SHARE * sum(isinstance(entry.work, kind) for entry in grid))
        new = [entry for entry in candidates if msgspec.json.encode(entry.work) not in measured]
        drawn = draw(count - count // 2, seed)
        chosen += random.Random(seed).sample(new, min(count // 2, len(new)))
        chosen += [entry for entry in drawn if msgspec.json.encode(entry.work) not in measured]
    return tuple({entry.key: entry for entry in chosen}.values())


def _random_dense(count: int, seed: int) -> list[Entry]:
    """128 to 32,768 tokens in multiples of 16 by widths of 256 to 16,384 in multiples of 64, as models have them."""
    rows, widths, depths = (
        log_uniform(f"dense {axis} {seed}", 2 * count, low, high, step)
        for axis, low, high, step in (("m", 128, 32768, 16), ("n", 256, 16384, 64), ("k", 256, 16384, 64))
    )
    works = [
        GemmWork(m=m, n=n, k=k) if index % 2 else GemmWork(m=k, n=n, k=m, direction=Pass.WGRAD)
        for index, (m, n, k) in enumerate(zip(rows, widths, depths, strict=True))
        if 2.0 * m * n * k <= LONGEST_FLOPS
    ]
    return [Entry(work=w, implementation=Implementation.CUBLAS, purpose=Purpose.CHECK) for w in works[:count]]


def _random_grouped(count: int, seed: int) -> list[Entry]:
    """2 to 128 experts of 32 to 4,096 rows in multiples of 16, widths of 512 to 8,192 in multiples of 64."""
    generator = random.Random(f"groups {seed}")
    rows, widths, depths = (
        log_uniform(f"grouped {axis} {seed}", 4 * count, low, high, step)
        for axis, low, high, step in (("rows", 32, 4096, 16), ("n", 512, 8192, 64), ("k", 512, 8192, 64))
    )
    works: list[GroupedGemmWork] = []
    for index, (each, n, k) in enumerate(zip(rows, widths, depths, strict=True)):
        groups = generator.choice((2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128))
        total = each * groups
        if total <= 98304 and groups * n * k <= MOST_WEIGHTS and 2.0 * total * n * k <= LONGEST_FLOPS:
            direction = DIRECTIONS[index % 3]
            works.append(GroupedGemmWork(num_groups=groups, rows=total, n=n, k=k, direction=direction))
    return [Entry(work=w, implementation=Implementation.GROUPED_MM, purpose=Purpose.CHECK) for w in works[:count]]


def _random_attention(count: int, seed: int) -> list[Entry]:
    """Causal, 4 to 64 heads of 64 or 128, sequences of 1k to 16k in multiples of 64."""
    generator = random.Random(f"attention {seed}")
    entries: list[Entry] = []
    for seq_len in log_uniform(f"attention {seed}", count, 1024, 16384, 64):
        dim, ratio = generator.choice((64, 128)), generator.choice((1, 4, 8))
        heads = generator.choice((8, 16, 24, 32, 40))
        batch = generator.choice((1, 1, 2))
        kind = generator.choice((Implementation.CUDNN, Implementation.FA2))
        entries += attention_pairs(
            kind, (dim, dim), batch, heads, heads // ratio, seq_len, causal=True, purpose=Purpose.CHECK
        )
    return entries[:count]
