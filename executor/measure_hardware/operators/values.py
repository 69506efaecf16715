"""Random inputs: normal values, never zeros, which would draw less power."""

from __future__ import annotations

from functools import cache

import torch

FP8 = torch.float8_e4m3fn


@cache
def source(device: torch.device) -> torch.Generator:
    """Random numbers apart from PyTorch's own source, which a failed capture of a CUDA graph would leave unusable."""
    generator = torch.Generator(device)
    generator.seed()
    return generator


def normal(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Standard normal values."""
    return torch.randn(shape, device=device, dtype=dtype, generator=source(device))


def uniform(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Float32 values between 0 and 1."""
    return torch.rand(shape, device=device, generator=source(device))


def normal_fp8(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Standard normal values in e4m3."""
    return normal(shape, device).to(FP8)


def unwritten(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """An output that is not a number until it is written."""
    return torch.full(shape, float("nan"), device=device, dtype=dtype)


def scale_of_one(device: torch.device) -> torch.Tensor:
    """The scale of a whole FP8 tensor."""
    return torch.ones((), device=device, dtype=torch.float32)
