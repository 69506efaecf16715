"""Decides the tests of a script (`[ ... ]`, `[[ ... ]]`, `(( ... ))`) where they ask for known values only."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from meshwright.planner.foreign.shell.expansion import Variables, arithmetic

_TEXTS: dict[str, Callable[[str, str], bool]] = {"=": operator.eq, "==": operator.eq, "!=": operator.ne}
_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": operator.eq,
    "-ne": operator.ne,
    "-gt": operator.gt,
    "-ge": operator.ge,
    "-lt": operator.lt,
    "-le": operator.le,
}
_COMPARISONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq}
_COMPARISONS["!="] = operator.ne
PATTERN_SIGNS = frozenset("*?[")


def decide(raw: Sequence[str], variables: Variables) -> bool | None:
    """Whether a test command holds; None where that depends on what only the machine that runs it knows."""
    if not raw:
        return None
    if raw[0] == "!":
        inner = decide(raw[1:], variables)
        return None if inner is None else not inner
    if raw[0] == "true" or raw[0] == "false":
        return raw[0] == "true"
    if raw[0] == "((" and raw[-1] == "))":
        return _arithmetic(raw[1:-1], variables)
    if raw[0] in ("[", "[[") and raw[-1] in ("]", "]]"):
        return _connected(raw[1:-1], variables)
    return _connected(raw[1:], variables) if raw[0] == "test" else None


def _connected(raw: Sequence[str], variables: Variables) -> bool | None:
    """Tests joined by && and ||, the latter binding less."""
    for signs, decides in ((("||", "-o"), True), (("&&", "-a"), False)):
        for index, word in enumerate(raw):
            if word in signs:
                parts = (_connected(raw[:index], variables), _connected(raw[index + 1 :], variables))
                if decides in parts:
                    return decides
                return None if None in parts else not decides
    return _single(raw, variables)


def _single(raw: Sequence[str], variables: Variables) -> bool | None:
    if raw and raw[0] == "!":
        inner = _single(raw[1:], variables)
        return None if inner is None else not inner
    texts = [_text(word, variables) for word in raw]
    if len(raw) == 2 and raw[0] in ("-n", "-z"):
        return None if texts[1] is None else (texts[1] == "") == (raw[0] == "-z")
    if len(raw) == 1:
        return None if texts[0] is None else texts[0] != ""
    left, right = (texts[0], texts[-1]) if len(raw) == 3 else (None, None)
    if left is None or right is None:
        return None
    if raw[1] in _TEXTS:
        return None if PATTERN_SIGNS.intersection(right) else _TEXTS[raw[1]](left, right)
    if raw[1] in _NUMBERS and left.isdecimal() and right.isdecimal():
        return _NUMBERS[raw[1]](int(left), int(right))
    return None


def _text(raw: str, variables: Variables) -> str | None:
    """A word's text, None where a variable in it is not known. One that is not set at all is not known either."""
    before = set(variables.unresolved)
    variables.unresolved.clear()
    text = variables.joined(raw)
    known = not variables.unresolved
    variables.unresolved |= before
    return text if known else None


def _arithmetic(raw: Sequence[str], variables: Variables) -> bool | None:
    text = " ".join(raw)
    for sign in (">=", "<=", "==", "!=", ">", "<"):
        left, found, right = text.partition(sign)
        if found:
            values = arithmetic(variables, left), arithmetic(variables, right)
            return None if values[0] is None or values[1] is None else _COMPARISONS[sign](values[0], values[1])
    value = arithmetic(variables, text)
    return None if value is None else value != 0
