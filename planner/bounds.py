"""Lower bounds of the step time at an outer point, for best-first search: those of shapes need no schedule.

Each layer counts with the least time of all its choices, whatever memory they need. For schedules with several virtual
stages a device, whose split of layers is even and so known, the bound follows the paths through each device; for the
others it holds for every split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import msgspec

from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.simulate.schedules import placement
from meshwright.costmodel.step import SPLIT_BACKWARD
from meshwright.costmodel.value import Value
from meshwright.planner.choice import Choice, EndCost
from meshwright.planner.least_step import least_step_s
from meshwright.planner.memory_bounds import busy_within_memory_s, least_excess_bytes, overlapped_share
from meshwright.planner.point import PointProblem
from meshwright.planner.stage_totals import MEMORY_TOLERANCE


class PassTimes(Value, frozen=True, kw_only=True):
    """Seconds of one way to run a layer: forward, backward in one or apart, and what they save side by side."""

    forward_s: float
    backward_s: float
    dgrad_s: float
    wgrad_s: float
    overlap_saving_s: float


class LayerMinimum(Value, frozen=True, kw_only=True):
    """Least seconds of one micro-batch in one layer, each figure with the best way for it.

    `joined_s` runs the backward as one action, `split_s` input and weight gradients apart, and `overlapped_s` runs
    a forward and a backward at the same time (DualPipe). `through_s` is the forward and the input gradient.
    Backwards alone: `backward_s` as one action, `gradients_s` apart.
    Once a step: parameters gathered, gradients reduced, optimizer.
    """

    forward_s: float
    backward_s: float
    gradients_s: float
    through_s: float
    joined_s: float
    split_s: float
    overlapped_s: float
    gather_s: float = 0.0
    reduce_s: float = 0.0
    optimizer_s: float = 0.0

    def both_passes_s(self, kind: ScheduleKind) -> float:
        """Forward and backward as a schedule runs them."""
        if kind is ScheduleKind.DUALPIPE_V:
            return self.overlapped_s
        return self.apart_s(kind)

    def apart_s(self, kind: ScheduleKind) -> float:
        """Forward and backward one after the other."""
        return self.split_s if kind in SPLIT_BACKWARD else self.joined_s

    def backward_alone_s(self, kind: ScheduleKind) -> float:
        """The backward alone, as a schedule runs it."""
        return self.gradients_s if kind in SPLIT_BACKWARD else self.backward_s


def layer_minimum(ways: Sequence[PassTimes]) -> LayerMinimum:
    """The least of each figure over the ways to run a layer."""
    return LayerMinimum(
        forward_s=min(way.forward_s for way in ways),
        backward_s=min(way.backward_s for way in ways),
        gradients_s=min(way.dgrad_s + way.wgrad_s for way in ways),
        through_s=min(way.forward_s + way.dgrad_s for way in ways),
        joined_s=min(way.forward_s + way.backward_s for way in ways),
        split_s=min(way.forward_s + way.dgrad_s + way.wgrad_s for way in ways),
        overlapped_s=min(way.forward_s + way.dgrad_s + way.wgrad_s - way.overlap_saving_s for way in ways),
    )


class Pipe(Value, frozen=True, kw_only=True):
    """The pipeline of an outer point.

    `boundaries`: where the split is known, the first layers of the virtual stages and the number of layers. `ends`:
    embedding and head, parts of the first and the last virtual stage.
    """

    kind: ScheduleKind
    num_stages: int
    num_micro_batches: int
    virtual_stages: int
    boundaries: tuple[int, ...] = ()
    ends: tuple[LayerMinimum, ...] = ()


def step_bound_s(layers: Sequence[LayerMinimum], pipe: Pipe, busy_s: Sequence[float] = ()) -> float:
    """No plan with these layers, in this order, and this pipeline is faster.

    A micro-batch takes its forward and input gradient through all layers; the busiest device works at least the mean,
    m S / P; 1F1B takes `one_f_one_b_factor` times S; and each device has paths of its own, which are known where the
    split is even, and bounded by `staggered_factor` where it is free. The optimizer comes after all of it.
    `busy_s`: see `_even_bound_s`.

    Source: derived; `tests/property/test_bounds.py` checks it against the simulation.
    """
    both_s = sum(layer.both_passes_s(pipe.kind) for layer in (*layers, *pipe.ends))
    bounds_s = [_through_s(layers, pipe.kind), both_s * pipe.num_micro_batches / pipe.num_stages]
    if pipe.kind is ScheduleKind.ONE_F_ONE_B:
        bounds_s.append(one_f_one_b_factor(pipe.num_stages, pipe.num_micro_batches) * both_s)
    if pipe.boundaries:
        bounds_s.append(_even_bound_s(layers, pipe, busy_s))
    elif pipe.virtual_stages == 1:
        bounds_s.append(_staggered_bound_s(layers, pipe, reduces=False))
        bounds_s.append(_staggered_bound_s(layers, pipe, reduces=True))
    return max(bounds_s) + sum(layer.optimizer_s for layer in (*layers, *pipe.ends)) / pipe.num_stages


def _through_s(layers: Sequence[LayerMinimum], kind: ScheduleKind) -> float:
    if kind is ScheduleKind.DUALPIPE_V:
        return sum(layer.forward_s for layer in layers)
    return sum(layer.through_s if kind in SPLIT_BACKWARD else layer.joined_s for layer in layers)


def _staggered_bound_s(layers: Sequence[LayerMinimum], pipe: Pipe, *, reduces: bool) -> float:
    """Any split: the forwards of the stages below, then all of a stage's work; or all but the last backward, and then
    the reduction of its gradients, which only that backward completes.
    """
    m, kind = pipe.num_micro_batches, pipe.kind
    if reduces:
        work = [(m - 1) * layer.both_passes_s(kind) + layer.forward_s + layer.reduce_s for layer in layers]
    else:
        work = [m * layer.both_passes_s(kind) for layer in layers]
    share = min(layer.forward_s / work_s for layer, work_s in zip(layers, work, strict=True))
    return staggered_factor(pipe.num_stages, share) * sum(work)


def _even_bound_s(layers: Sequence[LayerMinimum], pipe: Pipe, busy_s: Sequence[float] = ()) -> float:
    """The longest of the devices' own paths where the split is known.

    Device p starts when a micro-batch has come through the chunks 0 of the devices below it, and no forward of all its
    layers ends before all its parameters are gathered: all but that forward comes after. It ends with its last
    backward, whose input gradients (where the backward is one action) still pass those chunks, or with the reduction of
    its gradients, which comes after all but that backward.

    `busy_s`: what each device works for one micro-batch, where more is known of it than the sum over its layers. A path
    that leaves out a forward or a backward may leave out the very pass that takes longer than the sum knows, so one
    micro-batch counts with that sum; where passes run side by side, all of them.
    """
    kind, but_one = pipe.kind, pipe.num_micro_batches - 1
    forward = _by_stage(pipe, layers, lambda layer: layer.forward_s)
    backward = _by_stage(pipe, layers, lambda layer: layer.backward_alone_s(kind))
    both = _by_stage(pipe, layers, lambda layer: layer.both_passes_s(kind))
    apart = _by_stage(pipe, layers, lambda layer: layer.apart_s(kind))
    gathered = _by_stage(pipe, layers, lambda layer: layer.gather_s)
    reduced = _by_stage(pipe, layers, lambda layer: layer.reduce_s)
    longest_s, below_s, around_s, above_s = 0.0, 0.0, 0.0, 0.0
    for device, chunks in enumerate(placement(kind, pipe.num_stages, pipe.virtual_stages)):
        sum_s = _device_s(pipe, device, [(both[stage], apart[stage]) for stage in chunks])
        one_s = busy_s[device] if busy_s else sum_s
        least_s = sum_s + but_one * (sum_s if kind is ScheduleKind.DUALPIPE_V else one_s)
        first = chunks[0]
        gathered_s = gathered[first] - apart[first] + backward[first]
        reduced_s = min(reduced[stage] - apart[stage] + forward[stage] for stage in chunks)
        returned_s = max(around_s + (but_one + 1) * one_s, gathered_s + least_s + above_s)
        longest_s = max(longest_s, returned_s, max(below_s, gathered_s) + least_s + reduced_s)
        below_s += forward[first]
        around_s += (forward if kind in SPLIT_BACKWARD else both)[first]
        above_s += 0.0 if kind in SPLIT_BACKWARD else backward[first]
    return longest_s


def _by_stage(pipe: Pipe, layers: Sequence[LayerMinimum], seconds: Callable[[LayerMinimum], float]) -> list[float]:
    """Sums over the layers of each virtual stage, embedding and head with the first and the last."""
    prefix = [0.0, *accumulate(seconds(layer) for layer in layers)]
    sums = [prefix[end] - prefix[start] for start, end in pairwise(pipe.boundaries)]
    for stage, end in zip((0, -1), pipe.ends, strict=False):
        sums[stage] += seconds(end)
    return sums


def _device_s(pipe: Pipe, device: int, chunks: list[tuple[float, float]]) -> float:
    """One micro-batch in a device's chunks, (passes, passes run apart) each; DualPipe overlaps only some forwards."""
    if pipe.kind is not ScheduleKind.DUALPIPE_V:
        return sum(both for both, _ in chunks)
    shares = [overlapped_share(pipe.kind, pipe.num_stages, pipe.num_micro_batches, device, chunk) for chunk in (0, 1)]
    return sum(share * both + (1.0 - share) * split for share, (both, split) in zip(shares, chunks, strict=True))


