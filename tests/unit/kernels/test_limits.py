"""The limits of kernels are said once in CUDA and once in Python, and are equal."""

from __future__ import annotations

import re

from meshwright.kernels import limits
from meshwright.kernels.build.sources import ROOT, source_files

CONSTANT = re.compile(r"constexpr int kMost(\w+) = (\d+);")


def test_both_sides_say_the_same() -> None:
    found = CONSTANT.findall((ROOT / "device" / "limits.h").read_text())
    assert found
    for name, number in found:
        assert getattr(limits, f"MOST_{name.upper()}") == int(number)


def test_no_source_has_limits_of_its_own() -> None:
    elsewhere = [path for path in source_files() if path.name != "limits.h"]
    assert not [path.name for path in elsewhere if CONSTANT.search(path.read_text())]


def test_no_launch_has_limits_of_its_own() -> None:
    modules = [path for path in ROOT.rglob("*.py") if path.name != "limits.py"]
    shared = "|".join(name for name in vars(limits) if name.startswith("MOST_"))
    assert not [path for path in modules if re.search(rf"^({shared})\b.*=", path.read_text(), re.MULTILINE)]
