"""Files and presets by name, and what to say when there is no such thing."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from meshwright.costmodel.errors import InputError


def names_in(folder: Path, suffix: str) -> tuple[str, ...]:
    """Names of the data files of a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob(f"*{suffix}")))


def find_file(name_or_path: str | Path, folder: Path, suffix: str, error: type[InputError], what: str) -> Path:
    """The shipped file of that name, or the path itself; an `error` with the nearest names if there is neither."""
    text = str(name_or_path)
    names = names_in(folder, suffix)
    if text in names:
        return folder / f"{text}{suffix}"
    path = Path(text)
    if path.is_file():
        return path
    looks_like_path = "/" in text or path.suffix != ""
    if looks_like_path:
        raise error(text, "", f"no such file; expected a {what} file or one of {', '.join(names)}")
    raise error(what, text, f"no such preset{nearest(text, names)}; there are {', '.join(names)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A question, "did you mean", with the closest known word, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def read_text(path: Path, error: type[InputError]) -> str:
    """The file's text; an `error` if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(str(path), "", f"cannot be read: {problem}") from problem
