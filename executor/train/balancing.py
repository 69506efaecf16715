"""What a run is asked to do for balanced experts, as the command line says it."""

from __future__ import annotations

import math

from msgspec import UNSET, UnsetType

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.value import Value
from meshwright.executor.layer.router_losses import LossScope, RouterLosses

AUX_LOSS, Z_LOSS, BIAS_SPEED, CAPACITY = "--aux-loss", "--z-loss", "--bias-speed", "--capacity"
BALANCED = "--balanced"
AS_PLANNED, DROPLESS = "planned", "dropless"


class Balancing(Value, frozen=True, kw_only=True):
    """Coefficients of the losses of even loads and of small logits; `bias_speed`: by how much a step moves the bias of
    experts that are chosen too often or too rarely. 0: not at all. `capacity_factor`: tokens of an expert at most, over
    the mean; infinite: all of them; unset: as the plan has it.
    """

    aux_loss: float = 0.0
    aux_scope: LossScope = LossScope.PER_SEQUENCE
    z_loss: float = 0.0
    bias_speed: float = 0.0
    capacity_factor: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        for option, value in self.asked().items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(option, "", f"{value} is not a number >= 0")
        if not isinstance(self.capacity_factor, UnsetType) and not self.capacity_factor > 0:
            raise InputError(CAPACITY, "", f"{self.capacity_factor} is not a positive number")

    @property
    def losses(self) -> RouterLosses:
        """What routers are trained for."""
        return RouterLosses(even=self.aux_loss, scope=self.aux_scope, z=self.z_loss)

    @property
    def aux_text(self) -> str:
        """The loss of even loads as `read_balancing` takes it."""
        return f"{self.aux_loss!r}:{self.aux_scope}"

    @property
    def capacity_text(self) -> str:
        """The capacity as `read_balancing` takes it."""
        factor = self.capacity_factor
        if isinstance(factor, UnsetType):
            return AS_PLANNED
        return DROPLESS if math.isinf(factor) else repr(factor)

    def asked(self) -> dict[str, float]:
        """The numbers by option."""
        return {AUX_LOSS: self.aux_loss, Z_LOSS: self.z_loss, BIAS_SPEED: self.bias_speed}


def read_balancing(aux_loss: str, z_loss: float, bias_speed: float, capacity: str = AS_PLANNED) -> Balancing:
    """`aux_loss` is COEF or COEF:SCOPE, `capacity` a number, planned or dropless; raises `InputError`.

    >>> asked = read_balancing("0.01:per-batch", 0.0, 0.0, "1.25")
    >>> asked.losses.scope.value, asked.capacity_factor
    ('per-batch', 1.25)
    """
    number, _, scope = aux_loss.partition(":")
    known = [member.value for member in LossScope]
    coefficient = _number(number)
    if not math.isfinite(coefficient) or (":" in aux_loss and scope not in known):
        raise InputError(AUX_LOSS, aux_loss, f"expected a number, or one with :SCOPE of {', '.join(known)}")
    return Balancing(
        aux_loss=coefficient,
        aux_scope=LossScope(scope) if scope else LossScope.PER_SEQUENCE,
        z_loss=z_loss,
        bias_speed=bias_speed,
        capacity_factor=_capacity(capacity),
    )


def _number(text: str) -> float:
    """Not a number where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _capacity(text: str) -> float | UnsetType:
    named: dict[str, float | UnsetType] = {AS_PLANNED: UNSET, DROPLESS: math.inf}
    if text in named:
        return named[text]
    factor = _number(text)
    if not math.isfinite(factor):
        raise InputError(CAPACITY, text, f"expected a positive number, {AS_PLANNED} or {DROPLESS}")
    return factor


def check_routed(balancing: Balancing) -> None:
    """Raise `InputError` for what would change nothing where tokens go to experts in turn."""
    for option, value in balancing.asked().items():
        if value and option != Z_LOSS:
            raise InputError(option, "", "does nothing with --balanced, which sends tokens to experts in turn")


def check_has_experts(option: str, configuration: TrainingConfiguration) -> None:
    """Raise `InputError` for an option about experts where a model has none."""
    if not any(isinstance(layer.ffn, MoeFfnSpec) for layer in configuration.model.layers):
        raise InputError(option, "", "the plan's model has no experts")


def check_balancing(balancing: Balancing, configuration: TrainingConfiguration) -> None:
    """Raise `InputError` for what would change nothing in a plan's model."""
    layers = [layer.ffn for layer in configuration.model.layers if isinstance(layer.ffn, MoeFfnSpec)]
    for option, value in balancing.asked().items():
        if value:
            check_has_experts(option, configuration)
    if not isinstance(balancing.capacity_factor, UnsetType):
        check_has_experts(CAPACITY, configuration)
    if balancing.bias_speed and not any(ffn.score_correction_bias for ffn in layers):
        raise InputError(BIAS_SPEED, "", "the plan's model has no bias that balances experts; expected one that has")
    if balancing.aux_loss and balancing.aux_scope is LossScope.PER_DEVICE and configuration.mesh.ep == 1:
        raise InputError(AUX_LOSS, balancing.aux_text, "all experts are on every rank (ep 1): there is nothing to even")
