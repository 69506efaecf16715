"""Which layers are timed: models by preset, strategies by number of GPUs, experts cut where a layer would not fit."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.errors import InfeasibleError
from meshwright.costmodel.model import LayerSpec, ModelSpec, MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.layer import build_layer
from meshwright.costmodel.program.program import LayerProgram
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.strategy import Dispatch, LayerStrategy
from meshwright.costmodel.value import Value
from meshwright.executor.layer.parameter_list import layer_parameters

PAPER_MODELS = (
    "internal-352b",
    "paper-mixtral-8x7b",
    "paper-mixtral-8x22b",
    "paper-hunyuan-large",
    "paper-phi-3.5-moe",
    "paper-deepseek-moe",
)
"""The six models of MegaScale-MoE (arXiv 2505.11432, table 2)."""

MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", *PAPER_MODELS)
PAPER_SHAPES = ((8192, 1),)
SHAPES = ((4096, 1), (4096, 2), (8192, 1))

ONE_GPU = {"single": LayerStrategy()}
TWO_GPUS_DENSE = {
    "tp2": LayerStrategy(tp=2, ffn_tp=2),
    "sp2": LayerStrategy(sp=2),
    "sp2-ffn_tp2": LayerStrategy(sp=2, ffn_tp=2),
}
TWO_GPUS_MOE = {
    "ep2-alltoall": LayerStrategy(ep=2),
    "ep2-dedup": LayerStrategy(ep=2, dispatch=Dispatch.ALL_TO_ALL_DEDUP),
    "ep2-allgather": LayerStrategy(ep=2, dispatch=Dispatch.ALL_GATHER),
    "sp2-ep2-alltoall": LayerStrategy(sp=2, ffn_tp=2, ep=2),
    "sp2-ep2-allgather": LayerStrategy(sp=2, ffn_tp=2, ep=2, dispatch=Dispatch.ALL_GATHER),
    "tp2-ep2-alltoall": LayerStrategy(tp=2, ffn_tp=2, ep=2),
}
"""Strategies by name. `ffn_tp` splits shared experts, where there are any."""

MEMORY_SHARE = 0.8
WEIGHT_BYTES = 2 + 2 + 2
"""BF16 weights, their gradients, and the whole weights that the reference needs until it is done."""


class Case(Value, frozen=True, kw_only=True):
    """A layer to time."""

    model: str
    strategy_name: str
    layer: LayerSpec
    setting: ProgramSetting
    num_experts_of_model: int

    @property
    def num_experts(self) -> int:
        """Routed experts that the layer has here, 0 for a dense one."""
        return self.layer.ffn.num_experts if isinstance(self.layer.ffn, MoeFfnSpec) else 0

    @property
    def program(self) -> LayerProgram:
        """The operators."""
        return build_layer(self.layer, self.setting)

    @property
    def title(self) -> str:
        """One line that names it."""
        cut = f", {self.num_experts} of {self.num_experts_of_model} experts" if self.is_cut else ""
        setting = self.setting
        return f"{self.model} {self.strategy_name} seq {setting.seq_len} mb {setting.micro_batch}{cut}"

    @property
    def is_cut(self) -> bool:
        """Whether experts were left out."""
        return self.num_experts < self.num_experts_of_model


def strategies_for(layer: LayerSpec, num_gpus: int) -> dict[str, LayerStrategy]:
    """The strategies that are timed on so many GPUs; sp2 alone stands for its plain FFN in dense layers."""
    if num_gpus == 1:
        return ONE_GPU
    return TWO_GPUS_MOE if layer.is_moe else TWO_GPUS_DENSE


def shapes_for(model: str) -> tuple[tuple[int, int], ...]:
    """Sequence lengths and micro-batches that a model is timed with."""
    return PAPER_SHAPES if model in PAPER_MODELS else SHAPES


def timed_layer(model: ModelSpec) -> LayerSpec:
    """The layer of a model that most of it consists of."""
    return max(model.layer_runs, key=lambda run: run[1])[0]


def make_case(
    model: str,
    strategy_name: str,
    strategy: LayerStrategy,
    *,
    seq_len: int,
    micro_batch: int,
    num_gpus: int,
    memory_bytes: float,
) -> Case:
    """The case, with half of the experts, a quarter, ... where it would not fit in a GPU's memory otherwise."""
    spec = load_model(model)
    layer = timed_layer(spec)
    setting = ProgramSetting(
        hidden=spec.hidden,
        micro_batch=micro_batch,
        seq_len=seq_len,
        strategy=strategy,
        gpus_per_node=num_gpus,
        fp32_gradients=False,
    )
    num_experts = layer.ffn.num_experts if isinstance(layer.ffn, MoeFfnSpec) else 0
    while needed_bytes(layer, setting) > MEMORY_SHARE * memory_bytes:
        layer = _with_half_of_the_experts(model, layer, strategy)
    return Case(
        model=model, strategy_name=strategy_name, layer=layer, setting=setting, num_experts_of_model=num_experts
    )


def needed_bytes(layer: LayerSpec, setting: ProgramSetting) -> float:
    """A generous estimate: weights, gradients and the reference's copy; activations, their gradients, and float32."""
    weights = 0
    for spec in layer_parameters(layer, setting.hidden):
        count = 1
        for length in spec.shape:
            count *= length
        weights += count
    activations = sum(build_layer(layer, setting).sizes().values())
    return WEIGHT_BYTES * weights + 3 * activations


def _with_half_of_the_experts(model: str, layer: LayerSpec, strategy: LayerStrategy) -> LayerSpec:
    moe = layer.ffn
    if not isinstance(moe, MoeFfnSpec) or moe.num_experts // 2 < max(moe.top_k, strategy.ep):
        raise InfeasibleError(f"a layer of {model} does not fit in the memory of one GPU, whatever its experts")
    half = msgspec.structs.replace(moe, num_experts=moe.num_experts // 2, num_expert_groups=1, groups_per_token=1)
    return msgspec.structs.replace(layer, ffn=half)
