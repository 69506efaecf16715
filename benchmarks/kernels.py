"""Custom CUDA kernels: built, checked, timed against the copy bandwidth and against PyTorch. On a Hopper GPU.

    python benchmarks/kernels.py                           everything, in less than five minutes
    python benchmarks/kernels.py --check                   only check; with --small also under compute-sanitizer
    python benchmarks/kernels.py --racecheck               small checks under compute-sanitizer's racecheck
    python benchmarks/kernels.py --only route,index        these kernels
    python benchmarks/kernels.py --check --device cpu      the references against float64, anywhere
    python benchmarks/kernels.py --table kernels.json      the table of docs/kernels.md from a run's JSON, anywhere

Checks compare with float64 on fresh random data in every shape class (`kernels/checking/cases.py`), outputs being NaN
before. Times are those of `kernels/checking/timing.py`: CUDA graphs over rotating inputs larger than the cache,
medians. `share` is the bytes that must move over the time, as a share of what a copy on the device reaches in this run;
`ratio` is the baseline's time over the kernel's. Baselines are PyTorch's operators and torch.compile with autotuning;
they are left out when `--seconds` are over. `+` meets the target, `-` does not. Writes JSON after each row.
Without nvcc, set MESHWRIGHT_KERNELS_LIBRARY to a library from `meshwright kernels build -o FOLDER`.
Needs PYTHONPATH=src where Meshwright is not installed.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meshwright.costmodel.value import Value
from meshwright.executor.layer_timing.machine import describe_machine
from meshwright.kernels.build import built_library
from meshwright.kernels.catalogue import KERNELS
from meshwright.kernels.checking.check_all import CHECKS, check_kernel
from meshwright.kernels.checking.check_large import check_large
from meshwright.kernels.checking.finding import Finding
from meshwright.kernels.checking.racecheck import find_sanitizer, racecheck_command, with_shared_memory
from meshwright.kernels.checking.shapes import MODELS
from meshwright.kernels.checking.subjects import Subject, Target, subjects
from meshwright.kernels.checking.timing import RunTime, cache_bytes, copy_bytes_per_s, num_sets, time_works
from meshwright.kernels.dispatch import Choice, dispatcher
from meshwright.kernels.library import make_ready, why_not_device
from meshwright.planner.dated_record import exit_status, origin_of, read_version, write_record

SCHEMA_VERSION = 1
COMPILE_RESERVE_S = 20.0
LARGE_CHECK_BYTES = 30e9


class Row(Value, frozen=True, kw_only=True):
    """One operation on one shape. share: of the copy bandwidth; baselines: seconds, None where it failed."""

    kernel: str
    what: str
    shape: str
    time: RunTime
    num_bytes: int
    share: float
    launches: int
    baselines: dict[str, RunTime | str]
    target: Target

    @property
    def against(self) -> str:
        """The baseline of the ratio: the target's, or the fastest."""
        timed = {name: spread.median_s for name, spread in self.baselines.items() if isinstance(spread, RunTime)}
        if self.target.against:
            return self.target.against if self.target.against in timed else ""
        return min(timed, key=lambda name: timed[name]) if timed else ""

    @property
    def ratio(self) -> float:
        """The baseline's time over the kernel's; 0 without one."""
        spread = self.baselines.get(self.against)
        return spread.median_s / self.time.median_s if isinstance(spread, RunTime) else 0.0


class Record(Value, frozen=True, kw_only=True):
    """A whole run."""

    schema_version: int
    machine: dict[str, str]
    date: str
    command: str
    sources: str
    cuda: str
    checks: int
    wrong: tuple[Finding, ...]
    implementations: tuple[Choice, ...]
    copy_bytes_per_s: float
    rows: tuple[Row, ...]


def main() -> int:
    """Build, check, time; 1 where something is wrong."""
    options = parse_options()
    if options.table:
        print(table(read_version(options.table, Record, SCHEMA_VERSION)))
        return 0
    started_s = time.perf_counter()
    device = torch.device(options.device)
    if device.type == "cuda":
        problem = why_not_device() or make_ready(partial(print, flush=True))
        if problem:
            print(f"kernels: {problem}", file=sys.stderr)
            return 1
        os.environ["MESHWRIGHT_KERNELS"] = "cuda"  # nothing below may fall back
    kernels = options.only.split(",") if options.only else [kernel.name for kernel in KERNELS]
    if options.racecheck:
        return racecheck(options.seed)
    findings = check_all(kernels, device, options)
    wrong = tuple(finding for finding in findings if not finding.is_right)
    if options.check or device.type != "cuda":
        return 1 if wrong else 0
    rows = time_all(kernels, device, options, started_s, len(findings), wrong)
    print(f"{len(rows)} rows in {time.perf_counter() - started_s:.0f} s")
    return 1 if wrong else 0


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only check")
    parser.add_argument("--small", action="store_true", help="leave out the check of more than 2**31 numbers")
    parser.add_argument("--most-slots", type=float, default=math.inf, help="of the cases that are checked")
    parser.add_argument("--racecheck", action="store_true", help="run small checks under compute-sanitizer")
    parser.add_argument("--only", default="", help=f"of {','.join(CHECKS)}, separated by commas")
    parser.add_argument("--models", default=",".join(MODELS), help="presets whose shapes are timed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=210.0, help="no baseline is compiled after so long")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the checks' data; fresh by default")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print a run's JSON as a table, and nothing else")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    unknown = set(filter(None, options.only.split(","))) - set(CHECKS)
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}: expected {', '.join(CHECKS)}")
    return options


