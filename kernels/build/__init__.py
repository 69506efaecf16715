"""Builds all kernels into one library: finds the compiler, calls it, checks its report, keeps the result."""

from meshwright.kernels.build.build import build_library
from meshwright.kernels.build.cache import BuiltLibrary, built_library
from meshwright.kernels.build.sources import sources_digest
from meshwright.kernels.build.toolkit import Toolkit, find_toolkit

__all__ = ["BuiltLibrary", "Toolkit", "build_library", "built_library", "find_toolkit", "sources_digest"]
