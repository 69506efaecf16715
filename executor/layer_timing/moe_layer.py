"""The routed experts as the executor runs them: operators of the layer program from router to sum of rows."""

from __future__ import annotations

from torch import Tensor

from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.operators import GRADIENT, Operator
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.executor.layer.bindings.router import ROUTING
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.routing import EXPERTS
from meshwright.executor.layer.run import LayerRunner
from meshwright.executor.layer_timing.moe_block import MoeBlock, MoeResults

INPUT, OUTPUT = "ln2_out", "ffn_out"


class LayerExperts:
    """A part of a layer program, ready to run on a number of tokens, without auxiliary parts of the layer."""

    def __init__(self, block: MoeBlock, weights: dict[str, Tensor], num_tokens: int) -> None:
        setting = ProgramSetting(
            hidden=block.hidden,
            micro_batch=1,
            seq_len=num_tokens,
            strategy=LayerStrategy(ep=block.ranks.size),
            gpus_per_node=max(8, block.ranks.size),
        )
        context = LayerContext(
            layer=block.layer,
            setting=setting,
            device=block.device,
            dtype=block.dtype,
            groups=LayerGroups(expert=block.ranks, routed=block.ranks),
        )
        self._runner = LayerRunner(build_layer(block.layer, setting), context, Parameters(weights))
        self._forward = _between(self._runner.forward, INPUT, OUTPUT)
        self._backward = _until(self._runner.backward, GRADIENT + INPUT)

    def __call__(self, x_TH: Tensor, upstream_TH: Tensor) -> MoeResults:
        """A forward and a backward."""
        parameters = self._runner.parameters
        parameters.clear_gradients()
        batch = self._runner.start()
        values = batch.scope.values
        values.put(INPUT, x_TH)
        batch.run(self._forward)
        output, experts = values[OUTPUT], values.rider(ROUTING, EXPERTS, Tensor)
        batch.put_output_gradient(upstream_TH)
        batch.run(self._backward)
        return MoeResults(
            output_TH=output,
            input_gradient_TH=values[GRADIENT + INPUT],
            gradients=dict(parameters.gradients),
            experts_TK=experts,
        )


def _between(operators: tuple[Operator, ...], source: str, target: str) -> tuple[Operator, ...]:
    """The operators behind the one that writes `source`, up to the one that writes `target`."""
    written = [number for number, operator in enumerate(operators) if source in operator.writes]
    return _until(operators[written[-1] + 1 :], target)


def _until(operators: tuple[Operator, ...], target: str) -> tuple[Operator, ...]:
    """The operators up to the one that writes `target`."""
    numbers = [number for number, operator in enumerate(operators) if target in operator.writes]
    return operators[: numbers[-1] + 1]
