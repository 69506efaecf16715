"""What Megatron-LM recomputes, as policies of the layers."""

from __future__ import annotations

from meshwright.costmodel.strategy import Recompute
from meshwright.planner.foreign.settings import Settings, UnmodelledUse

DEFAULT_MODULES = ("core_attn",)
EXACT = (
    frozenset({"core_attn"}),
    frozenset({"moe_act"}),
    frozenset({"layernorm", "moe_act"}),
    frozenset({"moe"}),
    frozenset({"mlp"}),
    frozenset({"mlp", "moe"}),
)
"""Sets of modules that a policy stands for exactly."""


def granularity(settings: Settings) -> str:
    """full, selective or nothing."""
    return "selective" if settings.on("recompute_activations") else settings.text("recompute_granularity")


def modules(settings: Settings) -> frozenset[str]:
    """What selective recomputation runs again."""
    return frozenset(settings.words("recompute_modules") or DEFAULT_MODULES)


def policies(settings: Settings, moe_layers: tuple[bool, ...]) -> tuple[Recompute, ...]:
    """The policy of each layer of one virtual stage; `moe_layers` says which of them have experts.

    `block` takes the first layers of each virtual stage, `uniform` all of them.
    """
    match granularity(settings):
        case "full":
            count = len(moe_layers)
            if settings.text("recompute_method") == "block":
                count = min(count, settings.integer("recompute_num_layers", count))
            return (Recompute.FULL,) * count + (Recompute.NONE,) * (len(moe_layers) - count)
        case "selective":
            chosen = modules(settings)
            return tuple(_selective(chosen, is_moe=is_moe) for is_moe in moe_layers)
        case _:
            return (Recompute.NONE,) * len(moe_layers)


def _selective(chosen: frozenset[str], *, is_moe: bool) -> Recompute:
    if ("moe" if is_moe else "mlp") in chosen:
        return Recompute.FFN
    if chosen & {"layernorm", "mla_up_proj"}:
        return Recompute.NORM_ACTIVATION
    if "moe_act" in chosen and is_moe:
        return Recompute.ACTIVATION
    return Recompute.CORE_ATTENTION if "core_attn" in chosen else Recompute.NONE


def unmodelled_recompute(settings: Settings) -> list[UnmodelledUse]:
    """Recomputation that no policy stands for exactly."""
    uses = []
    if granularity(settings) == "selective" and modules(settings) not in EXACT:
        text = f"--recompute-modules {' '.join(sorted(modules(settings)))}"
        nearest = sorted({_selective(modules(settings), is_moe=is_moe).value for is_moe in (False, True)})
        larger = "; the up-projections of latent attention stay: less memory is needed than predicted"
        why = f"no policy is just this; predicted as {', '.join(nearest)}"
        uses.append(UnmodelledUse(option=text, why=why + (larger if "mla_up_proj" in modules(settings) else "")))
    if granularity(settings) == "full" and settings.text("recompute_method") == "uniform":
        layers = settings.integer("recompute_num_layers", 1)
        if layers > 1:
            why = "one layer in so many keeps its input; predicted as every layer"
            uses.append(UnmodelledUse(option=f"--recompute-num-layers {layers}", why=why))
    if settings.on("distribute_saved_activations"):
        uses.append(UnmodelledUse(option="--distribute-saved-activations", why="kept inputs are split over tp"))
    return uses
