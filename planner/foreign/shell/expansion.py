"""Expands the variables of a raw shell word, as far as their values are known."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

_NAME = re.compile(r"[A-Za-z_]\w*")
_PLAIN = re.compile(r"\$([A-Za-z_]\w*|[0-9@*#?$!])")
_BRACED = re.compile(r"(?P<name>\w+)(?P<all>\[[@*]\])?(?:(?P<sign>:?[-=+])(?P<word>.*))?", re.DOTALL)
_BLANKS = " \t\n"
_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Variables:
    """What is known of a script's variables: texts and arrays. `unresolved` are names that nothing sets."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values: dict[str, str | list[str]] = dict(values)
        self.unresolved: set[str] = set()

    def text(self, name: str) -> str | None:
        """A variable's text; of an array its first element."""
        value = self.values.get(name)
        return (value[0] if value else "") if isinstance(value, list) else value

    def fields(self, raw: str) -> list[str]:
        """The words that a raw word becomes: an unquoted variable is split at blanks, an array gives its elements."""
        return _Expander(self).fields(raw)

    def joined(self, raw: str) -> str:
        """The text that a raw word becomes where the shell does not split, as in an assignment."""
        return " ".join(_Expander(self, splits=False).fields(raw))


class _Expander:
    """Builds words piece by piece. `current` is the word that is being built, None before its first piece."""

    def __init__(self, variables: Variables, *, splits: bool = True) -> None:
        self.variables, self.splits = variables, splits
        self.done: list[str] = []
        self.current: str | None = None

    def fields(self, raw: str) -> list[str]:
        self._read(raw, quoted=False)
        return [*self.done, self.current] if self.current is not None else self.done

    def _read(self, raw: str, *, quoted: bool) -> None:
        at = 0
        while at < len(raw):
            char = raw[at]
            if char == "\\":
                keep = quoted and raw[at + 1 : at + 2] not in ("$", "`", '"', "\\", "\n")
                self._add(raw[at : at + 2] if keep else raw[at + 1 : at + 2].replace("\n", ""))
                at += 2
            elif char == "'" and not quoted:
                end = raw.index("'", at + 1)
                self._add(raw[at + 1 : end])
                at = end + 1
            elif char == '"':
                end = _quote_end(raw, at)
                self._add("")
                self._read(raw[at + 1 : end], quoted=True)
                at = end + 1
            elif char == "$":
                at = self._dollar(raw, at, quoted=quoted)
            elif char == "`":
                end = raw.index("`", at + 1)
                self._unknown(raw[at : end + 1], raw[at : end + 1])
                at = end + 1
            else:
                self._add(char)
                at += 1

    def _add(self, text: str) -> None:
        self.current = (self.current or "") + text

    def _add_value(self, text: str, *, quoted: bool) -> None:
        if quoted or not self.splits:
            self._add(text)
            return
        parts = text.split()
        if text[:1] in _BLANKS or not parts:
            self._end_word()
        for index, part in enumerate(parts):
            if index:
                self._end_word()
            self._add(part)
        if parts and text[-1] in _BLANKS:
            self._end_word()

    def _end_word(self) -> None:
        if self.current is not None:
            self.done.append(self.current)
        self.current = None

    def _add_elements(self, elements: list[str], *, quoted: bool) -> None:
        for index, element in enumerate(elements):
            if index:
                self._end_word()
            self._add_value(element, quoted=quoted)

    def _unknown(self, written: str, name: str) -> None:
        self.variables.unresolved.add(name)
        self._add(written)

    def _dollar(self, raw: str, at: int, *, quoted: bool) -> int:
        """Expand what a dollar sign begins; where the rest of the word starts."""
        if raw.startswith("$((", at):
            end = _bracket_end(raw, at + 1)
            self._arithmetic(raw[at:end], raw[at + 3 : end - 2])
            return end
        if raw.startswith("$(", at):
            end = _bracket_end(raw, at + 1)
            self._unknown(raw[at:end], raw[at:end])
            return end
        if raw.startswith("${", at):
            end = _bracket_end(raw, at + 1)
            self._braced(raw[at:end], raw[at + 2 : end - 1], quoted=quoted)
            return end
        plain = _PLAIN.match(raw, at)
        if not plain:
            self._add("$")
            return at + 1
        self._variable(plain[0], plain[1], quoted=quoted)
        return plain.end()

    def _variable(self, written: str, name: str, *, quoted: bool) -> None:
        value = self.variables.text(name)
        if value is None:
            self._unknown(written, name)
        else:
            self._add_value(value, quoted=quoted)

    def _braced(self, written: str, inner: str, *, quoted: bool) -> None:
        match = _BRACED.fullmatch(inner)
        if not match:
            self._unknown(written, written)
            return
        value = self.variables.values.get(match["name"])
        if isinstance(value, list) and match["all"]:
            self._add_elements(value, quoted=quoted)
            return
        text, sign = self.variables.text(match["name"]), match["sign"] or ""
        missing = text is None or (sign.startswith(":") and not text)
        if sign.endswith("+"):
            self._read("" if missing else match["word"], quoted=quoted)
        elif missing and sign:
            self._default(match["name"], match["word"], assigns=sign.endswith("="), quoted=quoted)
        elif text is None:
            self._unknown(written, match["name"])
        else:
            self._add_value(text, quoted=quoted)

    def _default(self, name: str, word: str, *, assigns: bool, quoted: bool) -> None:
        if assigns:
            self.variables.values[name] = self.variables.joined(word)
        self._read(word, quoted=quoted and not word.startswith('"'))

    def _arithmetic(self, written: str, expression: str) -> None:
        value = self.evaluate(expression)
        if value is None:
            self._unknown(written, written)
        else:
            self._add(str(value))

    def evaluate(self, expression: str) -> int | None:
        """A whole-number expression, None where a part of it is not known."""
        bare = re.sub(r"\$\{?(\w+)\}?", r"\1", expression).replace("/", "//").strip()
        try:
            return self._value(ast.parse(bare, mode="eval").body)
        except (SyntaxError, ZeroDivisionError):
            return None

    def _value(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            text = self.variables.text(node.id)
            return int(text) if text is not None and text.strip().isdecimal() else None
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = self._value(node.left), self._value(node.right)
            return None if left is None or right is None else _ARITHMETIC[type(node.op)](left, right)
        return None


def arithmetic(variables: Variables, expression: str) -> int | None:
    """The value of a whole-number expression of a script."""
    return _Expander(variables).evaluate(expression)


def _quote_end(raw: str, at: int) -> int:
    """Where the double quote that opens at `at` closes."""
    at += 1
    while raw[at] != '"':
        at = _bracket_end(raw, at + 1) if raw.startswith(("${", "$("), at) else at + (2 if raw[at] == "\\" else 1)
    return at


def _bracket_end(raw: str, at: int) -> int:
    """Behind the bracket that closes the one at `at`."""
    opening, closing, depth = raw[at], {"(": ")", "{": "}"}[raw[at]], 0
    while at < len(raw):
        depth += (raw[at] == opening) - (raw[at] == closing)
        at += 1
        if not depth:
            return at
    return at
