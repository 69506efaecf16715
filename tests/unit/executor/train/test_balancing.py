"""What the command line says of balanced experts, and what it may not say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import InputError
from meshwright.costmodel.model import DenseFfnSpec
from meshwright.executor.layer.router_losses import LossScope
from meshwright.executor.train.balancing import Balancing, check_balancing, check_routed, read_balancing


def test_texts_come_back() -> None:
    asked = Balancing(aux_loss=1e-3, aux_scope=LossScope.PER_DEVICE, z_loss=0.5, bias_speed=0.25)
    assert read_balancing(asked.aux_text, 0.5, 0.25, asked.capacity_text) == asked
    assert read_balancing("0.01", 0.0, 0.0) == Balancing(aux_loss=0.01, aux_scope=LossScope.PER_SEQUENCE)


@pytest.mark.parametrize("capacity", [1.25, math.inf])
def test_capacities_come_back(capacity: float) -> None:
    asked = Balancing(capacity_factor=capacity)
    assert read_balancing("0", 0.0, 0.0, asked.capacity_text) == asked


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan", "inf"])
def test_other_capacities_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--capacity: [^\n]*$"):
        read_balancing("0", 0.0, 0.0, text)


@pytest.mark.parametrize("text", ["much", "nan", "0.1:", "0.1:per-token", ":per-batch", "-1"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--aux-loss: [^\n]*$"):
        read_balancing(text, 0.0, 0.0)


def _dense(configuration: TrainingConfiguration) -> TrainingConfiguration:
    layers = tuple(replace(layer, ffn=DenseFfnSpec(intermediate=8)) for layer in configuration.model.layers)
    return replace(configuration, model=replace(configuration.model, layers=layers))


def _without_ep(configuration: TrainingConfiguration) -> TrainingConfiguration:
    return replace(configuration, mesh=replace(configuration.mesh, ep=1))


@pytest.mark.parametrize(
    ("asked", "change", "message"),
    [
        (Balancing(aux_loss=0.1), _dense, "--aux-loss: the plan's model has no experts"),
        (Balancing(z_loss=0.1), _dense, "--z-loss: the plan's model has no experts"),
        (Balancing(capacity_factor=1.0), _dense, "--capacity: the plan's model has no experts"),
        (Balancing(bias_speed=0.1), replace, "--bias-speed: the plan's model has no bias"),
        (Balancing(aux_loss=0.1, aux_scope=LossScope.PER_DEVICE), _without_ep, "--aux-loss: .*ep 1"),
    ],
)
def test_what_would_change_nothing_is_refused(
    tiny_configuration: TrainingConfiguration,
    asked: Balancing,
    change: Callable[[TrainingConfiguration], TrainingConfiguration],
    message: str,
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        check_balancing(asked, change(tiny_configuration))


@pytest.mark.parametrize("asked", [Balancing(aux_loss=0.1), Balancing(bias_speed=0.1)])
def test_what_would_change_nothing_of_turns_is_refused(asked: Balancing) -> None:
    with pytest.raises(InputError, match=r"^--(aux-loss|bias-speed): does nothing with --balanced"):
        check_routed(asked)
    check_routed(Balancing(z_loss=0.1))


def test_the_rest_is_not(tiny_configuration: TrainingConfiguration) -> None:
    check_balancing(Balancing(aux_loss=0.1, z_loss=0.1), tiny_configuration)
    check_balancing(Balancing(), _dense(tiny_configuration))
