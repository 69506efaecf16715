"""Hardware profiles from JSON. A profile may extend a shipped one and say only what differs."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from meshwright.costmodel.errors import ProfileError
from meshwright.costmodel.hardware import PROFILE_SCHEMA_VERSION, HardwareProfile
from meshwright.hardware_profiles.naming import find_file, names_in, nearest, read_text

PROFILE_FOLDER = Path(__file__).parent / "profiles"
TRANSFERS = {"gemm": ("scale", "sustained_fraction"), "attention": ("scale",)}
EXTENSION_KEYS = ("extends", "gemm_transfer", "attention_transfer")


def profile_names() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return names_in(PROFILE_FOLDER, ".json")


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """A shipped profile by name, or one from a JSON file; a `ProfileError` names file and field."""
    return _load(find_file(name_or_path, PROFILE_FOLDER, ".json", ProfileError, "hardware profile"))


@lru_cache(maxsize=32)
def _load(path: Path) -> HardwareProfile:
    data = _flattened(path)
    try:
        return msgspec.convert(data, HardwareProfile)
    except msgspec.ValidationError as problem:
        raise ProfileError(str(path), "", str(problem)) from problem


def _flattened(path: Path) -> dict[str, Any]:
    """The profile's data with what it extends filled in."""
    try:
        data = msgspec.json.decode(read_text(path, ProfileError))
    except msgspec.DecodeError as problem:
        raise ProfileError(str(path), "", f"is not JSON: {problem}") from problem
    if not isinstance(data, dict):
        raise ProfileError(str(path), "", "expected a JSON object")
    _check_keys(path, data)
    if "extends" not in data:
        return data
    return _extended(path, data)


def _check_keys(path: Path, data: dict[str, Any]) -> None:
    known = (*HardwareProfile.__struct_fields__, *EXTENSION_KEYS)
    for key in data:
        if key not in known:
            raise ProfileError(str(path), key, f"unknown key{nearest(key, known)}; known are {', '.join(known)}")
    version = data.get("schema_version", PROFILE_SCHEMA_VERSION if "extends" in data else None)
    if version != PROFILE_SCHEMA_VERSION:
        raise ProfileError(str(path), "schema_version", f"{version}; expected {PROFILE_SCHEMA_VERSION}")


def _extended(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    base_name = data["extends"]
    if base_name not in profile_names() or base_name == path.stem:
        raise ProfileError(str(path), "extends", f"{base_name!r} is not one of {', '.join(profile_names())}")
    _check_parts(path, data)
    base = _flattened(PROFILE_FOLDER / f"{base_name}.json")
    merged = base | {key: value for key, value in data.items() if key not in EXTENSION_KEYS}
    merged["gpu"] = base["gpu"] | data.get("gpu", {})
    merged["citations"] = _merged_citations(path, base["citations"], data)
    for kind, fields in TRANSFERS.items():
        if f"{kind}_transfer" in data:
            transfer = data[f"{kind}_transfer"]
            _check_transfer(path, f"{kind}_transfer", transfer, fields)
            merged[kind] = [_transferred(table, transfer) for table in merged[kind]]
    if "gemm_transfer" in data:
        transfer = data["gemm_transfer"]
        merged["grouped_laws"] = [_transferred_law(law, transfer) for law in merged.get("grouped_laws", [])]
    return merged


def _check_parts(path: Path, data: dict[str, Any]) -> None:
    """Refuse parts that cannot be merged with those of the profile that is extended."""
    if not isinstance(data.get("gpu", {}), dict):
        raise ProfileError(str(path), "gpu", "expected an object")
    citations = data.get("citations", [])
    if not (isinstance(citations, list) and all(isinstance(citation, dict) for citation in citations)):
        raise ProfileError(str(path), "citations", "expected a list of objects")


def _merged_citations(path: Path, base: list[Any], data: dict[str, Any]) -> list[Any]:
    """New citations before the inherited ones; a changed figure must bring its own."""
    own = data.get("citations", [])
    cited = {citation.get("figure") for citation in own}
    for field in data.get("gpu", {}):
        if field != "name" and f"gpu.{field}" not in cited:
            raise ProfileError(str(path), f"gpu.{field}", "differs from the profile it extends but has no citation")
    return [*own, *(citation for citation in base if citation["figure"] not in cited)]


def _check_transfer(path: Path, key: str, transfer: object, fields: tuple[str, ...]) -> None:
    if not isinstance(transfer, dict) or set(transfer) != {*fields, "text"}:
        raise ProfileError(str(path), key, f"expected an object with {', '.join(fields)} and text")
    for field in fields:
        value = transfer[field]
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ProfileError(str(path), f"{key}.{field}", f"{value!r} is not a positive number")


def _transferred_law(law: dict[str, Any], transfer: dict[str, Any]) -> dict[str, Any]:
    """The law of grouped products for another GPU: the rate inside a tile changes as that of dense products does."""
    rate = min(law["rate_fraction"] * transfer["scale"], transfer["sustained_fraction"])
    provenance = {"source": "derived", "text": f"{transfer['text']} ({law['provenance']['text']})"}
    return law | {"rate_fraction": rate, "provenance": provenance}


def _transferred(table: dict[str, Any], transfer: dict[str, Any]) -> dict[str, Any]:
    """A table carried over to another GPU: other factors, and why. Of a law the rate inside a tile changes alone."""
    factors = {key: value for key, value in transfer.items() if key != "text"}
    provenance = {"source": "derived", "text": f"{transfer['text']} ({table['provenance']['text']})"}
    if (law := table.get("law")) is not None:
        rate = min(1.0, law["rate_fraction"] * factors.pop("scale"))
        factors["law"] = law | {"rate_fraction": rate}
    return table | factors | {"provenance": provenance}
