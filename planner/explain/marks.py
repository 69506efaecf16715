"""Short marks for names that repeat in a table, and what they stand for."""

from __future__ import annotations

NOTHING = "-"


class Marks:
    """Numbers sets of names as they come: F1, F2, ...

    >>> marks = Marks("F")
    >>> marks.of(("a", "b")), marks.of(("c",)), marks.of(("a", "b")), marks.of(())
    ('F1', 'F2', 'F1', '-')
    >>> marks.notes()
    ('F1: a, b', 'F2: c')
    """

    def __init__(self, letter: str) -> None:
        self._letter = letter
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, names: tuple[str, ...]) -> str:
        """The mark of a set of names."""
        if not names:
            return NOTHING
        return self._known.setdefault(names, f"{self._letter}{len(self._known) + 1}")

    def notes(self) -> tuple[str, ...]:
        """What each mark stands for."""
        return tuple(f"{mark}: {', '.join(names)}" for names, mark in self._known.items())
