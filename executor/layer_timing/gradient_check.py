"""A small layer's output and all its gradients against autograd of the reference, under any strategy, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from msgspec.structs import replace
from torch import Tensor

from meshwright.costmodel.model import LayerSpec
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import Operator
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.collectives import all_gather_rows
from meshwright.executor.layer.context import AttentionKernel, LayerContext, RoutingChoice
from meshwright.executor.layer.exchange_room import EXCHANGES, ExchangeRooms
from meshwright.executor.layer.functions.statistics import statistics_type
from meshwright.executor.layer.groups import Communicator, groups_over_all_ranks
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.order import in_order
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import Parameters, full_weights, own_weights
from meshwright.executor.layer.reference import ReferenceLayer
from meshwright.executor.layer.reference_losses import ReferenceRouting
from meshwright.executor.layer.router_losses import RouterLosses
from meshwright.executor.layer.routing import EXPERTS
from meshwright.executor.layer.run import LayerRunner
from meshwright.executor.layer.whole_gradients import whole_gradients
from meshwright.executor.layer_timing.output_check import all_tokens, own_tokens, replica_ranks

WEIGHT_SEED, INPUT_SEED = 21, 22
TOKEN_WEIGHT = 1.0
"""So much does a token's router loss count beside the gradient of its output, which is of this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLayer:
    """A layer to check on this rank, one of `all_ranks`. `micro_batches`: of each replica, where they differ.

    `room`: rows that every exchange has room for; None: as many as there are.
    """

    layer: LayerSpec
    setting: ProgramSetting
    device: torch.device
    dtype: torch.dtype
    all_ranks: Communicator
    attention_kernel: AttentionKernel = AttentionKernel.FORMULA
    routing: RoutingChoice = field(default_factory=RoutingChoice)
    router_losses: RouterLosses = field(default_factory=RouterLosses)
    capacity_factor: float = math.inf
    fuse: bool = False
    order: LayerOrder | None = None
    micro_batches: tuple[int, ...] = ()
    room: int | None = None

    def ordered(self, operators: tuple[Operator, ...], kind: PassKind) -> tuple[Operator, ...]:
        """The operators of a pass in the order that is asked for, program order if none is."""
        order = None if self.order is None else self.order.of(kind)
        return operators if order is None else in_order(operators, order)

    def micro_batch(self, replica: int) -> int:
        """The micro-batch of a replica."""
        return self.micro_batches[replica] if self.micro_batches else self.setting.micro_batch

    def context(self) -> LayerContext:
        """The layer as it is run."""
        groups = groups_over_all_ranks(self.setting.strategy, self.all_ranks)
        replica = self.all_ranks.rank // groups.replica.size
        return LayerContext(
            layer=self.layer,
            setting=replace(self.setting, micro_batch=self.micro_batch(replica)),
            device=self.device,
            dtype=self.dtype,
            groups=groups,
            attention_kernel=self.attention_kernel,
            routing=self.routing,
            router_losses=self.router_losses,
            token_weight=TOKEN_WEIGHT,
            capacity_factor=self.capacity_factor,
            fuse=self.fuse,
        )

    def runner(self, full: dict[str, Tensor]) -> LayerRunner:
        """The layer with this rank's parts of full weights."""
        context = self.context()
        parameters = Parameters(own_weights(layer_parameters(self.layer, self.setting.hidden), full, context.groups))
        program = build_layer(self.layer, self.setting)
        rooms = ExchangeRooms(1, self.all_ranks.size, self.device)
        if self.room is not None:
            rooms.rows = [[[self.room] * self.all_ranks.size] * EXCHANGES]
            rooms.limits.fill_(self.room)
        host = HostReads(room=rooms.of_layer(0))
        return LayerRunner(program, context, parameters, self.setting.strategy.recompute, host)

    def inputs(self, replica: int) -> tuple[Tensor, Tensor]:
        """Input and gradient of the output of a replica's micro-batch."""
        generator = torch.Generator(self.device).manual_seed(INPUT_SEED + replica)
        shape = (2, self.setting.seq_len * self.micro_batch(replica), self.setting.hidden)
        both = torch.randn(shape, generator=generator, device=self.device, dtype=torch.float64).to(self.dtype)
        return both[0], both[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Output and input gradient of a rank's tokens, gradients of whole weights, the experts of all tokens."""

    output: Tensor
    input_gradient: Tensor
    gradients: dict[str, Tensor]
    experts: Tensor | None


def gradient_errors(checked: CheckedLayer) -> dict[str, float]:
    """Relative errors (Frobenius norm) of the output and of every gradient, by name."""
    context = checked.context()
    specs = layer_parameters(checked.layer, checked.setting.hidden)
    full = full_weights(specs, checked.device, checked.dtype, WEIGHT_SEED)
    sharing = replica_ranks(context).size
    replica, num_replicas = checked.all_ranks.rank // sharing, checked.all_ranks.size // sharing
    runner = checked.runner(full)
    found = _run(checked, runner, replica)
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in full.items()}
    expected = [_expected(checked, leaves, number, num_replicas, found.experts) for number in range(num_replicas)]
    output, input_gradient = (own_tokens(whole, context) for whole in expected[replica])
    errors = {
        "output": _error(found.output, output),
        "grad:hidden": _error(found.input_gradient, input_gradient),
    }
    for name, leaf in leaves.items():
        if leaf.grad is not None:
            errors[f"grad:{name}"] = _error(found.gradients[name], leaf.grad)
    return errors