def known_boundaries(num_stages: int, boundaries: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """The given split; with one stage there is only one."""
    return boundaries or ((0, num_layers) if num_stages == 1 else ())


def problem_bound_s(problem: PointProblem, *, best_case: bool = False) -> float:
    """The bound of an inner problem: its choices know what sharding adds to every micro-batch, and what must fit.

    Infinite where nothing fits. What a forward saves beside a backward is not the least of any order of operators in
    the `best_case`, where only both together are: then DualPipe is not simulated.
    """
    minima = [_minimum(choices) for choices in problem.choices]
    pipe = Pipe(
        kind=problem.kind,
        num_stages=problem.num_stages,
        num_micro_batches=problem.num_micro_batches,
        virtual_stages=problem.virtual_stages,
        boundaries=_boundaries(problem),
        ends=tuple(_minimum((part,)) for part in (problem.first, problem.last) if part is not None),
    )
    if excess_bytes(problem) > MEMORY_TOLERANCE * problem.memory_limit_bytes:
        return float("inf")
    layers = [minima[kind] for kind in problem.layer_types]
    if not pipe.boundaries:
        return step_bound_s(layers, pipe)
    bound_s = step_bound_s(layers, pipe, busy_within_memory_s(problem, pipe.boundaries))
    if best_case and pipe.kind is ScheduleKind.DUALPIPE_V:
        return bound_s
    return max(bound_s, least_step_s(problem, pipe.boundaries))


def excess_bytes(problem: PointProblem) -> float:
    """Bytes by which every assignment exceeds the memory of some device, at least; 0 or less where one may fit."""
    return least_excess_bytes(problem, _boundaries(problem))


def _boundaries(problem: PointProblem) -> tuple[int, ...]:
    return known_boundaries(problem.num_stages, problem.boundaries, len(problem.layer_types))


def _minimum(ways: Sequence[Choice | EndCost]) -> LayerMinimum:
    return msgspec.structs.replace(
        layer_minimum([_pass_times(way) for way in ways]),
        gather_s=min(way.param_gather_s for way in ways),
        reduce_s=min(way.grad_reduce_s for way in ways),
        optimizer_s=min(way.optimizer_s for way in ways),
    )


def _pass_times(choice: Choice | EndCost) -> PassTimes:
    return PassTimes(
        forward_s=choice.forward_s,
        backward_s=choice.backward_s,
        dgrad_s=choice.dgrad_s,
        wgrad_s=choice.wgrad_s,
        overlap_saving_s=choice.overlap_saving_s,
    )


@lru_cache(maxsize=65536)
def one_f_one_b_factor(num_stages: int, num_micro_batches: int) -> float:
    """Factor c such that any split of layers takes at least c S under 1F1B, S one micro-batch in all layers.

    With stage times T_p (forward and backward, summing to S) there is for each stage p the path

        T_0 + ... + T_(p-1)  +  (m - P + p + 1) T_p  +  2 (T_(p+1) + ... + T_(P-1))          (m > P)

    (up to p; all of p's work; the round trips through the stages above it before its first and after its last backward,
    which at most P - p - 1 of its own forwards and backwards can fill). A weighted mean of these paths with weights
    lambda_p >= 0 pays every T_p equally, (m + P - 1) / P times, so no split is faster than the even one. For m <= P the
    paths T_0 + ... + T_(p-1) + m T_p give r / (r - 1) with r = (m / (m - 1))^P.

    Source: derived; the even split reaches it (arXiv 2104.04473, section 2.2).

    >>> one_f_one_b_factor(4, 8)
    2.75
    >>> one_f_one_b_factor(1, 8)
    8.0
    """
    if num_stages == 1:
        return float(num_micro_batches)
    if num_micro_batches > num_stages:
        return (num_micro_batches + num_stages - 1) / num_stages
    if num_micro_batches == 1:
        return 1.0
    growth = (num_micro_batches / (num_micro_batches - 1)) ** num_stages
    return max(1.0, growth / (growth - 1))


def staggered_factor(num_stages: int, forward_share: float) -> float:
    """Factor c such that max over p of (F_0 + ... + F_(p-1) + Y_p) is at least c times the sum of all Y_p.

    With F_p >= a Y_p; the paths are weighted so that every Y_p is paid equally:

        c = a / (1 - (1 - a)^P)

    Source: derived, as `one_f_one_b_factor`.

    >>> round(staggered_factor(1, 1 / 24), 12)
    1.0
    >>> round(staggered_factor(4, 1 / 24), 4)
    0.2662
    """
    return forward_share / (1.0 - (1.0 - forward_share) ** num_stages)
