"""Which reader belongs to which `model_type`, and the way from a file to a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.huggingface.deepseek import read_deepseek_moe, read_deepseek_v2, read_deepseek_v3
from meshwright.costmodel.huggingface.dense import (
    read_llama,
    read_mistral,
    read_nemotron,
    read_phi3,
    read_qwen2,
    read_qwen3,
)
from meshwright.costmodel.huggingface.fields import ConfigFields, LenientFields
from meshwright.costmodel.huggingface.gpt import read_gpt2, read_gpt_neox, read_mpt
from meshwright.costmodel.huggingface.mixed import read_hunyuan, read_llama4
from meshwright.costmodel.huggingface.sparse import (
    read_dbrx,
    read_gpt_oss,
    read_grok1,
    read_mixtral,
    read_phimoe,
    read_qwen2_moe,
    read_qwen3_moe,
)
from meshwright.costmodel.model import ModelSpec

FamilyReader = Callable[[ConfigFields, str], ModelSpec]

FAMILIES: Final[Mapping[str, FamilyReader]] = MappingProxyType(
    {
        "dbrx": read_dbrx,
        "deepseek": read_deepseek_moe,
        "deepseek_v2": read_deepseek_v2,
        "deepseek_v3": read_deepseek_v3,
        "gpt2": read_gpt2,
        "gpt_neox": read_gpt_neox,
        "gpt_oss": read_gpt_oss,
        "grok": read_grok1,
        "grok-1": read_grok1,
        "hunyuan": read_hunyuan,
        "hunyuan_v1_dense": read_hunyuan,
        "hunyuan_v1_moe": read_hunyuan,
        "kimi_k2": read_deepseek_v3,
        "llama": read_llama,
        "llama4": read_llama4,
        "llama4_text": read_llama4,
        "mistral": read_mistral,
        "mixtral": read_mixtral,
        "mpt": read_mpt,
        "nemotron": read_nemotron,
        "phi3": read_phi3,
        "phimoe": read_phimoe,
        "qwen2": read_qwen2,
        "qwen2_moe": read_qwen2_moe,
        "qwen3": read_qwen3,
        "qwen3_moe": read_qwen3_moe,
    }
)
"""`model_type` of a config.json to the function that reads it."""


def read_config_file(path: Path, name: str | None = None) -> ModelSpec:
    """The model described by a config.json, or by the one in a directory."""
    file = path / "config.json" if path.is_dir() else path
    return read_config(_json_object(file), str(file), name or _model_name(file))


def read_config(config: Mapping[str, object], where: str, name: str) -> ModelSpec:
    """The model described by the fields of a config.json; `where` names the file in errors."""
    fields = ConfigFields(config, where)
    reader = _family_reader(fields)
    try:
        return reader(fields, name)
    except ModelError as error:
        if error.where == where:
            raise _with_all_missing(error, reader, LenientFields(config, where)) from error
        raise ModelError(where, f"{error.where}.{error.field}", error.problem) from error


def _with_all_missing(error: ModelError, reader: FamilyReader, fields: LenientFields) -> ModelError:
    """The error, which names other missing fields, too, where it is about a missing one."""
    with suppress(ModelError):
        reader(fields, "")
    others = [name for name in fields.missing if name != error.field]
    if not others or error.field not in fields.missing:
        return error
    return ModelError(error.where, error.field, f"{error.problem}; missing, too: {', '.join(others)}")


def _family_reader(fields: ConfigFields) -> FamilyReader:
    family = fields.text("model_type", "") or _family_of_class(fields)
    if family in FAMILIES:
        return FAMILIES[family]
    found = f"{family!r:.60} is not an architecture known here" if family else "missing"
    raise fields.error("model_type", f"{found}, expected one of {', '.join(_nearest_first(family))}")


def _family_of_class(fields: ConfigFields) -> str:
    """The family in `architectures`, for files without a `model_type` (Grok-1's): LlamaForCausalLM gives llama."""
    classes = [name for name in fields.items("architectures") if isinstance(name, str)]
    known = {_letters(family): family for family in FAMILIES}
    stems = [_letters(name.partition("For")[0].partition("LMHead")[0].removesuffix("Model")) for name in classes]
    return next((known[stem] for stem in stems if stem in known), "")


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _nearest_first(family: str) -> list[str]:
    """The known architectures, most alike first."""
    return sorted(FAMILIES, key=lambda known: (-SequenceMatcher(None, family, known).ratio(), known))


def _json_object(file: Path) -> dict[str, object]:
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(str(file), "", "no such file, expected a Hugging Face config.json") from error
    except OSError as error:
        raise ModelError(str(file), "", f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(str(file), "", f"not JSON: {_first_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelError(str(file), "", f"holds a JSON {_json_kind(value)}, expected an object")
    return value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _json_kind(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _model_name(file: Path) -> str:
    """The directory for a file called config.json, else the file's own name."""
    return (file.resolve().parent.name or "model") if file.name == "config.json" else file.stem
