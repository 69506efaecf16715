"""Branch and bound over the orders of a pass, for one choice of fused kernels: exact, interference included.

Time runs forward. Whenever a stream is idle, the next launch on it is chosen among those that no launch still to come
on the same stream leads to; it starts as soon as it can. That reaches every order of every stream exactly once. A
branch is cut when its bound is not below the best order known: the work left on the compute stream with the least
interference of the communication left, the work left on each link, and the longest path that is still to run.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshwright.costmodel.order.bound import load_bound_s
from meshwright.costmodel.order.clock import EPSILON_S
from meshwright.costmodel.order.grouping import Grouping, tails_s, unit_times_s
from meshwright.costmodel.order.list_schedule import Fits, operators_of
from meshwright.costmodel.order.pass_problem import COMPUTE, NO_LINK, NUM_STREAMS, PassProblem
from meshwright.costmodel.order.run_order import streams_of

NONE = -1


@dataclass(slots=True, kw_only=True, eq=False)
class _State:
    """A moment of a partial order. `chosen`: the next launch on each stream, where that is decided."""

    now_s: float
    left_s: list[float]
    waiting: list[int]
    running: list[int]
    chosen: list[int]
    to_choose: list[int]
    num_left: int
    sequence: tuple[int, ...]

    def copy(self) -> _State:
        return _State(
            now_s=self.now_s,
            left_s=self.left_s.copy(),
            waiting=self.waiting.copy(),
            running=self.running.copy(),
            chosen=self.chosen.copy(),
            to_choose=self.to_choose.copy(),
            num_left=self.num_left,
            sequence=self.sequence,
        )


class BranchAndBound:
    """One search among the orders that fit: `best_s` and `sequence` the best found, `is_complete` if all were seen."""

    def __init__(
        self, problem: PassProblem, grouping: Grouping, fits: Fits, *, cutoff_s: float, num_nodes: int
    ) -> None:
        self.problem, self.grouping, self.fits = problem, grouping, fits
        self.best_s = cutoff_s
        self.sequence: tuple[int, ...] = ()
        self.nodes_left = num_nodes
        self.is_complete = True
        self._times_s = unit_times_s(problem, grouping)
        self._tails_s = tails_s(grouping, self._times_s)
        self._streams = [streams_of(grouping, number) for number in range(len(self._times_s))]
        self._leading = _leading_masks(grouping)
        self._seen: set[object] = set()
        self._has_refused = self._has_merged = False

    def run(self) -> int:
        """Search until all orders are looked at or the nodes are spent; the number of nodes spent."""
        nodes = self.nodes_left
        to_choose = [0] * NUM_STREAMS
        for number, streams in enumerate(self._streams):
            for stream in streams:
                to_choose[stream] |= 1 << number
        self._search(
            _State(
                now_s=0.0,
                left_s=list(self._times_s),
                waiting=[len(before) for before in self.grouping.before],
                running=[NONE] * NUM_STREAMS,
                chosen=[NONE] * NUM_STREAMS,
                to_choose=to_choose,
                num_left=len(self._times_s),
                sequence=(),
            )
        )
        if self._has_refused and self._has_merged:
            self.is_complete = False
        return nodes - self.nodes_left

    def _search(self, state: _State) -> None:
        if self.nodes_left <= 0:
            self.is_complete = False
            return
        self.nodes_left -= 1
        stream = self._forward(state)
        if state.num_left == 0:
            if state.now_s < self.best_s:
                self._note(state)
            return
        if stream == NONE or self._bound_s(state) >= self.best_s or self._is_repeated(state):
            return
        for number in self._candidates(state, stream):
            child = state.copy()
            child.chosen[stream] = number
            child.to_choose[stream] ^= 1 << number
            self._search(child)

    def _note(self, state: _State) -> None:
        """An order that is faster than the best: kept if it fits.

        Where one does not, what was taken for a repetition may have led to one that does: then not all is proven.
        """
        if self.fits(operators_of(self.grouping, state.sequence)):
            self.best_s, self.sequence = state.now_s, state.sequence
        else:
            self._has_refused = True

    def _forward(self, state: _State) -> int:
        """Run on until a stream needs a choice, and return it; NONE at the end, and where all streams wait in vain."""
        while True:
            self._start_chosen(state)
            for stream in range(NUM_STREAMS):
                if state.running[stream] == NONE and state.chosen[stream] == NONE and state.to_choose[stream]:
                    only = self._only_candidate(state, stream)
                    if only == NONE:
                        return stream
                    state.chosen[stream] = only
                    state.to_choose[stream] ^= 1 << only
                    break
            else:
                if all(number == NONE for number in state.running):
                    return NONE
                self._advance(state)

    def _start_chosen(self, state: _State) -> None:
        for stream in range(NUM_STREAMS):
            number = state.chosen[stream]
            if number == NONE or state.waiting[number]:
                continue
            streams = self._streams[number]
            if all(state.chosen[other] == number and state.running[other] == NONE for other in streams):
                for other in streams:
                    state.running[other], state.chosen[other] = number, NONE
                state.sequence = (*state.sequence, number)

    def _only_candidate(self, state: _State, stream: int) -> int:
        mask = state.to_choose[stream]
        if mask & (mask - 1) == 0:
            return mask.bit_length() - 1
        found = NONE
        for number in _bits(mask):
            if not self._leading[number] & mask:
                if found != NONE:
                    return NONE
                found = number
        return found

    def _candidates(self, state: _State, stream: int) -> list[int]:
        """What may come next on a stream; ready launches with long tails first, as list scheduling has it."""
        mask = state.to_choose[stream]
        free = [number for number in _bits(mask) if not self._leading[number] & mask]
        return sorted(free, key=lambda number: (state.waiting[number] > 0, -self._tails_s[number], number))

    def _advance(self, state: _State) -> None:
        """To the next end, at the speeds of `costmodel.order.clock`."""
        running, left_s, problem = state.running, state.left_s, self.problem
        computing = running[COMPUTE]
        beside = computing != NONE and self.grouping.computes[computing]
        links = [(stream, number) for stream, number in enumerate(running) if number not in (NONE, computing)]
        speeds = [(number, 1.0 / problem.stretch[stream] if beside else 1.0) for stream, number in links]
        if computing != NONE:
            loss = sum(problem.loss[stream] for stream, _ in links) if beside else 0.0
            speeds.append((computing, 1.0 - loss))
        step_s = min(left_s[number] / speed for number, speed in speeds)
        state.now_s += step_s
        for number, speed in speeds:
            left_s[number] -= step_s * speed
            if left_s[number] <= EPSILON_S:
                left_s[number] = 0.0
                state.num_left -= 1
                for stream in self._streams[number]:
                    running[stream] = NONE
                for next_ in self.grouping.after[number]:
                    state.waiting[next_] -= 1

    def _bound_s(self, state: _State) -> float:
        """No order that continues this one is faster."""
        compute_s = blocking_s = 0.0
        moved_s = [0.0] * NUM_STREAMS
        occupied_s = [0.0] * NUM_STREAMS
        path_s = 0.0
        for number, left_s in enumerate(state.left_s):
            if left_s > 0.0:
                link = self.grouping.link[number]
                if not self.grouping.on_compute[number]:
                    moved_s[link] += left_s
                else:
                    compute_s += left_s
                    blocking_s += 0.0 if self.grouping.computes[number] else left_s
                    if link != NO_LINK:
                        occupied_s[link] += left_s
                if not state.waiting[number]:
                    path_s = max(path_s, left_s + self._tails_s[number] - self._times_s[number])
        idle_s = self._least_wait_s(state)
        moved_s = [max(0.0, link_s - blocking_s) for link_s in moved_s]
        load_s = load_bound_s(compute_s, moved_s, occupied_s, idle_s, self.problem.loss, self.problem.stretch)
        return state.now_s + max(load_s, path_s)

    def _least_wait_s(self, state: _State) -> float:
        """What the compute stream waits at least for the launch that it has committed itself to."""
        number = state.chosen[COMPUTE]
        if number == NONE or state.running[COMPUTE] != NONE or not state.waiting[number]:
            return 0.0
        return max(
            (state.left_s[source] for source in self.grouping.before[number] if not self.grouping.on_compute[source]),
            default=0.0,
        )

    def _is_repeated(self, state: _State) -> bool:
        """Whether the same moment was reached on another way."""
        running = tuple((number, round(state.left_s[number], 13)) for number in state.running if number != NONE)
        key = (tuple(state.to_choose), tuple(state.chosen), running, round(state.now_s, 13))
        if key in self._seen:
            self._has_merged = True
            return True
        self._seen.add(key)
        return False


def _leading_masks(grouping: Grouping) -> list[int]:
    """By launch: bit mask of the launches that lead to it."""
    masks = [0] * len(grouping.groups)
    for number in range(len(masks)):
        for source in grouping.before[number]:
            masks[number] |= masks[source] | 1 << source
    return masks


def _bits(mask: int) -> list[int]:
    numbers = []
    while mask:
        lowest = mask & -mask
        numbers.append(lowest.bit_length() - 1)
        mask ^= lowest
    return numbers


assert NO_LINK == NONE  # a launch without a link has no stream of that number
