"""What a collective between nodes takes from the computation beside it."""

from __future__ import annotations

STAYS = 0.99
"""Of the speed that computation has beside a collective inside its node, the share that one between nodes may take."""


def between_nodes(
    inside: tuple[float, float], network: tuple[float, float], inside_share: float
) -> tuple[float, float]:
    """Factors on compute and on a collective between nodes while both run, as (compute, communication).

    `inside`: these factors for a collective inside a node, `network`: what the network's pace alone takes;
    `inside_share`: the seconds that the collective would take inside a node over those that it takes. The same kernel
    moves the same bytes through the same SMs and memory, the network only makes it last longer: so it takes from
    compute what it would take inside a node, or what its pace takes if that is more, and lasts as long at least.

    Equation: lost seconds of compute a second of communication alone
    l = max((1 - 1/a_n) b_n, (1 - 1/a_i) b_i r); b = max(b_n, b_i r, l a_i / 0.99), so that computation beside both
    kinds never stops; a = 1 / (1 - l / b); r = inside share.
    Source: derived; without it a collective that moves from NVLink to the slower network made training faster.

    >>> [round(factor, 3) for factor in between_nodes((1.25, 3.0), (1.1, 1.0), 0.5)]
    [1.25, 1.5]
    >>> [round(factor, 3) for factor in between_nodes((1.25, 3.0), (1.1, 1.0), 0.1)]
    [1.1, 1.0]
    """
    (inside_compute, inside_stretch), (network_compute, network_stretch) = inside, network
    lost = max(
        (1.0 - 1.0 / network_compute) * network_stretch,
        (1.0 - 1.0 / inside_compute) * inside_stretch * inside_share,
    )
    stretch = max(network_stretch, inside_stretch * inside_share, lost * inside_compute / STAYS)
    return 1.0 / (1.0 - lost / stretch), stretch
