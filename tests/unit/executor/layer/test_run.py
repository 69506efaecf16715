"""A layer run operator by operator computes what autograd computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from meshwright.costmodel.program.recompute import plan_backward
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.layer.context import RoutingChoice
from meshwright.executor.layer.rope_scaling import YarnScaling

Make = Callable[..., Any]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["f32", "f64"])
def test_results_are_those_of_autograd(tiny_layer: Make, kind: str, dtype: torch.dtype, tolerance: float) -> None:
    tiny = tiny_layer(kind, dtype=dtype)
    tiny.run().assert_close(tiny.run_reference(), tolerance)


def test_parameters_are_as_many_as_the_program_counts(tiny_layer: Make, kind: str) -> None:
    tiny = tiny_layer(kind)
    assert sum(weight.numel() for weight in tiny.weights.values()) == tiny.program.weights.total


@pytest.mark.parametrize("moe", ["moe", "moe, biases", "moe, gelu, biases", "moe, sigmoid"])
def test_the_gate_may_stand_behind_the_experts(tiny_layer: Make, moe: str) -> None:
    tiny = tiny_layer(moe).with_setting(gate_before_fc2=False)
    tiny.run().assert_close(tiny.run_reference(), 1e-10)


@pytest.mark.parametrize("moe", ["moe", "moe, sigmoid"])
@pytest.mark.parametrize("normalize", [True, False])
def test_weights_may_be_scaled_and_left_as_they_are(tiny_layer: Make, moe: str, normalize: bool) -> None:
    tiny = tiny_layer(moe, routing=RoutingChoice(normalize=normalize, scale=2.5))
    tiny.run().assert_close(tiny.run_reference(), 1e-10)


@pytest.mark.parametrize("layer", ["dense", "dense, norms of heads", "dense, latent"])
def test_positions_may_be_stretched(tiny_layer: Make, layer: str) -> None:
    scaling = YarnScaling(factor=4.0, original_length=16, mscale=0.7, mscale_all_dim=1.0, scales_scores=True)
    tiny = replace(tiny_layer(layer), rope_scaling=scaling)
    stretched = tiny.run()
    stretched.assert_close(tiny.run_reference(), 1e-10)
    assert not torch.allclose(stretched.output, tiny_layer(layer).run().output)


def test_latents_may_have_an_epsilon_of_their_own(tiny_layer: Make) -> None:
    tiny = replace(tiny_layer("dense, latent"), latent_norm_epsilon=0.5)
    tiny.run().assert_close(tiny.run_reference(), 1e-10)
    assert not torch.allclose(tiny.run().output, tiny_layer("dense, latent").run().output)


def test_a_tensor_is_forgotten_behind_its_last_reader(tiny_layer: Make) -> None:
    tiny = tiny_layer("moe, shared")
    runner, program = tiny.runner(), tiny.program
    batch = runner.start(tiny.hidden)
    batch.run(program.forward)
    assert batch.scope.values.names() == program.saved() | {program.output}
    batch.put_output_gradient(tiny.upstream)
    batch.run(program.backward)
    assert batch.scope.values.names() == {program.output, "grad:hidden"}


@pytest.mark.parametrize("policy", list(Recompute))
@pytest.mark.parametrize("layer", ["dense", "dense, norms of heads", "dense, latent", "moe, gated shared"])
def test_recomputation_changes_nothing(tiny_layer: Make, layer: str, policy: Recompute) -> None:
    tiny = tiny_layer(layer)
    again = tiny.with_setting(strategy=LayerStrategy(recompute=policy)).run()
    again.assert_close(tiny.run(), 0.0)


@pytest.mark.parametrize("policy", list(Recompute))
def test_the_forward_leaves_what_is_kept(tiny_layer: Make, policy: Recompute) -> None:
    tiny = tiny_layer("moe, shared").with_setting(strategy=LayerStrategy(recompute=policy))
    runner = tiny.runner()
    batch = runner.start(tiny.hidden)
    batch.run(runner.forward)
    assert batch.scope.values.names() == plan_backward(tiny.program, policy).kept | {tiny.program.output}


def test_gradients_of_micro_batches_add_up(tiny_layer: Make) -> None:
    tiny = tiny_layer("dense")
    runner, program = tiny.runner(), tiny.program
    for _ in range(2):
        batch = runner.start(tiny.hidden)
        batch.put_output_gradient(tiny.upstream)
        batch.run((*program.forward, *program.backward))
    once = tiny.run().gradients
    for name, gradient in runner.parameters.gradients.items():
        torch.testing.assert_close(gradient, 2 * once[name])
