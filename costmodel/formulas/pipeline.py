"""Pipeline bubbles in closed form: what a device idles in a step of equal stages with free communication.

Everywhere F is one micro-batch's forward on a *virtual stage*, B its full backward, I and W the two parts of it that
zero-bubble schedules separate (input and weight gradient), so B = I + W. arXiv 2401.10241 writes B for I alone; the
table of DeepSeek-V3 (arXiv 2412.19437, table 2) writes B for the full backward, as here.
The simulation (`costmodel.simulate`) is the truth for everything else; these are its anchors.
"""

from __future__ import annotations


def one_f_one_b_bubble_s(num_stages: int, forward_s: float, backward_s: float) -> float:
    """Idle seconds of a device under 1F1B or GPipe, for any number of micro-batches.

    Equation: (PP - 1) (F + B).
    Source: arXiv 2104.04473, section 2.2.

    >>> one_f_one_b_bubble_s(4, 1.0, 2.0)
    9.0
    """
    return (num_stages - 1) * (forward_s + backward_s)


def interleaved_bubble_s(num_stages: int, num_chunks: int, forward_s: float, backward_s: float) -> float:
    """Idle seconds of a device under interleaved 1F1B, micro-batches a multiple of PP; F, B of all v chunks together.

    Equation: (PP - 1) (F + B) / v.
    Source: arXiv 2104.04473, section 2.2.

    >>> interleaved_bubble_s(4, 3, 1.0, 2.0)
    3.0
    """
    return (num_stages - 1) * (forward_s + backward_s) / num_chunks


def zb_h1_bubble_s(num_stages: int, forward_s: float, backward_s: float, weight_s: float) -> float:
    """Idle seconds of a device under ZB-H1 (ZB1P) with at least PP micro-batches.

    Equation: (PP - 1) (F + B - 2W) while W <= F and W <= I. In general (PP - 1) max(F + I - W, F, I), I = B - W: longer
    weight gradients delay the forwards and the input gradients that the neighbours wait for.
    Source: arXiv 2401.10241, table 1, and arXiv 2412.19437, table 2; the general case is a property of the order of
    actions, held against the simulation by the tests.

    >>> zb_h1_bubble_s(4, 1.0, 2.0, 0.75)
    4.5
    >>> zb_h1_bubble_s(4, 1.0, 2.0, 1.5)
    3.0
    """
    input_s = backward_s - weight_s
    return (num_stages - 1) * max(forward_s + input_s - weight_s, forward_s, input_s)


def zb_v_bubble_s(num_stages: int, forward_s: float) -> float:
    """Idle seconds of a device in a step of ZB-V when F = I = W, F of one of its two chunks.

    Equation: (PP - 1) F, all of it before a device's first action or after its last: between them it never waits.
    A step without global barrier could hide even that under its neighbours in time.
    Source: arXiv 2405.15362, section 3 (zero bubble within the stable range), and arXiv 2401.10241, section 6.

    >>> zb_v_bubble_s(4, 0.5)
    1.5
    """
    return (num_stages - 1) * forward_s


def dualpipe_bubble_s(num_virtual_stages: int, overlapped_s: float, backward_s: float, weight_s: float) -> float:
    """Idle seconds of the busiest waiting device under DualPipe, or DualPipeV on PP / 2 devices.

    Equation: (PP / 2 - 1) (F&B + B - 3W), PP virtual stages, F&B a forward and a backward run together. Exact when
    F = I = W; the published orders stay at most one F below it when I >= F and I >= W.
    Source: arXiv 2412.19437, table 2; deepseek-ai/DualPipe, README.

    >>> dualpipe_bubble_s(8, 3.0, 2.0, 1.0)
    6.0
    """
    return (num_virtual_stages // 2 - 1) * (overlapped_s + backward_s - 3 * weight_s)
