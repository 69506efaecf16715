"""`meshwright models`: the model presets and their main figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from meshwright.commands.output import print_json, print_table

if TYPE_CHECKING:
    from meshwright.costmodel.model import ModelSpec

SEQ_LEN_TOKENS = 4096

COLUMNS = (
    "name",
    "layers",
    "MoE layers",
    "hidden",
    "heads",
    "KV heads",
    "experts",
    "top-k",
    "total [B]",
    "active [B]",
    f"GFLOP/token s={SEQ_LEN_TOKENS}",
    "+ MTP [B]",
    "+ MTP GFLOP",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """What is printed of one preset. In a dense model `num_experts` and `top_k` are 0.

    Where layers differ, `num_heads`, `num_kv_heads`, `num_experts` and `top_k` are those of the largest.
    `mtp_parameters`, `mtp_active_parameters` and `mtp_flops_per_token`: what modules for multi-token prediction add in
    training; the other figures leave them out.
    """

    name: str
    num_layers: int
    num_moe_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    num_experts: int
    top_k: int
    total_parameters: int
    active_parameters: int
    seq_len: int
    flops_per_token: float
    mtp_parameters: int
    mtp_active_parameters: int
    mtp_flops_per_token: float
    source: str


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """List the model presets with their main figures.

    Each name is a MODEL for `meshwright plan`.
    """
    from meshwright.costmodel.presets import load_model, preset_names

    figures = [model_figures(name, load_model(name)) for name in preset_names()]
    if as_json:
        print_json({"models": figures})
    else:
        print_table("Model presets", COLUMNS, [_row(figure) for figure in figures])


def model_figures(name: str, model: ModelSpec) -> ModelFigures:
    """The main figures of a model; FLOPs per token are those of training at `SEQ_LEN_TOKENS`."""
    from meshwright.costmodel.formulas.flops import flops_per_token, mtp_flops_per_token
    from meshwright.costmodel.formulas.parameters import (
        active_parameters,
        mtp_active_parameters,
        mtp_parameters,
        total_parameters,
    )
    from meshwright.costmodel.model import MoeFfnSpec

    experts = [layer.ffn for layer in model.layer_types if isinstance(layer.ffn, MoeFfnSpec)]
    added_flops = mtp_flops_per_token(model, SEQ_LEN_TOKENS)
    return ModelFigures(
        name=name,
        num_layers=model.num_layers,
        num_moe_layers=sum(layer.is_moe for layer in model.layers),
        hidden=model.hidden,
        num_heads=max(layer.attention.num_heads for layer in model.layer_types),
        num_kv_heads=max(layer.attention.num_kv_heads for layer in model.layer_types),
        num_experts=max((ffn.num_experts for ffn in experts), default=0),
        top_k=max((ffn.top_k for ffn in experts), default=0),
        total_parameters=total_parameters(model),
        active_parameters=active_parameters(model),
        seq_len=SEQ_LEN_TOKENS,
        flops_per_token=flops_per_token(model, SEQ_LEN_TOKENS) - added_flops,
        mtp_parameters=mtp_parameters(model),
        mtp_active_parameters=mtp_active_parameters(model),
        mtp_flops_per_token=added_flops,
        source=model.source,
    )


def _row(figures: ModelFigures) -> tuple[str, ...]:
    return (
        figures.name,
        str(figures.num_layers),
        str(figures.num_moe_layers or "-"),
        str(figures.hidden),
        str(figures.num_heads),
        str(figures.num_kv_heads),
        str(figures.num_experts or "-"),
        str(figures.top_k or "-"),
        f"{figures.total_parameters / 1e9:.2f}",
        f"{figures.active_parameters / 1e9:.2f}",
        f"{figures.flops_per_token / 1e9:.1f}",
        f"{figures.mtp_parameters / 1e9:.2f}" if figures.mtp_parameters else "-",
        f"{figures.mtp_flops_per_token / 1e9:.1f}" if figures.mtp_parameters else "-",
    )
