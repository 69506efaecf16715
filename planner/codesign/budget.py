"""What a shape may cost, in parameters or FLOPs, and the size that makes a shape cost as much as the base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from meshwright.costmodel.errors import InfeasibleError, InputError, ModelError
from meshwright.costmodel.formulas.flops import flops_per_token
from meshwright.costmodel.formulas.parameters import active_parameters, total_parameters
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.value import Value
from meshwright.planner.codesign.dimensions import DIMENSIONS, shaped, sizes_of


class Measure(StrEnum):
    """A figure of a model's shape."""

    PARAMETERS = "parameters"
    ACTIVE_PARAMETERS = "active-parameters"
    FLOPS = "flops"


def read_measure(option: str, text: str) -> Measure:
    """The measure of that name; an `InputError` names the option and lists them."""
    if text not in [measure.value for measure in Measure]:
        raise InputError(option, "", f"{text!r} is unknown; expected one of {', '.join(Measure)}")
    return Measure(text)


class Budget(Value, frozen=True, kw_only=True):
    """A measure that every shape must have as much of as the base model, within `tolerance_fraction` of `amount`."""

    measure: Measure
    amount: float
    tolerance_fraction: float

    def excess(self, amount: float) -> float:
        """An amount over the budget's, less 1."""
        return amount / self.amount - 1.0

    def allows(self, amount: float) -> bool:
        """Whether an amount is within the tolerance."""
        return abs(self.excess(amount)) <= self.tolerance_fraction


def measured(model: ModelSpec, measure: Measure, seq_len: int) -> float:
    """Total or active parameters, or training FLOPs of a token in a sequence of `seq_len`.

    >>> from meshwright.costmodel.presets import load_model
    >>> model = load_model("internal-352b")
    >>> [round(measured(model, measure, 8192) / 1e9, 1) for measure in Measure]
    [351.9, 45.3, 282.5]
    """
    if measure is Measure.FLOPS:
        return flops_per_token(model, seq_len)
    return float(total_parameters(model) if measure is Measure.PARAMETERS else active_parameters(model))


def solved_size(
    base: ModelSpec, sizes: Mapping[str, int], adjust: str, multiple: int, budget: Budget, seq_len: int
) -> int:
    """The multiple of `multiple` for the size `adjust` with which the shape comes nearest to the budget.

    Raises `InfeasibleError` where even that is outside the tolerance, and `ModelError` where sizes contradict each
    other. The measure must grow with the size; sizes that are too small to be legal count as none of it.
    """

    def amount(steps: int) -> float:
        try:
            model = shaped(base, {**sizes, adjust: steps * multiple})
        except ModelError:
            return 0.0
        return measured(model, budget.measure, seq_len)

    most = DIMENSIONS[adjust].largest // multiple
    below = _last(lambda steps: amount(steps) <= budget.amount, most)
    tried = {steps: amount(steps) for steps in (below, below + 1) if 1 <= steps <= most}
    best = min(tried, key=lambda steps: (abs(budget.excess(tried[steps])), steps))
    if not tried[best]:
        shaped(base, {**sizes, adjust: best * multiple})
    if not budget.allows(tried[best]):
        found = {steps * multiple: budget.excess(amount) for steps, amount in tried.items() if amount}
        raise InfeasibleError(_outside(adjust, multiple, budget, found))
    return best * multiple


def moves(base: ModelSpec, adjust: str, measure: Measure, seq_len: int) -> bool:
    """Whether a size moves a measure at all: twice as much of it gives at least 1 % more."""
    larger = shaped(base, {adjust: 2 * sizes_of(base)[adjust]})
    return measured(larger, measure, seq_len) >= 1.01 * measured(base, measure, seq_len)


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` for which something holds that holds up to a point; 0 if for none.

    >>> _last(lambda number: number * number <= 50, 100), _last(lambda number: False, 100), _last(bool, 100)
    (7, 0, 100)
    """
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _outside(adjust: str, multiple: int, budget: Budget, found: Mapping[int, float]) -> str:
    """Why no size keeps the budget; `found` has what the nearest sizes exceed it by."""
    steps = f" in multiples of {multiple}" if multiple > 1 else ""
    nearest = ", ".join(f"{adjust} {size} gives {excess:+.1%}" for size, excess in sorted(found.items()))
    return f"no {adjust}{steps} keeps {budget.measure} within {budget.tolerance_fraction:.1%}: {nearest}"
