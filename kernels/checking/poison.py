"""Fills memory that operators allocate with NaN, or the largest integer, before they write to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Inside, `torch.empty` gives NaN: what a kernel forgets to write shows."""
    settings: Any = torch.utils.deterministic  # a module with a property, which types do not know
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    before, fills = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        settings.fill_uninitialized_memory = fills
