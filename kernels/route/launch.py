"""Which shapes the CUDA kernels take, and how many blocks run them."""

from __future__ import annotations

from meshwright.kernels.limits import MOST_CHOSEN, MOST_EXPERTS, MOST_GROUPS

TOKENS_A_BLOCK = 8
LEAST_TOKENS_A_WARP = 2
BLOCKS_AN_SM = 4
BACKWARD_BLOCKS_AN_SM = 8


def why_not(num_experts: int, top_k: int, num_groups: int) -> str | None:
    """Why the CUDA kernel can't take a router; None: it can.

    >>> why_not(1024, 8, 1)
    '1024 experts, the kernel takes 512'
    """
    for what, found, most in (
        ("experts", num_experts, MOST_EXPERTS),
        ("experts a token", top_k, MOST_CHOSEN),
        ("groups", num_groups, MOST_GROUPS),
    ):
        if found > most:
            return f"{found} {what}, the kernel takes {most}"
    return None


def num_blocks(num_tokens: int, num_sms: int) -> int:
    """Blocks of 8 warps, a warp for 2 tokens or more, all on the device at once.

    >>> num_blocks(8192, 132), num_blocks(65536, 132), num_blocks(0, 132)
    (512, 528, 1)
    """
    enough = -(-num_tokens // (TOKENS_A_BLOCK * LEAST_TOKENS_A_WARP))
    return max(1, min(enough, BLOCKS_AN_SM * num_sms))


def num_backward_blocks(num_tokens: int, num_sms: int) -> int:
    """Blocks of 8 warps, a warp for a token or more: nothing is kept between tokens, so that more blocks cost nothing.

    >>> num_backward_blocks(8192, 132), num_backward_blocks(65536, 132), num_backward_blocks(0, 132)
    (1024, 1056, 1)
    """
    enough = -(-num_tokens // TOKENS_A_BLOCK)
    return max(1, min(enough, BACKWARD_BLOCKS_AN_SM * num_sms))
