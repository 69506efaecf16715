"""The sources of the library, how each is compiled, and the fingerprints of both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from meshwright.costmodel.value import Value
from meshwright.kernels.build.toolkit import Toolkit
from meshwright.kernels.catalogue import KERNELS

ROOT: Final = Path(__file__).resolve().parents[1]
BINDING: Final = "binding/binding.cpp"
SUFFIXES: Final = (".cu", ".cuh", ".cpp", ".h")
DIGEST_LENGTH: Final = 16
BUILD_SCHEMA_VERSION: Final = 2
"""Of the record beside a library; part of the fingerprint, so that a build with another record is made anew."""

ARCHITECTURE: Final = "-gencode=arch=compute_90a,code=sm_90a"
HOST_FLAGS: Final = ("-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror,-fvisibility=hidden")
CUDA_FLAGS: Final = (
    "-std=c++17",
    "-O3",
    "-lineinfo",
    ARCHITECTURE,
    *HOST_FLAGS,
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-v",
)
TORCH_TARGET: Final = "0x020b000000000000"
"""torch 2.11: symbols that only later releases have are left out."""
BINDING_FLAGS: Final = ("-std=c++17", "-O2", *HOST_FLAGS, "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}")
LINK_FLAGS: Final = ("-shared", "-cudart", "static", ARCHITECTURE)
LIBRARIES: Final = ("-ltorch_cpu", "-lc10")


class Unit(Value, frozen=True, kw_only=True):
    """A source file that becomes an object. `reports`: ptxas tells of its kernels."""

    source: str
    flags: tuple[str, ...]
    reports: bool


def units(torch_folder: Path) -> tuple[Unit, ...]:
    """All objects of the library: the binding first, which takes longest."""
    headers = ("-isystem", str(torch_folder / "include"))
    binding = Unit(source=BINDING, flags=(*BINDING_FLAGS, *headers), reports=False)
    return (binding, *(Unit(source=kernel.source, flags=CUDA_FLAGS, reports=True) for kernel in KERNELS))


def source_files() -> tuple[Path, ...]:
    """All C++ and CUDA files of the layer, in a fixed order."""
    return tuple(sorted(path for path in ROOT.rglob("*") if path.suffix in SUFFIXES))


def sources_digest() -> str:
    """A fingerprint of all sources and flags: equal means that a library was built from what is here."""
    digest = hashlib.sha256()
    for path in source_files():
        _add(digest, path.relative_to(ROOT).as_posix().encode(), path.read_bytes())
    _add(digest, repr((BUILD_SCHEMA_VERSION, CUDA_FLAGS, BINDING_FLAGS, LINK_FLAGS, LIBRARIES)).encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


def library_digest(library: Path) -> str:
    """A fingerprint of a built library: equal means that it is whole."""
    return hashlib.sha256(library.read_bytes()).hexdigest()[:DIGEST_LENGTH]


def build_name(toolkit: Toolkit) -> str:
    """The name of a build: sources, flags and compiler."""
    return f"{sources_digest()}-cuda{toolkit.version}"


def _add(digest: hashlib._Hash, *parts: bytes) -> None:
    """Add parts with their lengths, so that no two lists of parts look alike."""
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
