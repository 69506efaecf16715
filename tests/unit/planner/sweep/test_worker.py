from __future__ import annotations

from functools import _lru_cache_wrapper

from meshwright.costmodel import runtime
from meshwright.costmodel.runtime import load_runtime
from meshwright.planner.sweep.worker import forget


class _Untouchable:
    """An object of somebody else: to ask it anything, its class too, is an error."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(name)


def _num_remembered() -> int:
    caches = [value for value in vars(runtime).values() if type(value) is _lru_cache_wrapper]
    return sum(cache.cache_info().currsize for cache in caches)


def test_what_was_remembered_is_forgotten_and_other_objects_are_not_asked() -> None:
    bystander = _Untouchable()
    load_runtime("meshwright")
    assert _num_remembered()
    forget()
    assert not _num_remembered()
    del bystander
