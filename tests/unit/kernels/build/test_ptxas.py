from __future__ import annotations

import pytest

from meshwright.kernels.build.ptxas import KernelReport, check_report, parse_report
from meshwright.kernels.errors import KernelBuildError

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_90a'
ptxas info    : Function properties for _Z5firstPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 4096 bytes smem
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_90a'
ptxas info    : Function properties for _Z6secondPf
    24 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers
"""


def test_each_kernel_gets_its_own_figures() -> None:
    assert parse_report("x.cu", REPORT) == (
        KernelReport(source="x.cu", name="_Z5firstPf", registers=40, stack_bytes=0, spill_bytes=0, shared_bytes=4096),
        KernelReport(source="x.cu", name="_Z6secondPf", registers=64, stack_bytes=24, spill_bytes=20, shared_bytes=0),
    )


def test_spills_are_refused_with_kernel_and_size() -> None:
    with pytest.raises(KernelBuildError, match=r"x.cu: _Z6secondPf spills 20 bytes of registers"):
        check_report("x.cu", REPORT)


def test_a_source_without_kernels_is_refused() -> None:
    with pytest.raises(KernelBuildError, match="tells of no kernel"):
        check_report("x.cu", "")
