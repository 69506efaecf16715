"""What ptxas says of each kernel, and what of it is refused: spilled registers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshwright.costmodel.value import Value
from meshwright.kernels.errors import KernelBuildError

MOST_SHARED_BYTES = 227 * 1024
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_IGNORED = re.compile(r"setmaxnreg.*ignored|C7508", re.IGNORECASE)


class KernelReport(Value, frozen=True, kw_only=True):
    """One compiled kernel of a source, by its mangled name. `shared_bytes`: static shared memory."""

    source: str
    name: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int


def parse_report(source: str, text: str) -> tuple[KernelReport, ...]:
    r"""The kernels of ptxas's verbose output.

    >>> parse_report("f.cu", "Compiling entry function 'f' for 'sm_90a'\n 0 bytes stack frame, 8 bytes spill stores, "
    ...     "4 bytes spill loads\n Used 32 registers, 16 bytes smem")[0].spill_bytes
    12
    """
    entries = list(_ENTRY.finditer(text))
    if not entries:
        return ()
    ends = [*(entry.start() for entry in entries[1:]), len(text)]
    parts = ((entry.group(1), text[entry.end() : end]) for entry, end in zip(entries, ends, strict=True))
    return tuple(_kernel(source, name, part) for name, part in parts)


def _kernel(source: str, name: str, text: str) -> KernelReport:
    spills, used, shared = _SPILLS.search(text), _USED.search(text), _SHARED.search(text)
    if spills is None or used is None:
        raise KernelBuildError(f"{source}: ptxas does not tell the registers of {name}")
    return KernelReport(
        source=source,
        name=name,
        registers=int(used.group(1)),
        stack_bytes=int(spills.group(1)),
        spill_bytes=int(spills.group(2)) + int(spills.group(3)),
        shared_bytes=int(shared.group(1)) if shared else 0,
    )


def check_report(source: str, text: str) -> tuple[KernelReport, ...]:
    """The kernels of a source, none of which may spill, use a stack or more shared memory than there is.

    Raises:
        KernelBuildError: One does, or there are none.
    """
    kernels = parse_report(source, text)
    if not kernels:
        raise KernelBuildError(f"{source}: ptxas tells of no kernel")
    if _IGNORED.search(text):
        raise KernelBuildError(f"{source}: ptxas ignores setmaxnreg")
    for problem in _problems(kernels):
        raise KernelBuildError(f"{source}: {problem}")
    return kernels


def _problems(kernels: Sequence[KernelReport]) -> list[str]:
    spilled = [
        f"{kernel.name} spills {kernel.spill_bytes} bytes of registers and has a stack of {kernel.stack_bytes} bytes"
        for kernel in kernels
        if kernel.spill_bytes or kernel.stack_bytes
    ]
    large = [
        f"{kernel.name} has {kernel.shared_bytes} bytes of shared memory, the limit is {MOST_SHARED_BYTES}"
        for kernel in kernels
        if kernel.shared_bytes > MOST_SHARED_BYTES
    ]
    return spilled + large