# Checking.


def racecheck(seed: int) -> int:
    """The checks again, in a process of their own, watched; 1 where a race or an error is found."""
    built = built_library()
    reports = built.record.kernels if built else ()
    check = (sys.executable, str(Path(__file__).resolve()))
    command = racecheck_command(find_sanitizer(), check, with_shared_memory(reports), seed)
    print(" ".join(command), flush=True)
    return subprocess.run(command, check=False).returncode


def check_all(kernels: Iterable[str], device: torch.device, options: argparse.Namespace) -> list[Finding]:
    """All findings; what is wrong is printed."""
    print(f"checking on {device}, seed {options.seed}", flush=True)
    findings = []
    for kernel in kernels:
        start_s = time.perf_counter()
        found = list(check_kernel(kernel, device, torch.Generator().manual_seed(options.seed), options.most_slots))
        _show_findings(kernel, found, time.perf_counter() - start_s)
        findings += found
    if not options.small and device.type == "cuda" and torch.cuda.mem_get_info()[0] > LARGE_CHECK_BYTES:
        start_s = time.perf_counter()
        found = list(check_large(device))
        _show_findings("large", found, time.perf_counter() - start_s)
        findings += found
        torch.cuda.empty_cache()
    return findings


def _show_findings(name: str, findings: list[Finding], seconds: float) -> None:
    wrong = [finding for finding in findings if not finding.is_right]
    closest = max(findings, key=lambda finding: finding.error / finding.limit if finding.limit else 0.0)
    print(
        f"  {name:<11} {len(findings) - len(wrong)} of {len(findings)} right in {seconds:.1f} s; nearest to its limit: "
        f"{closest.what} ({closest.case}) {closest.error:.1e} of {closest.limit:.0e}",
        flush=True,
    )
    for finding in wrong:
        print(f"    WRONG {finding.what} ({finding.case}): {finding.error:.2e}, limit {finding.limit:.0e}", flush=True)


# Timing.


def time_all(
    kernels: list[str],
    device: torch.device,
    options: argparse.Namespace,
    started_s: float,
    checks: int,
    wrong: tuple[Finding, ...],
) -> list[Row]:
    """Every subject timed, printed and written."""
    copy = copy_bytes_per_s(device)
    print(f"copy on the device: {copy / 1e12:.3f} TB/s read and written\n\n{_heading()}", flush=True)
    rows: list[Row] = []
    for subject in subjects(device, tuple(options.models.split(","))):
        if subject.kernel not in kernels:
            continue
        left_s = options.seconds - (time.perf_counter() - started_s)
        rows.append(time_subject(subject, device, copy, left_s))
        print(_line(rows[-1]), flush=True)
        write_record(_record(rows, device, copy, checks, wrong), options.output)
    return rows


def time_subject(subject: Subject, device: torch.device, copy: float, left_s: float) -> Row:
    """Time an operation and, while there is time, its baselines."""
    torch.cuda.empty_cache()
    sets = [subject.make() for _ in range(num_sets(subject.num_bytes, cache_bytes(device)))]
    spread = time_works([partial(subject.run, *inputs) for inputs in sets])
    until_s = time.perf_counter() + left_s
    return Row(
        kernel=subject.kernel,
        what=subject.what,
        shape=subject.shape,
        time=spread,
        num_bytes=subject.num_bytes,
        share=subject.num_bytes / spread.median_s / copy,
        launches=count_launches(partial(subject.run, *sets[0])),
        baselines={name: _time_baseline(subject, name, sets, until_s) for name in subject.baselines},
        target=subject.target,
    )


