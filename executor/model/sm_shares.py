"""On how many SMs the plan's collectives inside a node run.

A communicator takes one number of SMs, and the collectives of a pass take one, as the cost model has it
(`costmodel.pass_times.share_of`). Passes may differ: each number is a communicator of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.layer_passes import pass_operators
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.pass_times import share_of
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.stage_cost import cost_context, recompute_of
from meshwright.costmodel.strategy import LayerStrategy, Recompute
from meshwright.executor.model.shared_slots import run_order


def pass_sms(
    configuration: TrainingConfiguration, program: LayerProgram, recompute: Recompute, order: LayerOrder | None
) -> dict[PassKind, int]:
    """SMs of the collectives of each pass, 0 for what the library takes."""
    return {kind: _sms(configuration, program, recompute, order, kind) for kind in PassKind}


def _sms(
    configuration: TrainingConfiguration,
    program: LayerProgram,
    recompute: Recompute,
    order: LayerOrder | None,
    kind: PassKind,
) -> int:
    found = None if order is None else order.of(kind)
    if found is None:
        # A joined backward that is not ordered runs as its halves, of which the first has the collectives.
        return _sms(configuration, program, recompute, order, PassKind.DGRAD) if kind is PassKind.BACKWARD else 0
    operators = pass_operators(program, recompute, kind)
    share = share_of(found, operators, configuration.cluster, configuration.runtime)
    return 0 if share is None else share.num_sms


def strategy_sms(configuration: TrainingConfiguration) -> tuple[tuple[LayerStrategy, int], ...]:
    """Strategies with the numbers of SMs that their passes ask for, in an order that is the same on all ranks."""
    return tuple(dict.fromkeys(_strategy_sms(configuration)))


def _strategy_sms(configuration: TrainingConfiguration) -> Iterator[tuple[LayerStrategy, int]]:
    context = cost_context(configuration)
    for entry in configuration.orders.entries:
        program, recompute = context.program(entry.part, entry.strategy), recompute_of(entry.part, entry.strategy)
        order = run_order(configuration, entry.part, entry.strategy)
        for num_sms in pass_sms(configuration, program, recompute, order).values():
            if num_sms:
                yield entry.strategy, num_sms
