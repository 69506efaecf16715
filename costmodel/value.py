"""The base of every value in Meshwright: immutable, keyword-only, hashable, refusing unknown fields."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True):
    """Base class of descriptions, strategies, plans and profiles.

    A subclass repeats `frozen=True, kw_only=True` (msgspec does not inherit `kw_only`) and checks itself in
    `__post_init__`, so that an object which exists is legal. Change is `msgspec.structs.replace`.
    """
