"""What a config.json says of a model that its shapes do not show: epsilons, rotary positions, weights of experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshwright.costmodel.errors import ModelError
from meshwright.executor.layer.context import RoutingChoice
from meshwright.executor.layer.rope_scaling import (
    NO_SCALING,
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
)
from meshwright.executor.weights.families import FAMILIES, Family, family_named

NO_KIND = ("default", None)
MLA_FAMILIES = ("deepseek_v2", "deepseek_v3", "kimi_k2")
OTHERS = tuple(
    Family(model_type=name, architecture="", normalize=False, reads_normalize=True)
    for name in ("qwen2_moe", "deepseek")
)
"""Families whose weights are not read, but whose plain gate weights are not normalised."""
_KNOWN = {family.model_type: family for family in (*FAMILIES, *OTHERS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNumerics:
    """The fields of `LayerContext` that a config.json decides, by the same names."""

    norm_epsilon: float = 1e-6
    latent_norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = NO_SCALING
    routing: RoutingChoice = field(default_factory=RoutingChoice)


def read_numerics(config: Mapping[str, object], where: str) -> ModelNumerics:
    """The numerics of a config.json; `where` names it in errors.

    Raises `ModelError` for what the executor would compute differently: other activations, partial rotary heads, other
    kinds of stretched positions.
    """
    return _numerics(config, where, family_named(str(config.get("model_type", "")), where))


def has_numerics(config: Mapping[str, object]) -> bool:
    """Whether the numerics of a config.json can be read without its weights."""
    return str(config.get("model_type", "")) in _KNOWN


def read_numerics_alone(config: Mapping[str, object], where: str) -> ModelNumerics:
    """The same for a model whose weights may not be readable, too; raises `ModelError`."""
    if not has_numerics(config):
        problem = f"{config.get('model_type')!r}: numerics of this family are not read; expected one of "
        raise ModelError(where, "model_type", problem + ", ".join(_KNOWN))
    return _numerics(config, where, _KNOWN[str(config["model_type"])])


def _numerics(config: Mapping[str, object], where: str, family: Family) -> ModelNumerics:
    fields = _Fields(config, where)
    fields.expect("hidden_act", ("silu", "swish", None))
    fields.expect("partial_rotary_factor", (1, 1.0, None))
    # transformers 4 has rope_theta and rope_scaling, transformers 5 both in rope_parameters.
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    rope.expect("partial_rotary_factor", (1, 1.0, None))
    theta = rope.number("rope_theta", fields.number("rope_theta", family.rope_theta))
    return ModelNumerics(
        norm_epsilon=fields.number("rms_norm_eps", family.norm_epsilon),
        rope_theta=theta,
        rope_scaling=_scaling(fields, rope, family),
        routing=_routing(fields, family),
    )


def _routing(fields: _Fields, family: Family) -> RoutingChoice:
    normalize = fields.switch("norm_topk_prob", family.normalize)
    if normalize != family.normalize and not family.reads_normalize and fields.has("norm_topk_prob"):
        raise fields.error("norm_topk_prob", f"{normalize}, which {family.model_type} code ignores; expected null")
    return RoutingChoice(normalize=normalize, scale=fields.number("routed_scaling_factor", family.scale))


def _scaling(fields: _Fields, rope: _Fields, family: Family) -> RopeScaling:
    kind = rope.first("rope_type", "type")
    if kind in NO_KIND:
        return NO_SCALING
    if kind == "linear":
        return LinearScaling(factor=rope.number("factor"))
    if kind == "llama3":
        return Llama3Scaling(
            factor=rope.number("factor"),
            low_frequency_factor=rope.number("low_freq_factor"),
            high_frequency_factor=rope.number("high_freq_factor"),
            original_length=_original_length(fields, rope),
        )
    if kind == "yarn":
        return _yarn(fields, rope, family)
    raise rope.error("rope_type", f"{kind!r}, expected one of default, linear, llama3, yarn")


def _yarn(fields: _Fields, rope: _Fields, family: Family) -> YarnScaling:
    length = _original_length(fields, rope)
    factor = rope.number("factor") if rope.has("factor") else fields.number("max_position_embeddings") / length
    return YarnScaling(
        factor=factor,
        original_length=length,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.switch("truncate", True),
        attention_factor=rope.number("attention_factor", 0.0),
        mscale=rope.number("mscale", 0.0),
        mscale_all_dim=rope.number("mscale_all_dim", 0.0),
        scales_scores=family.model_type in MLA_FAMILIES,
    )


def _original_length(fields: _Fields, rope: _Fields) -> int:
    name = "original_max_position_embeddings"
    return int(rope.number(name) if rope.has(name) else fields.number("max_position_embeddings"))


class _Fields:
    """Fields of one object, checked as they are read. Null and missing are the same."""

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        self._values = values
        self._where = where
        self._prefix = prefix

    def __bool__(self) -> bool:
        return bool(self._values)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def first(self, *names: str) -> object:
        """The first of several names of one field that is there."""
        return next((self._values[name] for name in names if self.has(name)), None)

    def error(self, name: str, problem: str) -> ModelError:
        return ModelError(self._where, f"{self._prefix}{name}", problem)

    def section(self, name: str) -> _Fields:
        value = self._values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.error(name, f"{value!r:.60}, expected an object")
        return _Fields(value, self._where, f"{self._prefix}{name}.")

    def number(self, name: str, default: float | None = None) -> float:
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            found = "missing" if value is None else f"{value!r:.60}"
            raise self.error(name, f"{found}, expected a number")
        return float(value)

    def switch(self, name: str, default: bool) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"{value!r:.60}, expected true or false")
        return value

    def expect(self, name: str, allowed: tuple[object, ...]) -> None:
        value = self._values.get(name)
        if value not in allowed:
            raise self.error(name, f"{value!r:.60}: the executor does not run this; expected {allowed[0]!r}")