def host_waits(checked: CheckedLayer) -> str:
    """What makes the host wait for a CUDA device in a layer's two passes, as torch words it; empty if nothing does."""
    specs = layer_parameters(checked.layer, checked.setting.hidden)
    runner = checked.runner(full_weights(specs, checked.device, checked.dtype, WEIGHT_SEED))
    hidden, upstream = (own_tokens(whole, runner.layer) for whole in checked.inputs(0))
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = runner.start(hidden)
        batch.run(runner.forward)
        batch.put_output_gradient(upstream)
        batch.run(runner.backward)
    except RuntimeError as problem:
        return str(problem)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""


def _run(checked: CheckedLayer, runner: LayerRunner, replica: int) -> _Found:
    context = runner.layer
    hidden, upstream = checked.inputs(replica)
    batch = runner.start(own_tokens(hidden, context))
    batch.run(checked.ordered(runner.forward, PassKind.FORWARD))
    experts = None
    if checked.layer.is_moe and not checked.micro_batches:
        experts = _all_experts(batch.scope.values.rider(ROUTING, EXPERTS, Tensor), context, checked.all_ranks)
    batch.put_output_gradient(own_tokens(upstream, context))
    batch.run(checked.ordered(runner.backward, PassKind.BACKWARD))
    specs = layer_parameters(checked.layer, checked.setting.hidden)
    return _Found(
        output=batch.output,
        input_gradient=batch.input_gradient,
        gradients=whole_gradients(specs, runner.parameters, context.groups, checked.all_ranks),
        experts=experts,
    )


def _all_experts(experts_TK: Tensor, context: LayerContext, all_ranks: Communicator) -> Tensor:
    """The choices of all tokens, replica by replica."""
    if replica_ranks(context).size > 1:
        return all_tokens(experts_TK, context)
    return all_gather_rows(experts_TK, all_ranks)


def _expected(
    checked: CheckedLayer, leaves: dict[str, Tensor], replica: int, num_replicas: int, experts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Output and input gradient of a replica's micro-batch; gradients of weights add up in `leaves`."""
    hidden, upstream = checked.inputs(replica)
    leaf = hidden.clone().requires_grad_()
    reference = ReferenceLayer(
        layer=checked.layer,
        weights=leaves,
        micro_batch=checked.micro_batch(replica),
        routing=checked.routing,
        capacity_factor=checked.capacity_factor,
        wide=statistics_type(checked.dtype),
    )
    output = reference(leaf, None if experts is None else experts.chunk(num_replicas)[replica])
    total = (output * upstream.to(output.dtype)).sum()
    for seen in reference.seen:
        total = total + TOKEN_WEIGHT * len(hidden) * _router_losses(seen, checked)
    total.backward()
    assert leaf.grad is not None
    return output.detach(), leaf.grad


def _router_losses(seen: ReferenceRouting, checked: CheckedLayer) -> Tensor:
    losses = checked.router_losses
    return seen.even_loss(losses, None, checked.setting.strategy.ep) + seen.z_loss(losses)


def _error(found: Tensor, expected: Tensor) -> float:
    wide = statistics_type(expected.dtype)
    # Some gradients are zero: the router's where a token has one expert, whose weight is always 1.
    difference = (found.to(wide) - expected.to(wide)).norm()
    return float(difference / expected.to(wide).norm().clamp_min(1e-3))
