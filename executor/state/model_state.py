"""The state of a rank's parameters while passes run: weights before they are needed, gradients once they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from meshwright.costmodel.order.launch_order import PassKind
from meshwright.executor.layer.accumulator import Accumulator
from meshwright.executor.layer.collectives import all_reduce
from meshwright.executor.state.choice import StateChoice
from meshwright.executor.state.flat import FlatParameters
from meshwright.executor.state.gradients import GradientKeeper, ScatteredGradients, WholeGradients
from meshwright.executor.state.lane import Lane, make_lanes
from meshwright.executor.state.slots import PartFlats, flats_of
from meshwright.executor.state.weights import GatheredWeights, Timed, WeightKeeper, WholeWeights


class ModelState:
    """Buffers that nobody shares are kept whole, whatever the plan shards: there is nothing to reduce or gather.

    Passes of a rank run one after another: under ZeRO-2 and 3, neither two parts at a time nor two passes of one.
    """

    def __init__(
        self,
        flats: tuple[FlatParameters, ...],
        parts: PartFlats,
        choice: StateChoice,
        timed: Timed,
        *,
        num_micro_batches: int,
    ) -> None:
        self.flats = flats
        gathers, reduces = make_lanes(
            flats[0].weights.device, gathers_beside=choice.gathers_beside, reduces_beside=choice.reduces_beside
        )
        self._weights = _weight_keepers(parts, choice, gathers, timed)
        self._gradients = _gradient_keepers(parts, choice, reduces, timed, num_micro_batches)

    def weights_of(self, part: str) -> dict[str, Tensor]:
        """The weights of a part by name, filled while it runs."""
        return {name: view for keeper in self._weights for name, view in keeper.of_part(part).items()}

    def accumulators_of(self, part: str) -> dict[str, Accumulator]:
        """What a part adds its gradients to, by name."""
        return {name: one for keeper in self._gradients for name, one in keeper.of_part(part).items()}

    @contextmanager
    def passing(self, kind: PassKind, part: str, following: str | None) -> Iterator[None]:
        """A pass of a part runs inside; `following` is the part behind it in this pass."""
        if kind is not PassKind.WGRAD:  # which needs no weights
            for weights in self._weights:
                weights.before_pass(part, following)
        if kind is PassKind.FORWARD:
            yield
            return
        for gradients in self._gradients:
            gradients.before_pass(part)
        yield
        for gradients in self._gradients:
            gradients.after_pass(part, kind)

    def restart(self) -> None:
        """A step begins."""
        for gradients in self._gradients:
            gradients.restart()

    def gradient_shards(self) -> list[Tensor]:
        """The gradients of this rank's shards: sums over micro-batches, copies and, where tied, both ends."""
        found: dict[FlatParameters, Tensor] = {}
        for gradients in self._gradients:
            found |= gradients.finish()
        return [all_reduce(found[flat], flat.holders.ends) for flat in self.flats]

    def spread(self) -> None:
        """Shards of the weights have changed: gathers what passes need. A collective."""
        for weights in self._weights:
            weights.spread()


def _weight_keepers(parts: PartFlats, choice: StateChoice, lane: Lane, timed: Timed) -> tuple[WeightKeeper, ...]:
    sharded, whole = _apart(parts, lambda flat: choice.shards_weights and flat.holders.shards.size > 1)
    keepers: list[WeightKeeper] = [WholeWeights(whole, lane, timed)]
    return tuple(keepers) if not flats_of(sharded) else (*keepers, GatheredWeights(sharded, lane, timed))


def _gradient_keepers(
    parts: PartFlats, choice: StateChoice, lane: Lane, timed: Timed, num_micro_batches: int
) -> tuple[GradientKeeper, ...]:
    sharded, whole = _apart(parts, lambda flat: choice.shards_gradients and flat.holders.shards.size > 1)
    keepers: list[GradientKeeper] = [
        WholeGradients(whole, lane, timed, num_micro_batches=num_micro_batches, sums=choice.sums, wire=choice.wire)
    ]
    if flats_of(sharded):
        keepers.append(ScatteredGradients(sharded, lane, timed, sums=choice.sums, wire=choice.wire))
    return tuple(keepers)


def _apart(parts: PartFlats, is_sharded: Callable[[FlatParameters], bool]) -> tuple[PartFlats, PartFlats]:
    """Each part's buffers that are sharded, and those that are not."""
    sharded = {part: tuple(flat for flat in flats if is_sharded(flat)) for part, flats in parts.items()}
    whole = {part: tuple(flat for flat in flats if not is_sharded(flat)) for part, flats in parts.items()}
    return sharded, whole