def _time_baseline(subject: Subject, name: str, sets: list[tuple[object, ...]], until_s: float) -> RunTime | str:
    if time.perf_counter() + COMPILE_RESERVE_S > until_s:
        return "no time left"
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    try:
        function = subject.baselines[name](_compile)
        works = [partial(function, *inputs) for inputs in sets]
        return time_works(works, capture=name not in subject.waits)
    except Exception as problem:  # noqa: BLE001  a baseline that fails is a result, and others follow
        return f"{type(problem).__name__}: {problem}".splitlines()[0][:200]


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(
        function, mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True
    )
    return compiled


def count_launches(work: Callable[[], object]) -> int:
    """Kernels, copies and fills on the device in one run, by the profiler; -1 where that is not allowed."""
    try:
        return _profiled_launches(work)
    except RuntimeError:
        return -1


def _profiled_launches(work: Callable[[], object]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return sum(1 for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA)


# Reporting.


def _heading() -> str:
    return (
        f"{'':<20}{'shape':<38}{'time':>10}{'low':>10}{'high':>10}{'TB/s':>7}{'share':>7}{'target':>7}"
        f"{'launches':>10}  {'baseline':<26}{'time':>10}{'ratio':>7}{'target':>7}"
    )


def _line(row: Row) -> str:
    target, spread = row.target, row.time
    baseline = row.baselines.get(row.against)
    micro = f"{baseline.median_s * 1e6:>9.1f}u" if isinstance(baseline, RunTime) else f"{'':>10}"
    others = "; ".join(
        f"{name} {other.median_s * 1e6:.1f}u" if isinstance(other, RunTime) else f"{name}: {other}"
        for name, other in row.baselines.items()
        if name != row.against
    )
    time_target = f"{_mark(spread.median_s <= target.most_s)}{target.most_s * 1e6:.0f}u" if target.most_s else ""
    return (
        f"{row.what:<20}{row.shape:<38}{spread.median_s * 1e6:>9.1f}u{spread.low_s * 1e6:>9.1f}u"
        f"{spread.high_s * 1e6:>9.1f}u{row.num_bytes / spread.median_s / 1e12:>7.2f}{row.share:>7.1%}"
        f"{_reached(row.share, target.share, '.0%') or time_target:>7}{row.launches:>10}  {row.against:<26}{micro}"
        f"{row.ratio:>7.2f}{_reached(row.ratio, target.ratio, '.1f') if row.against else '':>7}"
        f"{'' if spread.captured else '  NOT CAPTURED: waits for the device'}{'  ' + others if others else ''}"
    )


def _reached(found: float, target: float, form: str) -> str:
    return f"{_mark(found >= target)}{target:{form}}" if target else ""


def _mark(met: bool) -> str:
    return "+" if met else "-"


def _record(rows: list[Row], device: torch.device, copy: float, checks: int, wrong: tuple[Finding, ...]) -> Record:
    built, origin = built_library(), origin_of(__file__)
    return Record(
        schema_version=SCHEMA_VERSION,
        machine=describe_machine(device, 1),
        date=origin.date,
        command=origin.command,
        sources=built.record.sources if built else "",
        cuda=built.record.cuda if built else "",
        checks=checks,
        wrong=wrong,
        implementations=dispatcher().record(),
        copy_bytes_per_s=copy,
        rows=tuple(rows),
    )


def table(record: Record) -> str:
    """A run as a Markdown table: times in microseconds, shares of the copy bandwidth, targets in brackets."""
    machine = f"{record.machine['device']}, torch {record.machine['torch']}, nvcc {record.cuda}"
    return "\n".join(
        [
            f"{machine}, {record.date[:10]}: copy {record.copy_bytes_per_s / 1e12:.2f} TB/s; {record.checks} checks, "
            f"{len(record.wrong)} wrong.",
            "",
            "| operation | shape | µs | TB/s | of the copy | baseline | µs | ratio |",
            "|---|---|---|---|---|---|---|---|",
            *map(_table_line, record.rows),
        ]
    )


def _table_line(row: Row) -> str:
    target, time_s = row.target, row.time.median_s
    baseline = row.baselines.get(row.against)
    reached = isinstance(baseline, RunTime)
    cells = (
        row.what,
        row.shape,
        f"{time_s * 1e6:.1f}" + (f" ({target.most_s * 1e6:.0f})" if target.most_s else ""),
        f"{row.num_bytes / time_s / 1e12:.2f}",
        f"{row.share:.0%}" + (f" ({target.share:.0%})" if target.share else ""),
        row.against,
        f"{baseline.median_s * 1e6:.1f}" if isinstance(baseline, RunTime) else "",
        (f"{row.ratio:.2f}" + (f" ({target.ratio:.1f})" if target.ratio else "")) if reached else "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(exit_status(main, __file__))
