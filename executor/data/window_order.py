"""A seeded order of windows that is never written down: a permutation computed entry by entry.

A Feistel network over 2^(2k) numbers is a permutation whatever its round function is; walking on until a number falls
below `count` makes it one of `count` numbers. At most four times as many numbers as wanted, so four rounds on average.
Source: Black and Rogaway, Ciphers with Arbitrary Finite Domains (CT-RSA 2002), methods 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

MASK_64 = (1 << 64) - 1
NUM_ROUNDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOrder:
    """The order of `count` windows in an epoch."""

    count: int
    seed: int
    epoch: int

    def window(self, place: int) -> int:
        """The window at a place of the order; both are below `count`.

        >>> order = WindowOrder(count=5, seed=1, epoch=0)
        >>> sorted(order.window(place) for place in range(5))
        [0, 1, 2, 3, 4]
        """
        half_bits = max(1, ((self.count - 1).bit_length() + 1) // 2)
        keys = self._keys()
        number = _feistel(place, half_bits, keys)
        while number >= self.count:
            number = _feistel(number, half_bits, keys)
        return number

    def _keys(self) -> tuple[int, ...]:
        start = mixed(mixed(self.seed & MASK_64) ^ self.epoch)
        return tuple(mixed(start + round_number) for round_number in range(NUM_ROUNDS))


def _feistel(number: int, half_bits: int, keys: tuple[int, ...]) -> int:
    mask = (1 << half_bits) - 1
    left, right = number >> half_bits, number & mask
    for key in keys:
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return left << half_bits | right


def mixed(number: int) -> int:
    """64 well-mixed bits of a number.

    Source: the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    number = (number + 0x9E3779B97F4A7C15) & MASK_64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK_64
    return number ^ (number >> 31)
