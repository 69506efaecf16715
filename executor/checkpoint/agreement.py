"""Steps that ranks take together: all do their part, the first puts parts together, a failure of one is that of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch.distributed as dist

from meshwright.costmodel.errors import InputError
from meshwright.executor.layer.groups import ALONE, Communicator

Part = TypeVar("Part")
Share = TypeVar("Share")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """What an exception says, in a form that travels."""

    rank: int
    where: str
    field: str
    problem: str
    is_input: bool

    def error(self) -> Exception:
        if self.is_input:
            return InputError(self.where, self.field, self.problem)
        return RuntimeError(f"rank {self.rank}: {self.problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Over ranks whose group moves objects of the host (gloo), or over this process alone."""

    ranks: Communicator = ALONE

    def together(self, part: Callable[[], Part], put_together: Callable[[list[Part]], Sequence[Share]]) -> Share:
        """Do `part` on all ranks, `put_together` on the first, which returns a share for each; this rank's share."""
        own = self._attempt(part)
        parts = self._gathered(own)
        shares = None if parts is None else self._shares(parts, put_together)
        share = self._scattered(shares)
        if isinstance(share, _Failure):
            raise share.error()
        return share

    def first_alone(self, action: Callable[[], Share]) -> Share:
        """Do something on the first rank; all get the result."""
        return self.together(lambda: None, lambda _parts: [action()] * self.ranks.size)

    def all_do(self, action: Callable[[], None]) -> None:
        """Do something on all ranks; none goes on before all are done."""
        self.together(action, lambda _parts: [None] * self.ranks.size)

    def _attempt(self, action: Callable[[], Part]) -> Part | _Failure:
        try:
            return action()
        except InputError as error:
            return _Failure(
                rank=self.ranks.rank, where=error.where, field=error.field, problem=error.problem, is_input=True
            )
        except Exception as error:  # noqa: BLE001  whatever it is, the other ranks must not wait for it
            problem = f"{type(error).__name__}: {error}"
            return _Failure(rank=self.ranks.rank, where="", field="", problem=problem, is_input=False)

    def _shares(
        self, parts: list[Part | _Failure], put_together: Callable[[list[Part]], Sequence[Share]]
    ) -> Sequence[Share | _Failure]:
        failures = [part for part in parts if isinstance(part, _Failure)]
        if failures:
            return [failures[0]] * self.ranks.size
        good = [part for part in parts if not isinstance(part, _Failure)]
        shares = self._attempt(lambda: put_together(good))
        return [shares] * self.ranks.size if isinstance(shares, _Failure) else shares

    def _gathered(self, own: Part | _Failure) -> list[Part | _Failure] | None:
        if self.ranks.size == 1:
            return [own]
        parts: list[Part | _Failure] = [own] * self.ranks.size
        is_first = self.ranks.rank == 0
        dist.gather_object(own, parts if is_first else None, group=self.ranks.group, group_dst=0)
        return parts if is_first else None

    def _scattered(self, shares: Sequence[Share | _Failure] | None) -> Share | _Failure:
        if self.ranks.size == 1:
            assert shares is not None
            return shares[0]
        out: list[Share | _Failure | None] = [None]
        given = None if shares is None else list(shares)
        dist.scatter_object_list(out, given, group=self.ranks.group, group_src=0)
        return cast("Share | _Failure", out[0])
