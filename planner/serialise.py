"""plan.json to and from disk: equal plans give equal bytes, and what cannot be right is refused with its path."""

from __future__ import annotations

import os
from inspect import cleandoc
from pathlib import Path

import msgspec

from meshwright.costmodel.errors import InputError, PlanError
from meshwright.planner.decode import convert
from meshwright.planner.plan import SCHEMA_VERSION, Plan
from meshwright.planner.plan_checks import check_plan


def plan_json(plan: Plan) -> bytes:
    """The plan as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plan, order="deterministic"), indent=2) + b"\n"


def schema_json() -> bytes:
    """The JSON schema of a plan file: what `plan.schema.json` holds."""
    schema = _dedented(msgspec.json.schema(Plan))
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=1) + b"\n"


def _dedented(schema: object) -> object:
    """The schema with the docstrings cleaned, which versions of msgspec indent differently."""
    if isinstance(schema, dict):
        return {
            key: cleandoc(value) if key == "description" and isinstance(value, str) else _dedented(value)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_dedented(part) for part in schema]
    return schema


def check_writable(path: Path) -> None:
    """Raises `InputError` unless a file could be written there; leaves nothing behind."""
    _temporary_beside(path).unlink()


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan so that the file is there in full or not at all."""
    write_whole(plan_json(plan), path)


def write_whole(content: bytes, path: Path) -> None:
    """Write a file so that it is there in full or not at all. Raises `InputError` where it cannot be written."""
    temporary = _temporary_beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path.resolve())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(str(path), "", f"cannot be written: {_reason(error)}") from error


def _temporary_beside(path: Path) -> Path:
    """An empty file in the directory of `path`; an `InputError` where `path` could not be written."""
    try:
        target = path.resolve()
        if reason := _refusal(target):
            raise InputError(str(path), "", f"cannot be written: {reason}")
        temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
        temporary.open("xb").close()
    except (OSError, ValueError) as error:
        raise InputError(str(path), "", f"cannot be written: {_reason(error)}") from error
    return temporary


def _refusal(target: Path) -> str:
    """Why an existing file must not be replaced; empty if it may be, or if there is none."""
    if not target.exists():
        return "" if target.parent.is_dir() else f"there is no directory {target.parent}"
    if not target.is_file():
        return "it is a directory" if target.is_dir() else "it is not a regular file"
    return "" if target.stat().st_mode & 0o222 else "it is read-only"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises `PlanError` that names the file, the path of the mistake and what was expected."""
    return parse_plan(_read_bytes(path), str(path))


def parse_plan(text: bytes, where: str) -> Plan:
    """The plan in the bytes of a file called `where`. The schema version is looked at before anything else."""
    data = _json_object(text, where)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        found = "missing" if "schema_version" not in data else f"{version!r:.40}"
        raise PlanError(where, "schema_version", f"{found}; this meshwright reads version {SCHEMA_VERSION}")
    plan = convert(data, Plan, where)
    check_plan(plan, where)
    return plan


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise PlanError(str(path), "", "no such file, expected a plan written by `meshwright plan -o`") from error
    except (OSError, ValueError) as error:
        raise PlanError(str(path), "", f"cannot be read: {_reason(error)}") from error


def _json_object(text: bytes, where: str) -> dict[str, object]:
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(where, "", f"not JSON: {error}; expected a plan written by `meshwright plan -o`") from error
    if not isinstance(data, dict):
        raise PlanError(where, "", "expected a JSON object, a plan written by `meshwright plan -o`")
    return data
