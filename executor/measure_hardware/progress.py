"""Tells how far a run has come: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[str], None]

LINE_EVERY_S = 15.0


@contextmanager
def progress_bar(console: Console, total: int, done: int) -> Iterator[Advance]:
    """Gives the function to call after each sample, with the words for what is being measured."""
    if not console.is_terminal:
        yield _lines(console, total, done)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=total, completed=done)

        def advance(words: str) -> None:
            bar.update(task, advance=1, description=words)

        yield advance


def _lines(console: Console, total: int, done: int) -> Advance:
    begun = time.monotonic()
    count, last_s = done, begun

    def advance(words: str) -> None:
        nonlocal count, last_s
        count += 1
        now = time.monotonic()
        if now - last_s >= LINE_EVERY_S:
            last_s = now
            console.print(f"{now - begun:4.0f} s: {count} of {total}, {words}", highlight=False)

    return advance
