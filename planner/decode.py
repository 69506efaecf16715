"""JSON data to values, with the path of every mistake: `pipeline.stages[3].num_layers`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from meshwright.costmodel.errors import InputError, PlanError

T = TypeVar("T")

_AT = re.compile(r"(?P<problem>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")


def convert(data: object, kind: type[T], where: str) -> T:
    """`data` as a value of type `kind`; a `PlanError` of file `where` names the path of what is wrong."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise _shape_error(str(error), where) from error
    except InputError as error:
        path = ".".join(filter(None, (path_of_refusal(data, kind), error.field)))
        raise PlanError(where, path, error.problem) from error


def _shape_error(message: str, where: str) -> PlanError:
    """The message of msgspec about a wrong type, an unknown or a missing field, as ours."""
    match = _AT.fullmatch(message)
    problem, path = (match["problem"], match["path"] or "") if match else (message, "")
    if missing := _MISSING.fullmatch(problem):
        path, problem = f"{path}.{missing['name']}", "missing"
    elif unknown := _UNKNOWN.fullmatch(problem):
        path, problem = f"{path}.{unknown['name']}", "unknown field"
    else:
        problem = problem[:1].lower() + problem[1:].replace("`", "")
    return PlanError(where, path.lstrip("."), problem)


def path_of_refusal(data: object, kind: Any) -> str:  # noqa: ANN401  any type annotation
    """The path of the innermost value that refuses to be made from the data; empty if it is the outermost."""
    for step, part, part_kind in _parts(data, kind):
        try:
            msgspec.convert(part, part_kind)
        except InputError:
            inner = path_of_refusal(part, part_kind)
            return f"{step}{'' if inner.startswith('[') or not inner else '.'}{inner}"
        except msgspec.ValidationError:
            continue
    return ""


def _parts(data: object, kind: Any) -> Iterator[tuple[str, object, Any]]:  # noqa: ANN401
    """The parts of a value with their step of the path and their type: fields of a struct, items of a tuple."""
    if isinstance(data, Mapping) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind, include_extras=True)
        yield from ((name, value, hints[name]) for name, value in data.items() if name in hints)
    elif isinstance(data, list) and (item_kind := _item_kind(kind)) is not None:
        yield from ((f"[{index}]", value, item_kind) for index, value in enumerate(data))


def _item_kind(kind: Any) -> Any:  # noqa: ANN401
    """X of tuple[X, ...], annotated or not."""
    if hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    arguments = get_args(kind)
    return arguments[0] if get_origin(kind) is tuple and arguments[1:] == (...,) else None
