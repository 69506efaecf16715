"""Messages between the stages of the 352B plan worked out with pencil and paper."""

from __future__ import annotations

import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.explain.messages import message_terms

TOKENS = 2 * 8192 // 8
HIDDEN = 4096


def test_activations_travel_at_the_speed_of_an_adapter(large_configuration: TrainingConfiguration) -> None:
    """16 MiB at 96 % of 50 GB/s are 349.5 us; the rest is latency."""
    hop, barrier = message_terms(large_configuration)
    assert len(hop.hops) == 59
    assert hop.num_bytes == 2 * TOKENS * HIDDEN
    network = large_configuration.cluster.profile.network
    latency_s = network.message_base_s + large_configuration.cluster.network_latency_s
    assert hop.time_s == pytest.approx(latency_s + 16_777_216 / (0.96 * 50e9))
    assert 0 < latency_s < 20e-6
    assert barrier.num_bytes == 4
