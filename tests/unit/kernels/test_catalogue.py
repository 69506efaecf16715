from __future__ import annotations

from meshwright.kernels.build.sources import ROOT
from meshwright.kernels.catalogue import KERNELS
from meshwright.kernels.checking.check_all import CHECKS

PARTS = ("contract.py", "reference.py", "launch.py", "operator.py", "library.py")


def test_every_kernel_has_all_its_parts() -> None:
    for kernel in KERNELS:
        assert (ROOT / kernel.source).is_file()
        assert [part for part in PARTS if not (ROOT / kernel.name / part).is_file()] == []


def test_every_kernel_is_checked() -> None:
    assert [kernel.name for kernel in KERNELS] == list(CHECKS)
