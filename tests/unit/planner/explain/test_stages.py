"""Memory of the stages of the 352B plan worked out with pencil and paper.

The model (MegaScale-MoE, table 2): hidden 4,096, 32 heads and 8 key-value heads of 128, 32 experts of 14,336, top 3,
one shared expert of that width, 60 layers, vocabulary 65,536. Mesh: pp 6 x dp 30 x sp 8, ep 16; micro-batch 2 x 8,192.
"""

from __future__ import annotations

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.explain.parts import PartTerm, part_terms
from meshwright.planner.explain.stages import stage_terms

ATTENTION = 4096 * 4096 + 2 * 4096 * 1024 + 4096 * 4096
NOT_FFN = ATTENTION + 4096 * 32 + 2 * 4096
EXPERT = 3 * 4096 * 14336
ON_RANK = {"not FFN": NOT_FFN, "dense FFN, shared experts": EXPERT, "routed experts": 2 * EXPERT}
HEAD = 4096 * 65536 + 4096


@pytest.fixture(scope="module")
def parts(large_configuration: TrainingConfiguration) -> tuple[PartTerm, ...]:
    """Embedding, the one kind of layer, head."""
    return part_terms(large_configuration)


def test_memory_of_the_last_stage(large_configuration: TrainingConfiguration, parts: tuple[PartTerm, ...]) -> None:
    last = stage_terms(large_configuration, parts)[-1]
    held = {term.kind: term.num_bytes for term in last.memory}
    layers = 10 * sum(ON_RANK.values())
    assert held["parameters"] == 2 * (layers + HEAD) == 11_948_171_264
    assert held["gradients"] == 4 * (layers + HEAD) == 23_896_342_528
    sharded = 10 * (12 * (NOT_FFN + EXPERT) / 240 + 12 * 2 * EXPERT / 15) + 12 * HEAD / 240
    assert held["optimizer"] == pytest.approx(sharded, rel=1e-12)


def test_micro_batches_in_flight(large_configuration: TrainingConfiguration, parts: tuple[PartTerm, ...]) -> None:
    """Interleaved 1F1B warms up with 2 (pp - 1 - d) + (v - 1) pp forwards (arXiv 2104.04473), and holds one more."""
    for stage in stage_terms(large_configuration, parts):
        in_flight = sum(chunk.held for chunk in stage.chunks)
        assert in_flight == 2 * (6 - 1 - stage.device) + (10 - 1) * 6 + 1
