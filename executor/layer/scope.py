"""What a binding is given: the layer, its tensors so far, its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.context import LayerContext
from meshwright.executor.layer.host_copies import HostCopies
from meshwright.executor.layer.host_reads import HostReads
from meshwright.executor.layer.parameters import Parameters
from meshwright.executor.layer.position import RotaryTables
from meshwright.executor.layer.values import Values

BACKWARD_SUFFIXES = (".dgrad", ".wgrad", ".backward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One micro-batch of one layer on one rank."""

    layer: LayerContext
    values: Values
    parameters: Parameters
    rotary: RotaryTables
    host: HostReads = field(default_factory=HostReads)
    host_copies: HostCopies = field(default_factory=HostCopies)

    def reads(self, operator: Operator) -> list[Tensor]:
        """The tensors that an operator reads."""
        return [self.values[name] for name in operator.reads]


Binding = Callable[[Operator, Scope], Mapping[str, Tensor]]
"""Runs an operator: the tensors it writes, by name."""


def forward_name(operator: Operator) -> str:
    """The name of the forward operator that an operator is, or is a backward of: that of its parameters."""
    for suffix in BACKWARD_SUFFIXES:
        if operator.name.endswith(suffix):
            return operator.name.removesuffix(suffix)
    return operator.name
