"""The clocks of a training step: the operators of a dense layer, forward and backward, until the clocks have settled.

Each is first timed beside the reference product, like every sample; then all of them run in turn, as a CUDA graph that
is replayed for seconds. The two together tell which time of the reference product belongs to a training step.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.costmodel.program.operators import GemmWork, Pass
from meshwright.executor.measure_hardware.device import Clocked, Device
from meshwright.executor.measure_hardware.entry import Entry, Extent, memory_entry
from meshwright.executor.measure_hardware.memory_case import MemoryCase, MemoryOperator
from meshwright.executor.measure_hardware.operators import Runnable, build_operator
from meshwright.executor.measure_hardware.survey.attention import attention_pairs
from meshwright.executor.measure_hardware.timer import median_clock_hz, recorded, time_operator
from meshwright.executor.measure_hardware.times import times_of
from meshwright.hardware_profiles.measurements import Implementation, SustainedSample

ALONE_S = {Extent.TINY: 0.0, Extent.QUICK: 0.03, Extent.FULL: 0.1}
SETTLING_S = {Extent.TINY: 0.0, Extent.QUICK: 1.5, Extent.FULL: 8.0}
TIMED_S = {Extent.TINY: 0.0, Extent.QUICK: 0.5, Extent.FULL: 2.0}
FEWEST = 3


def measure_sustained(device: Device, extent: Extent) -> SustainedSample:
    """The operators of a layer, each beside the reference product, then all of them for seconds."""
    entries = layer_entries(extent)
    with device.scope():
        operators = [build_operator(entry, device.torch_device, device.l2_bytes) for entry in entries]
        alone = [time_operator(operator, device, ALONE_S[extent]) for operator in operators]
        together = _together(operators, device, extent, sum(times.time_s for times in alone))
    clocks_hz = tuple(times.clock_hz for times in alone if times.clock_hz is not None)
    return SustainedSample(
        works=tuple(entry.work for entry in entries),
        alone_s=tuple(times.time_s for times in alone),
        references_s=tuple(times.reference_s or 0.0 for times in alone),
        together_s=times_of(together.seconds).time_s,
        clocks_hz=clocks_hz if len(clocks_hz) == len(alone) else (),
        together_clock_hz=median_clock_hz(together.clocks_hz),
    )


def _together(operators: Sequence[Runnable], device: Device, extent: Extent, expected_s: float) -> Clocked:
    """Rounds of all operators, after `SETTLING_S` of nothing else."""

    def one_round() -> None:
        for operator in operators:
            operator.run(0)

    loop = recorded(one_round, device, lambda _: None, capturable=all(operator.capturable for operator in operators))
    for _ in range(round(SETTLING_S[extent] / expected_s)):
        loop()
    return device.clocked_intervals([loop] * max(FEWEST, round(TIMED_S[extent] / expected_s)))


def layer_entries(extent: Extent) -> tuple[Entry, ...]:
    """The operators of a dense layer as Llama 3 8B has it, 8,192 tokens, forward and backward."""
    tokens, hidden, heads, kv_heads, width = (64, 32, 4, 2, 48) if extent is Extent.TINY else (8192, 4096, 32, 8, 14336)
    dim = hidden // heads
    products = ((hidden + 2 * kv_heads * dim, hidden), (hidden, hidden), (2 * width, hidden), (hidden, width))
    works = [
        *(GemmWork(m=tokens, n=n, k=k) for n, k in products),
        *(GemmWork(m=tokens, n=k, k=n, direction=Pass.DGRAD) for n, k in products),
        *(GemmWork(m=k, n=n, k=tokens, direction=Pass.WGRAD) for n, k in products),
    ]
    entries = [Entry(work=work, implementation=Implementation.CUBLAS) for work in works]
    entries += attention_pairs(Implementation.CUDNN, (dim, dim), 1, heads, kv_heads, tokens, causal=True)
    norm = MemoryCase(operator=MemoryOperator.NORM, rows=tokens, width=hidden)
    residual = MemoryCase(operator=MemoryOperator.RESIDUAL, rows=tokens, width=hidden)
    entries += [memory_entry(norm, Implementation.FUSED)] * 2 + [memory_entry(residual, Implementation.FUSED)] * 4
    return tuple(entries)
