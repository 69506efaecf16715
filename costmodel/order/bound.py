"""A lower bound of the time of a pass over all its orders and all choices of fused kernels.

Communications X_1 < X_2 < ... that wait for one another run at different times. While X_j runs, only computation can
run that neither leads to it nor follows from it, or its product in a fused kernel. So at most part of it hides, and
the computation idles for the rest: at least I seconds in all (`_least_idle_s`). Communication apart from the chain, on
other links, makes that computation last longer and so hides more.

With I seconds of idling and M_i seconds of communication on link i, at least M_i - I of it runs beside computation,
stretch_i times as long, and costs the share loss_i of its speed meanwhile. C seconds of computation then take

    T >= C + I + sum_i loss_i stretch_i max(0, M_i - I)

at the least of all possible I. Other bounds: the longest path through the dependencies, and

    T >= C + D,    D = sum_j X_j - (1 - loss_j stretch_j) h_j

with at most h_j seconds of X_j hidden while nothing else stretches computation. A second by which other links stretch
it hides at most 1 / ((1 - loss) stretch) more of the chain, which gains (1 - loss stretch) / ((1 - loss) stretch) <= 1
seconds: it never pays for itself.

The bound is not monotone in the seconds of operators: the first formula grants what other links stretch in full and
charges for it in part. But with more seconds no order is faster than the bound with less (tested): nothing above
needs launches to start at once, and if they may wait, whatever is done in more seconds can be done in less.

Source: derived; tests compare it with all orders of small passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import inf

from meshwright.costmodel.order.pass_problem import NO_LINK, NUM_STREAMS, CoveredCommunication, PassProblem

HALVINGS = 30
"""Steps of the bisection for the idle time at which two bounds meet; the lower end is used."""


@lru_cache(maxsize=65536)
def pass_bound_s(problem: PassProblem) -> float:
    """No order of the pass is faster."""
    compute_s = sum(time_s for time_s, link in zip(problem.time_s, problem.link, strict=True) if link == NO_LINK)
    communications = problem.shape.communications
    if not communications:
        return compute_s
    covers = [_Cover(problem, communication) for communication in communications]
    by_seconds = _heaviest_chain(covers, [cover.time_s for cover in covers])
    by_exposed = _heaviest_chain(covers, [cover.time_s - cover.hideable_s for cover in covers])
    chains = (by_seconds,) if by_seconds == by_exposed else (by_seconds, by_exposed)
    least_idle_s = max(_least_idle_s(problem, [covers[place] for place in chain]) for chain in chains)
    by_delay = _heaviest_chain(covers, [cover.time_s - cover.gain_s for cover in covers])
    delaying = chains if by_delay in chains else (*chains, by_delay)
    delay_s = max(_least_delay_s(problem, [covers[place] for place in chain]) for chain in delaying)
    load_s = load_bound_s(
        compute_s,
        _free_of_blocking(problem),
        problem.occupied_s,
        least_idle_s,
        problem.loss,
        problem.stretch,
    )
    return max(load_s, compute_s + delay_s, _longest_path_s(problem))


def _free_of_blocking(problem: PassProblem) -> list[float]:
    """Seconds of communication by stream, less what may run at full speed while other communication blocks."""
    moved_s = [0.0] * NUM_STREAMS
    blocked_s = 0.0
    for time_s, link, computes in zip(problem.time_s, problem.link, problem.shape.is_compute, strict=True):
        if link != NO_LINK:
            moved_s[link] += time_s
        elif not computes:
            blocked_s += time_s
    return [max(0.0, moved - blocked_s) for moved in moved_s]


class _Cover:
    """One communication: its seconds, its link, what may run beside it, the most of it that can hide, and gain."""

    def __init__(self, problem: PassProblem, communication: CoveredCommunication) -> None:
        self.link = problem.link[communication.index]
        self.mask, self.stretching = communication.cover, communication.stretching
        self.bit, self.follows = 1 << communication.index, communication.follows
        self.time_s = problem.time_s[communication.index]
        beside_s = _hidden_s(problem, communication.beside, self.stretching, {self.link: self.time_s})
        kernels = [problem.fused_times_s(pair) for pair in communication.pairs]
        self.hideable_s = min(self.time_s, max((beside_s, *(hidden_s for _, hidden_s, _ in kernels))))
        gain_s = _gain_s(problem, communication.beside, {self.link: self.time_s})
        self.gain_s = min(self.time_s, max((gain_s, *(hidden_s - slowdown_s for _, hidden_s, slowdown_s in kernels))))


def load_bound_s(
    compute_s: float,
    moved_s: Sequence[float],
    occupied_s: Sequence[float],
    least_idle_s: float,
    loss: Sequence[float],
    stretch: Sequence[float],
) -> float:
    """The least time for so much computation and communication (by stream), idling at least so long.

    The load formula of this module, joined with that of each link: it is occupied by fused kernels (whose seconds count
    as computation) for O_i, runs y <= I seconds of its own communication at full speed and the rest beside computation,
    hence T >= O_i + stretch_i (M_i - I) + I. The first grows with I and the second falls; the least T is where they
    meet.
    """

    def busy_s(idle_s: float) -> float:
        hidden_s = (max(0.0, moved - idle_s) for moved in moved_s)
        return compute_s + idle_s + sum(a * b * hidden for a, b, hidden in zip(loss, stretch, hidden_s, strict=True))

    def link_s(idle_s: float) -> float:
        return max(
            occupied + (factor * (moved - idle_s) + idle_s if moved > idle_s else moved)
            for factor, moved, occupied in zip(stretch, moved_s, occupied_s, strict=True)
        )

    if sum(a * b for a, b in zip(loss, stretch, strict=True)) >= 1.0:
        return min(busy_s(idle_s) for idle_s in {least_idle_s, *(max(least_idle_s, moved) for moved in moved_s)})
    low_s, high_s = least_idle_s, max(least_idle_s, *moved_s)
    if link_s(low_s) <= busy_s(low_s):
        return busy_s(low_s)
    for _ in range(HALVINGS):
        middle_s = 0.5 * (low_s + high_s)
        low_s, high_s = (middle_s, high_s) if link_s(middle_s) > busy_s(middle_s) else (low_s, middle_s)
    return busy_s(low_s)


def _least_idle_s(problem: PassProblem, chain: list[_Cover]) -> float:
    """The least that computation idles while the communications of a chain run.

    Every run of neighbours in the chain hides under the computation apart from some of them, at most; the chain is cut
    into runs where that says most.
    """
    most_s = [0.0]
    in_chain = sum(cover.bit for cover in chain)
    for last in range(len(chain)):
        hideable_s, mask, stretching = 0.0, 0, 0
        moved_s: dict[int, float] = {}
        best_s = most_s[last]
        for first in range(last, -1, -1):
            cover = chain[first]
            moved_s[cover.link] = moved_s.get(cover.link, 0.0) + cover.time_s
            hideable_s += cover.hideable_s
            mask |= cover.mask
            stretching |= cover.stretching & ~in_chain
            hidden_s = hideable_s
            if first < last:
                hidden_s = min(hideable_s, _hidden_s(problem, mask, stretching, moved_s))
            best_s = max(best_s, most_s[first] + sum(moved_s.values()) - hidden_s)
        most_s.append(best_s)
    return most_s[-1]


def _least_delay_s(problem: PassProblem, chain: list[_Cover]) -> float:
    """The least that a chain adds to computation: what it idles, and what the chain's hidden part costs it.

    Cut into runs as `_least_idle_s`.
    """
    most_s = [0.0]
    for last in range(len(chain)):
        gain_s, mask = 0.0, 0
        moved_s: dict[int, float] = {}
        best_s = most_s[last]
        for first in range(last, -1, -1):
            cover = chain[first]
            moved_s[cover.link] = moved_s.get(cover.link, 0.0) + cover.time_s
            gain_s += cover.gain_s
            mask |= cover.mask
            saved_s = gain_s if first == last else min(gain_s, _gain_s(problem, mask, moved_s))
            best_s = max(best_s, most_s[first] + sum(moved_s.values()) - saved_s)
        most_s.append(best_s)
    return most_s[-1]


def _gain_s(problem: PassProblem, mask: int, moved_s: dict[int, float]) -> float:
    """The most seconds won by communication (by link) that hides beside a set, less what it costs computation."""
    computing_s, gain_s = _seconds_of(problem, mask)
    won = []
    for link, link_s in moved_s.items():
        loss, stretch = problem.loss[link], problem.stretch[link]
        needed = (1.0 - loss) * stretch
        won.append((max(0.0, 1.0 - loss * stretch) / needed, needed * link_s))
    for ratio, needed_s in sorted(won, reverse=True):
        taken_s = min(needed_s, computing_s)
        computing_s -= taken_s
        gain_s += ratio * taken_s
    return gain_s


def _hidden_s(problem: PassProblem, mask: int, stretching: int, moved_s: dict[int, float]) -> float:
    """The most communication (seconds by link) that runs while the operators of a set do, the fastest link first.

    Beside computation a link advances by 1 / ((1 - loss) stretch) for a second of computation alone; beside blocking
    communication at full speed. Communication that runs at the same time on other links (`stretching`) makes the
    computation last longer, by loss stretch for each second, but only as long as there is computation.
    """
    computing_s, blocking_s = _seconds_of(problem, mask)
    if computing_s and stretching:
        most_s = computing_s * _most_stretch(problem, stretching, moved_s)
        computing_s += min(_stretched_s(problem, stretching), most_s)
    speeds = sorted(
        ((1.0 / ((1.0 - problem.loss[link]) * problem.stretch[link]), link) for link in moved_s), reverse=True
    )
    hidden_s = blocking_s
    for speed, link in speeds:
        taken_s = min(moved_s[link], speed * computing_s)
        computing_s -= taken_s / speed
        hidden_s += taken_s
    return hidden_s


def _stretched_s(problem: PassProblem, mask: int) -> float:
    """Seconds by which communication of a set makes computation beside it last longer."""
    longer_s = 0.0
    while mask:
        lowest = mask & -mask
        index = lowest.bit_length() - 1
        link = problem.link[index]
        longer_s += problem.loss[link] * problem.stretch[link] * problem.time_s[index]
        mask ^= lowest
    return longer_s


def _most_stretch(problem: PassProblem, mask: int, moved_s: Iterable[int]) -> float:
    """The most by which computation beside communication on some links lasts longer, others running all the time."""
    others = {problem.link[index] for index in range(len(problem.link)) if mask >> index & 1}
    most = 0.0
    for link in moved_s:
        lost = sum(problem.loss[other] for other in others if other != link)
        left = 1.0 - problem.loss[link] - lost
        if lost:
            most = max(most, lost / left if left > 0.0 else inf)
    return most


def _seconds_of(problem: PassProblem, mask: int) -> tuple[float, float]:
    """Seconds of computation and of blocking communication in a set of operators."""
    computing_s = blocking_s = 0.0
    while mask:
        lowest = mask & -mask
        index = lowest.bit_length() - 1
        if problem.shape.is_compute[index]:
            computing_s += problem.time_s[index]
        else:
            blocking_s += problem.time_s[index]
        mask ^= lowest
    return computing_s, blocking_s


def _heaviest_chain(covers: list[_Cover], weights: list[float]) -> list[int]:
    """Places of communications that follow from one another, with the most weight."""
    best: list[tuple[float, list[int]]] = []
    for place, cover in enumerate(covers):
        weight, chain = max((best[other] for other in cover.follows), key=lambda entry: entry[0], default=(0.0, []))
        best.append((weight + weights[place], [*chain, place]))
    return max(best, key=lambda entry: entry[0])[1]


def _longest_path_s(problem: PassProblem) -> float:
    """The longest path, a communication that can be fused taking what its kernel adds to the product at least."""
    least_s = list(problem.time_s)
    for pair in problem.pairs:
        _, hidden_s, slowdown_s = problem.fused_times_s(pair)
        in_kernel_s = problem.time_s[pair.communication] - hidden_s + slowdown_s
        least_s[pair.communication] = min(least_s[pair.communication], in_kernel_s)
    ends_s: list[float] = []
    for time_s, sources in zip(least_s, problem.shape.before, strict=True):
        start_s = 0.0
        for source in sources:
            if ends_s[source] > start_s:
                start_s = ends_s[source]
        ends_s.append(start_s + time_s)
    return max(ends_s)
