"""How long a kernel runs that is a matrix product and its communication in one."""

from __future__ import annotations


def fused_s(
    product_s: float, between_s: float, communication_s: float, *, share: float, loss: float, stretch: float
) -> tuple[float, float, float]:
    """Seconds of a fused kernel, of its communication that is hidden, and of compute lost to that.

    The communication hides under the product, at most `share` of it, since the first and last tiles have nothing to
    hide under: h = min(share C, G / ((1 - loss) stretch)). A hidden second takes `stretch` seconds of the product's
    time, in which the product loses the share `loss` of its speed:

        t = G + E + (C - h) + loss stretch h

    Source: derived; `share` is an assumption of the runtime, 0.8 where FLUX (arXiv 2406.06858) reports up to 96 %. At
    0.8 a kernel is 1.8 times as fast at most; the 1.2 to 4.7 times of MegaScale-MoE (arXiv 2505.11432, section 6) hold
    more than what this formula has.

    >>> fused_s(10.0, 0.0, 5.0, share=0.8, loss=0.0, stretch=1.0)
    (11.0, 4.0, 0.0)
    """
    hidden_s = min(share * communication_s, product_s / ((1.0 - loss) * stretch))
    slowdown_s = loss * stretch * hidden_s
    return product_s + between_s + communication_s - hidden_s + slowdown_s, hidden_s, slowdown_s
