"""The duration terms of a training step, and their place in one vector.

A path through a step pays each term a whole number of times, so its length is a dot product of two vectors with one
layout: seconds (`Durations`) and counts (`CutCoefficients`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import lru_cache

from meshwright.costmodel.value import Value


class Term(StrEnum):
    """What a step's duration is made of.

    FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT: one micro-batch through a chunk; a full backward pays both backwards.
    OVERLAP_SAVING: what a forward of the chunk saves when run together with a backward, F&B = F + B - saving.
    *_LAST_LAYER: the share of the chunk's last layer, whose forward ends and whose backward begins the chunk.
    PARAM_GATHER: all parameters of the chunk, first layer first; PARAM_GATHER_FIRST_LAYER: the first bucket of it.
    GRAD_REDUCE: all gradients of the chunk, last layer first; GRAD_REDUCE_FIRST_LAYER: the last bucket of it.
    FORWARD_HOP, BACKWARD_HOP: activations up, gradients down between neighbouring virtual stages.
    STATE_SLOWDOWN: what a device's computation loses beside the gathers and reductions of its parameters.
    OPTIMIZER: the update of a device. BARRIER: what all devices agree on before it (the gradient norm).
    """

    FORWARD = "forward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"
    OVERLAP_SAVING = "overlap_saving"
    FORWARD_LAST_LAYER = "forward_last_layer"
    BACKWARD_INPUT_LAST_LAYER = "backward_input_last_layer"
    BACKWARD_WEIGHT_LAST_LAYER = "backward_weight_last_layer"
    PARAM_GATHER = "param_gather"
    PARAM_GATHER_FIRST_LAYER = "param_gather_first_layer"
    GRAD_REDUCE = "grad_reduce"
    GRAD_REDUCE_FIRST_LAYER = "grad_reduce_first_layer"
    FORWARD_HOP = "forward_hop"
    BACKWARD_HOP = "backward_hop"
    STATE_SLOWDOWN = "state_slowdown"
    OPTIMIZER = "optimizer"
    BARRIER = "barrier"


class TermLayout(Value, frozen=True, kw_only=True):
    """Shapes of the terms: [devices, chunks], except hops [virtual stages - 1], STATE_SLOWDOWN and OPTIMIZER
    [devices], BARRIER [].
    """

    num_stages: int
    num_chunks: int

    def shape(self, term: Term) -> tuple[int, ...]:
        """The shape of the term's array."""
        if term in (Term.FORWARD_HOP, Term.BACKWARD_HOP):
            return (self.num_stages * self.num_chunks - 1,)
        if term in (Term.STATE_SLOWDOWN, Term.OPTIMIZER):
            return (self.num_stages,)
        return () if term is Term.BARRIER else (self.num_stages, self.num_chunks)

    def span(self, term: Term) -> slice:
        """Where the term lies in the vector."""
        return slice(*_bounds(self)[term])

    def chunk(self, term: Term, device: int, chunk: int) -> int:
        """Index of a term of one chunk."""
        return _bounds(self)[term][0] + device * self.num_chunks + chunk

    def at(self, term: Term, index: int = 0) -> int:
        """Index of a term of one hop or device, or of the scalar."""
        return _bounds(self)[term][0] + index

    @property
    def size(self) -> int:
        """Length of the vector."""
        return _bounds(self)[Term.BARRIER][1]


@lru_cache(maxsize=256)
def _bounds(layout: TermLayout) -> dict[Term, tuple[int, int]]:
    bounds, start = {}, 0
    for term in Term:
        stop = start + math.prod(layout.shape(term))
        bounds[term] = (start, stop)
        start = stop
    return bounds
