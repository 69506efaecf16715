"""Prints measured beside predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

from meshwright.executor.layer_timing.record import LayerTimes, OperatorTimes, PassTimes

MICROSECONDS = 1e6


def layer_table(layer: LayerTimes) -> str:
    """Every operator of a layer, then its passes."""
    return "\n".join(_lines(layer))


def _lines(layer: LayerTimes) -> Iterator[str]:
    cut = f" ({layer.num_experts} of {layer.num_experts_of_model} experts)" if layer.num_experts_of_model else ""
    yield f"{layer.model} {layer.strategy} seq {layer.seq_len} mb {layer.micro_batch}{cut}"
    yield (
        f"  output error {layer.output_error:.2e}, host reads {layer.host_reads},"
        f" peak {layer.peak_memory_bytes / 2**30:.1f} GiB"
    )
    yield f"  {'operator':<32} {'measured':>10} {'predicted':>10} {'error':>7}  {'host':>7} {'pred.':>7}  us"
    for op in layer.operators:
        yield (
            f"  {op.name:<32} {op.measured.median_s * MICROSECONDS:>10.1f} {op.predicted_s * MICROSECONDS:>10.1f}"
            f" {op.error:>+7.1%}  {op.host_measured_s * MICROSECONDS:>7.1f} {op.host_predicted_s * MICROSECONDS:>7.1f}"
        )
    for name, one in (("forward", layer.forward), ("backward", layer.backward)):
        yield _pass_line(name, one)
    for name, beside in (("forward", layer.overlapped_forward), ("backward", layer.overlapped_backward)):
        if beside is not None:
            yield (
                f"  {name + ' on streams':<32} {beside.measured.median_s * MICROSECONDS:>10.1f}"
                f" {beside.predicted_s * MICROSECONDS:>10.1f} {beside.error:>+7.1%}"
            )


def _pass_line(name: str, one: PassTimes) -> str:
    return (
        f"  {name:<32} {one.measured.median_s * MICROSECONDS:>10.1f} {one.predicted_s * MICROSECONDS:>10.1f}"
        f" {one.error:>+7.1%}  operators {one.operators_s * MICROSECONDS:.1f},"
        f" host {one.host_measured_s * MICROSECONDS:.1f}"
        f" (predicted wait {one.predicted_host_s * MICROSECONDS:.1f})"
    )


def summary_table(layers: Iterable[LayerTimes]) -> str:
    """One line a layer, and the median of the absolute errors."""
    lines = [f"{'layer':<58} {'forward':>9} {'pred.':>9} {'error':>7} {'backward':>9} {'pred.':>9} {'error':>7}  ms"]
    errors: list[float] = []
    for layer in layers:
        forward, backward = layer.forward, layer.backward
        errors += [abs(forward.error), abs(backward.error)]
        lines.append(
            f"{_name(layer):<58} {forward.measured.median_s * 1e3:>9.3f} {forward.predicted_s * 1e3:>9.3f}"
            f" {forward.error:>+7.1%} {backward.measured.median_s * 1e3:>9.3f} {backward.predicted_s * 1e3:>9.3f}"
            f" {backward.error:>+7.1%}"
        )
    if errors:
        lines.append(f"median absolute error of {len(errors)} passes: {median(errors):.1%}")
    return "\n".join(lines)


def _name(layer: LayerTimes) -> str:
    return f"{layer.model} {layer.strategy} seq {layer.seq_len} mb {layer.micro_batch}"


def operator_table(layers: Iterable[LayerTimes]) -> str:
    """Operators over all layers, the costliest first: share of the measured time, median error and its extremes."""
    found: dict[str, list[OperatorTimes]] = {}
    for layer in layers:
        for op in layer.operators:
            found.setdefault(op.name, []).append(op)
    seconds = {name: sum(op.measured.median_s for op in ops) for name, ops in found.items()}
    total_s = sum(seconds.values())
    lines = [f"{'operator':<34} {'times':>5} {'share':>6} {'median error':>12} {'least':>8} {'most':>8}"]
    for name in sorted(found, key=lambda name: -seconds[name]):
        errors = [op.error for op in found[name]]
        lines.append(
            f"{name:<34} {len(errors):>5} {seconds[name] / total_s:>6.1%} {median(errors):>+12.1%}"
            f" {min(errors):>+8.1%} {max(errors):>+8.1%}"
        )
    return "\n".join(lines)
