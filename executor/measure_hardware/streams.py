"""Streams that run beside each other."""

from __future__ import annotations

import torch

TRIALS = 4


def stream_beside(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    """Another stream of the same GPU. PyTorch has few and hands the same ones out again: two may be one."""
    for _ in range(TRIALS):
        other = torch.cuda.Stream(stream.device)
        if other.cuda_stream != stream.cuda_stream:
            return other
    raise RuntimeError("PyTorch has no second stream: nothing can run beside anything")
