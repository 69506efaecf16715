"""Errors of building and running kernels."""

from __future__ import annotations

from meshwright.costmodel.errors import MeshwrightError


class KernelBuildError(MeshwrightError):
    """The library of kernels could not be built: what was missing or wrong, and the compiler's own words."""


class KernelInputError(MeshwrightError, ValueError):
    """Tensors that contradict an operation's contract: which one, what it is, what was expected."""
