"""HTML by functions: what is not markup is escaped, and the type tells the two apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NewType

Html = NewType("Html", str)
"""Text that is markup already."""

VOID = frozenset({"meta", "br"})
_TAG = re.compile(r"<[^>]*>")
_UNIT = re.compile(r"(?<=\d) (?=%|(?:s|ms|GiB|GB|GB/s|TFLOP/s|GPUs?)\b)")
_FIGURE = re.compile(r"[+−-]?\d[\d.,]*(\s\S{1,7})?$|-?$")


def text(words: str) -> Html:
    """Words as markup; a number and its unit stay on one line.

    >>> text("a < b")
    'a &lt; b'
    """
    return Html(escape(_UNIT.sub("\N{NO-BREAK SPACE}", words)))


def element(tag: str, /, *children: Html, **attributes: str) -> Html:
    """An element. An underscore behind an attribute's name is dropped, one inside it is a hyphen.

    >>> element("p", text("1 < 2"), class_="note", data_path="x")
    '<p class="note" data-path="x">1 &lt; 2</p>'
    """
    names = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    opening = "".join((tag, *(f' {key}="{escape(value)}"' for key, value in names)))
    return Html(f"<{opening}>" if tag in VOID else f"<{opening}>{join(children)}</{tag}>")


def join(parts: Iterable[Html], separator: str = "") -> Html:
    """Markup one after the other."""
    return Html(separator.join(parts))


def figure(path: str, value: float, shown: str) -> Html:
    """A number of the plan as it is shown; the element carries its place in plan.json and its exact value.

    >>> figure("prediction.mfu", 0.3251, "0.33")
    '<data value="0.3251" data-path="prediction.mfu" title="0.3251">0.33</data>'
    """
    exact = repr(value)
    return element("data", text(shown), value=exact, data_path=path, title=exact)


def words_rows(rows: Iterable[Sequence[str]]) -> Iterator[tuple[Html, ...]]:
    """Rows of words as markup."""
    return (tuple(map(text, row)) for row in rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[Html]], *, class_: str = "") -> Html:
    """A table that scrolls sideways where it is too wide; columns of figures are aligned to the right."""
    cells = list(rows)
    numeric = [_is_numeric([row[index] for row in cells]) for index in range(len(columns))]
    head = join(_cell("th", text(column), right) for column, right in zip(columns, numeric, strict=True))
    body = join(
        element("tr", join(_cell("td", cell, right) for cell, right in zip(row, numeric, strict=True))) for row in cells
    )
    whole = element("table", element("thead", element("tr", head)), element("tbody", body), class_=class_)
    return element("div", whole, class_="scroll", tabindex="0")


def _is_numeric(cells: Sequence[Html]) -> bool:
    shown = [_TAG.sub("", cell) for cell in cells]
    return all(map(_FIGURE.match, shown)) and any(shown)


def _cell(name: str, content: Html, right: bool) -> Html:
    return element(name, content, class_="number") if right else element(name, content)
