"""How long fused attention takes: FLOPs, bytes, which measured sequence length it resembles, and idle SMs."""

from __future__ import annotations

import math

from meshwright.costmodel.program.operators import AttentionWork

BACKWARD_FLOPS = 2.5
QUERY_BLOCK = 128
CAUSAL_PAIRS = 0.75
ELEMENT_BYTES = 2

CUDNN_HEAD_DIMS = (64, 128, 256)
FA2_HEAD_DIMS = (64, 96, 128, 160, 192, 224, 256)
"""Head sizes that the kernels are written for; others are padded."""


def attention_flops(work: AttentionWork) -> float:
    """FLOPs of fused attention.

    Equation: forward 2 (d + d_v) pairs b a; backward 2.5 times that (five products instead of two).
    Source: FlashAttention-2, arXiv 2307.08691, section 4.1.

    >>> work = AttentionWork(batch=1, num_heads=2, num_kv_heads=1, head_dim=64, value_head_dim=64, query_len=8,
    ...                      key_len=8, pairs=32.0)
    >>> attention_flops(work)
    16384.0
    """
    forward = 2.0 * (work.head_dim + work.value_head_dim) * work.pairs * work.batch * work.num_heads
    return forward * (BACKWARD_FLOPS if work.backward else 1.0)


def attention_bytes(work: AttentionWork) -> float:
    """Bytes of fused attention: forward reads q, k, v and writes o; backward reads those and do, writes dq, dk, dv.

    Equation: forward 2 b (s_q a (d + d_v) + s_k a_kv (d + d_v)); backward twice that.
    Source: FlashAttention, arXiv 2205.14135, algorithm 1 (inputs and outputs once; statistics left out).

    >>> attention_bytes(AttentionWork(batch=1, num_heads=2, num_kv_heads=1, head_dim=64, value_head_dim=64,
    ...                               query_len=8, key_len=8, pairs=32.0))
    6144
    """
    dims = work.head_dim + work.value_head_dim
    rows = work.query_len * work.num_heads + work.key_len * work.num_kv_heads
    return ELEMENT_BYTES * work.batch * rows * dims * (2 if work.backward else 1)


def kernel_head_dim(work: AttentionWork, kernel_dims: tuple[int, ...]) -> float:
    """The head size that a kernel really computes: the next one it was written for.

    Equation: min of the kernel's sizes >= d; heads of unequal query and value size (MLA) have kernels of their own.
    Source: measured: s = 16,384, d = 80, causal, H100 SXM: cuDNN 362 TFLOP/s forward, 80/128 of what it reaches at
    d = 128; FlashAttention-2 260, near 80/96 of it (its head sizes: hopper and sm80 dispatch of the repository).

    >>> work = AttentionWork(batch=1, num_heads=2, num_kv_heads=1, head_dim=80, value_head_dim=80, query_len=8,
    ...                      key_len=8, pairs=32.0)
    >>> kernel_head_dim(work, CUDNN_HEAD_DIMS), kernel_head_dim(work, FA2_HEAD_DIMS)
    (128.0, 96.0)
    """
    if work.head_dim != work.value_head_dim:
        return (work.head_dim + work.value_head_dim) / 2
    return float(next((dim for dim in kernel_dims if dim >= work.head_dim), work.head_dim))


def is_causal(work: AttentionWork) -> bool:
    """Whether the mask leaves out a good part of the square.

    Equation: pairs < 0.75 s_q s_k (causal counts a half, full attention all).
    Source: definition of `AttentionWork.pairs`.

    >>> is_causal(AttentionWork(batch=1, num_heads=2, num_kv_heads=1, head_dim=64, value_head_dim=64, query_len=8,
    ...                         key_len=8, pairs=32.0))
    True
    """
    return work.pairs < CAUSAL_PAIRS * work.query_len * work.key_len


def resembled_length(work: AttentionWork) -> float:
    """The length of square attention with the same share of partly masked blocks, to look the efficiency up.

    Equation: causal: min(s_k, 2 pairs / s_q); a window w << s has two ragged edges a row, hence w; full: s_k.
    Source: derived from the block structure of FlashAttention-2 (arXiv 2307.08691, section 3.1): a causal row of
    length s wastes half a block on s / 2 keys, a window of w keys two halves.

    >>> work = AttentionWork(batch=1, num_heads=2, num_kv_heads=1, head_dim=64, value_head_dim=64, query_len=4096,
    ...                      key_len=4096, pairs=4096 * 4096 / 2)
    >>> resembled_length(work)
    4096.0
    """
    if not is_causal(work):
        return float(work.key_len)
    keys_per_query = work.pairs / work.query_len
    return 2.0 * keys_per_query if keys_per_query >= 0.45 * work.key_len else keys_per_query


def last_block_overhang(work: AttentionWork, *, longest_first: bool) -> float:
    """How far the last block of a causal row overhangs when the other SMs are done, in mean blocks.

    Equation: half of the longest block, which is twice the mean, where blocks are started longest first or are alike
    (backward goes by keys); all of it where the longest may start last.
    Source: measured, H100 SXM: cuDNN and FlashAttention-2's backward 1, FlashAttention-2's forward 2; FlashAttention-3
    (arXiv 2407.08608) starts the longest first.

    >>> work = AttentionWork(batch=1, num_heads=1, num_kv_heads=1, head_dim=64, value_head_dim=64, query_len=128,
    ...                      key_len=128, pairs=8192.0)
    >>> last_block_overhang(work, longest_first=True), last_block_overhang(work, longest_first=False)
    (1.0, 2.0)
    """
    return 1.0 if longest_first or work.backward else 2.0


def idle_sm_factor(work: AttentionWork, num_sms: int, overhang: float = 1.0) -> float:
    """How much longer attention takes because its blocks do not fill the SMs evenly.

    Equation: x = b a ceil(s_q / 128) / SMs; full: ceil(x) / x; causal: max(2 / x, 1 + overhang / x). The longest block
    of a causal row holds twice the mean work: alone on its SM it sets the time.
    Source: work partition of FlashAttention-2 (arXiv 2307.08691, section 3.2); measured, H100 SXM, cuDNN, d = 128:
    x = 0.24, 0.97, 1.9, 3.9, 8.1 take 8.1, 1.9, 1.5, 1.2 to 1.3, 1.1 times as long as many blocks do.

    >>> work = AttentionWork(batch=1, num_heads=1, num_kv_heads=1, head_dim=64, value_head_dim=64, query_len=8448,
    ...                      key_len=8448, pairs=8448.0 * 8448)
    >>> idle_sm_factor(work, num_sms=132), idle_sm_factor(work, num_sms=65)
    (2.0, 1.9696969696969697)
    """
    blocks = work.batch * work.num_heads * math.ceil(work.query_len / QUERY_BLOCK)
    waves = blocks / num_sms
    return max(2.0 / waves, 1.0 + overhang / waves) if is_causal(work) else math.ceil(waves) / waves
