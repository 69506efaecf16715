"""Durations of a step's terms in seconds, and the linear lower bounds that hold for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.simulate.terms import Term, TermLayout

Array: TypeAlias = npt.NDArray[np.float64]

Seconds: TypeAlias = npt.ArrayLike
"""A number for all, or an array that broadcasts to the term's shape."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Durations:
    """Seconds of every term: `vector` in the order of `layout`; `of(term)` is one term's array."""

    layout: TermLayout
    vector: Array

    def __post_init__(self) -> None:
        if self.vector.shape != (self.layout.size,):
            raise StrategyError("durations", "vector", f"shape {self.vector.shape}, expected ({self.layout.size},)")
        for term in Term:
            values = self.of(term)
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise StrategyError("durations", term, f"{values.tolist()} is not finite and >= 0")
        if (self.of(Term.OVERLAP_SAVING) > self.of(Term.FORWARD)).any():
            raise StrategyError("durations", Term.OVERLAP_SAVING, "larger than the forward it can hide")

    def of(self, term: Term) -> Array:
        """The term's array, a view."""
        return self.vector[self.layout.span(term)].reshape(self.layout.shape(term))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CutCoefficients:
    """How often one path through the step pays each term. No durations make the step shorter than the path."""

    layout: TermLayout
    vector: Array

    def of(self, term: Term) -> Array:
        """The term's array, a view."""
        return self.vector[self.layout.span(term)].reshape(self.layout.shape(term))

    def length_s(self, durations: Durations) -> float:
        """The path's length, a lower bound of the step time."""
        return float(self.vector @ durations.vector)


def durations_of(layout: TermLayout, seconds: Mapping[Term, Seconds]) -> Durations:
    """Durations with the given terms, 0 for those that are left out."""
    vector = np.zeros(layout.size)
    for term, values in seconds.items():
        vector[layout.span(term)] = np.broadcast_to(np.asarray(values, dtype=np.float64), layout.shape(term)).ravel()
    return Durations(layout=layout, vector=vector)


def chunk_durations(
    layout: TermLayout,
    *,
    forward_s: Seconds,
    backward_input_s: Seconds,
    backward_weight_s: Seconds,
    num_layers: npt.ArrayLike = 1,
    overlap_saving_s: Seconds = 0.0,
    forward_hop_s: Seconds = 0.0,
    backward_hop_s: Seconds = 0.0,
    param_gather_s: Seconds = 0.0,
    grad_reduce_s: Seconds = 0.0,
    state_slowdown_s: Seconds = 0.0,
    barrier_s: float = 0.0,
    optimizer_s: Seconds = 0.0,
) -> Durations:
    """Durations of chunks made of `num_layers` equal layers, one communication bucket a layer."""

    def layer(total_s: Seconds) -> Array:
        return np.asarray(total_s, dtype=np.float64) / np.asarray(num_layers, dtype=np.float64)

    return durations_of(
        layout,
        {
            Term.FORWARD: forward_s,
            Term.BACKWARD_INPUT: backward_input_s,
            Term.BACKWARD_WEIGHT: backward_weight_s,
            Term.OVERLAP_SAVING: overlap_saving_s,
            Term.FORWARD_LAST_LAYER: layer(forward_s),
            Term.BACKWARD_INPUT_LAST_LAYER: layer(backward_input_s),
            Term.BACKWARD_WEIGHT_LAST_LAYER: layer(backward_weight_s),
            Term.PARAM_GATHER: param_gather_s,
            Term.PARAM_GATHER_FIRST_LAYER: layer(param_gather_s),
            Term.GRAD_REDUCE: grad_reduce_s,
            Term.GRAD_REDUCE_FIRST_LAYER: layer(grad_reduce_s),
            Term.FORWARD_HOP: forward_hop_s,
            Term.BACKWARD_HOP: backward_hop_s,
            Term.STATE_SLOWDOWN: state_slowdown_s,
            Term.BARRIER: barrier_s,
            Term.OPTIMIZER: optimizer_s,
        },
    )
