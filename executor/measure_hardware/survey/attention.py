"""Fused attention to measure: head sizes, key-value groups, masks, sequence lengths, both kernels, both directions."""

from __future__ import annotations

from meshwright.costmodel.program.operators import AttentionWork
from meshwright.executor.measure_hardware.entry import Entry, Extent
from meshwright.hardware_profiles.measurements import Implementation, Purpose

LATENT = (192, 128)
SEQ_LENS = (1024, 2048, 4096, 8192, 16384, 32768)
LONGEST_FLOPS = 1.2e13

# (sequence length, heads) of one sequence: too few blocks for all SMs.
FEW_HEADS = ((1024, 4), (1024, 16), (2048, 8), (4096, 4), (4096, 8), (8192, 4), (8192, 8), (16384, 4))


def attention_entries(extent: Extent) -> tuple[Entry, ...]:
    """Entries of `AttentionWork`, forward and backward apart."""
    if extent is Extent.TINY:
        return attention_pairs(Implementation.CUDNN, (16, 16), 1, 4, 2, 32, causal=True)
    if extent is Extent.QUICK:
        return _quick()
    return (*_main(), *_variants(), *_few_heads())


def attention_pairs(
    implementation: Implementation,
    dims: tuple[int, int],
    batch: int,
    num_heads: int,
    num_kv_heads: int,
    seq_len: int,
    *,
    causal: bool,
    purpose: Purpose = Purpose.FIT,
) -> tuple[Entry, ...]:
    """Forward and backward of one shape; `dims` are the sizes of a query head and of a value head."""
    square = float(seq_len) * seq_len
    works = [
        AttentionWork(
            batch=batch,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=dims[0],
            value_head_dim=dims[1],
            query_len=seq_len,
            key_len=seq_len,
            pairs=square / 2 if causal else square,
            backward=backward,
        )
        for backward in (False, True)
    ]
    return tuple(Entry(work=work, implementation=implementation, purpose=purpose) for work in works)


def _main() -> tuple[Entry, ...]:
    """Head sizes 64 and 128, causal and full, about 16k tokens of 32 heads."""
    entries: list[Entry] = []
    for implementation in (Implementation.CUDNN, Implementation.FA2):
        for dim in (64, 128):
            for causal in (True, False):
                for seq_len in SEQ_LENS:
                    heads = 32 if causal or seq_len <= 16384 else 16
                    batch = max(1, 16384 // seq_len)
                    entries += attention_pairs(implementation, (dim, dim), batch, heads, heads, seq_len, causal=causal)
    return _not_too_long(entries)


def _variants() -> tuple[Entry, ...]:
    """Shared key-value heads, and heads of unequal query and value size (cuDNN alone has them)."""
    entries: list[Entry] = []
    for implementation in (Implementation.CUDNN, Implementation.FA2):
        for ratio in (4, 8):
            for seq_len in (2048, 4096, 8192, 16384):
                batch = max(1, 16384 // seq_len)
                entries += attention_pairs(implementation, (128, 128), batch, 32, 32 // ratio, seq_len, causal=True)
    for causal in (True, False):
        for seq_len in SEQ_LENS:
            batch = max(1, 16384 // seq_len)
            entries += attention_pairs(Implementation.CUDNN, LATENT, batch, 16, 16, seq_len, causal=causal)
    return _not_too_long(entries)


def _few_heads() -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for implementation in (Implementation.CUDNN, Implementation.FA2):
        for seq_len, heads in FEW_HEADS:
            entries += attention_pairs(implementation, (128, 128), 1, heads, heads, seq_len, causal=True)
    return _not_too_long(entries)


def _quick() -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for implementation in (Implementation.CUDNN, Implementation.FA2):
        for seq_len in (2048, 8192):
            batch = 16384 // seq_len
            entries += attention_pairs(implementation, (128, 128), batch, 32, 8, seq_len, causal=True)
    entries += attention_pairs(Implementation.CUDNN, (64, 64), 4, 32, 32, 4096, causal=True)
    entries += attention_pairs(Implementation.CUDNN, LATENT, 4, 16, 16, 4096, causal=True)
    return tuple(entries)


def _not_too_long(entries: list[Entry]) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries if _forward_flops(entry) <= LONGEST_FLOPS)


def _forward_flops(entry: Entry) -> float:
    work = entry.work
    assert isinstance(work, AttentionWork)  # as this module makes them
    return 2.0 * (work.head_dim + work.value_head_dim) * work.pairs * work.batch * work.num_heads
