"""Splits a shell script into simple commands of raw words: quotes and expansions stay in them, comments go."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.value import Value

OPERATORS = ("&&", "||", ";;", ";", "|", "&", "\n")
CLOSING = {"(": ")", "{": "}"}
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_ARRAY = re.compile(r"[A-Za-z_]\w*\+?=\(")
_REDIRECT = re.compile(r"\d*(>>|>&|<<<|>|<)")


class RawWord(Value, frozen=True, kw_only=True):
    """A word as it stands in the script, and its line."""

    text: str
    line: int


class RawCommand(Value, frozen=True, kw_only=True):
    """The words of one command, and the operator behind it."""

    words: tuple[RawWord, ...]
    operator: str

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.words[0].line


def split_commands(where: str, script: str) -> tuple[RawCommand, ...]:
    """The commands of a script in order; an `InputError` where a quote or a bracket is not closed."""
    return tuple(_Splitter(where, script).commands())


class _Splitter:
    """A position in the script, and the line it is on."""

    def __init__(self, where: str, script: str) -> None:
        self.where, self.text = where, script.replace("\r\n", "\n")
        self.at, self.line = 0, 1
        self.heredocs: list[str] = []

    def commands(self) -> Iterator[RawCommand]:
        words: list[RawWord] = []
        while self.at < len(self.text):
            operator = next((sign for sign in OPERATORS if self.text.startswith(sign, self.at)), "")
            in_test = bool(words) and words[0].text == "[[" and words[-1].text != "]]"
            if operator and not (in_test and operator in ("&&", "||")):
                if words:
                    yield RawCommand(words=tuple(words), operator=operator)
                words = []
                self._skip(len(operator))
                if operator == "\n":
                    self._skip_heredocs()
            elif self._skip_blank():
                continue
            else:
                words.append(self._word())
        if words:
            yield RawCommand(words=tuple(words), operator="\n")

    def _skip(self, count: int) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def _skip_blank(self) -> bool:
        """Skip a blank, a continued line or a comment; whether there was one."""
        if self.text.startswith("\\\n", self.at):
            self._skip(2)
        elif self.text[self.at] in " \t":
            self._skip(1)
        elif self.text[self.at] == "#":
            end = self.text.find("\n", self.at)
            self._skip((end if end >= 0 else len(self.text)) - self.at)
        else:
            return False
        return True

    def _skip_heredocs(self) -> None:
        """The bodies of here-documents, which follow the line that announces them, are no commands."""
        for delimiter in self.heredocs:
            end = re.compile(rf"^\t*{re.escape(delimiter)}$", re.MULTILINE).search(self.text, self.at)
            self._skip((end.end() if end else len(self.text)) - self.at)
        self.heredocs = []

    def _word(self) -> RawWord:
        start, line = self.at, self.line
        announced = _HEREDOC.match(self.text, self.at)
        if announced:
            self.heredocs.append(announced[2])
            self._skip(len(announced[0]))
            return RawWord(text=announced[0], line=line)
        redirect = _REDIRECT.match(self.text, self.at)
        if redirect:
            self._skip(len(redirect[0]))
            return RawWord(text=redirect[0], line=line)
        array = _ARRAY.match(self.text, self.at)
        if array:
            self._skip(len(array[0]) - 1)
            self._bracketed()
            return RawWord(text=self.text[start : self.at], line=line)
        if self.text[self.at] in "()":
            self._skip(2 if self.text[self.at : self.at + 2] in ("((", "))") else 1)
            return RawWord(text=self.text[start : self.at], line=line)
        while self.at < len(self.text) and not self._ends_word():
            self._piece()
        return RawWord(text=self.text[start : self.at], line=line)

    def _ends_word(self) -> bool:
        return self.text[self.at] in " \t\n;|&<>()" or self.text.startswith("\\\n", self.at)

    def _piece(self) -> None:
        """One character, or one quoted or bracketed piece."""
        char = self.text[self.at]
        if char == "\\":
            self._skip(2)
        elif char == "'":
            self._until("'")
        elif char == '"':
            self._double_quoted()
        elif char == "`":
            self._until("`")
        elif char == "$" and self.text[self.at + 1 : self.at + 2] in ("(", "{"):
            self._skip(1)
            self._bracketed()
        else:
            self._skip(1)

    def _until(self, sign: str) -> None:
        end = self.text.find(sign, self.at + 1)
        if end < 0:
            raise InputError(f"{self.where}:{self.line}", "", f"{sign} is not closed")
        self._skip(end + 1 - self.at)

    def _double_quoted(self) -> None:
        line = self.line
        self._skip(1)
        while self.at < len(self.text) and self.text[self.at] != '"':
            if self.text[self.at] == "'":
                self._skip(1)
            else:
                self._piece()
        if self.at >= len(self.text):
            raise InputError(f"{self.where}:{line}", "", '" is not closed')
        self._skip(1)

    def _bracketed(self) -> None:
        """From an opening bracket to behind the one that closes it."""
        line, closing = self.line, CLOSING[self.text[self.at]]
        self._skip(1)
        while self.at < len(self.text) and self.text[self.at] != closing:
            if self.text[self.at] == "#" and closing == ")" and self.text[self.at - 1] in " \t\n(":
                self._skip_blank()
            elif self.text[self.at] in CLOSING:
                self._bracketed()
            else:
                self._piece()
        if self.at >= len(self.text):
            raise InputError(f"{self.where}:{line}", "", f"the bracket is not closed by {closing}")
        self._skip(1)


def array_elements(where: str, word: RawWord) -> tuple[RawWord, ...]:
    """The raw words between the brackets of `NAME=( ... )`."""
    start = word.text.index("(") + 1
    inner = _Splitter(where, word.text[start:-1])
    inner.line = word.line
    words: list[RawWord] = []
    while inner.at < len(inner.text):
        if inner.text[inner.at] == "\n":
            inner._skip(1)
        elif not inner._skip_blank():
            before = inner.at
            words.append(inner._word())
            if inner.at == before:
                inner._skip(1)
    return tuple(words)
