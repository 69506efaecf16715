"""The slow truth of a layer: its forward in plain PyTorch, one device, all experts, which autograd differentiates.

Nothing here is shared with the bindings but the frequencies of stretched rotary positions. Tokens are sequence-major,
(S B, H), weights by the names of `parameter_list.layer_parameters`, whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.costmodel.errors import ModelError
from meshwright.costmodel.model import DenseFfnSpec, LayerSpec, MoeFfnSpec, RouterScore
from meshwright.executor.layer.context import RoutingChoice
from meshwright.executor.layer.reference_losses import ReferenceRouting
from meshwright.executor.layer.rope_scaling import NO_SCALING, RopeScaling


@dataclass(frozen=True, kw_only=True)
class ReferenceLayer:
    """A layer and what its description leaves open. `wide`: the format in which everything is computed. `seen`: what
    its router did in every call.
    """

    layer: LayerSpec
    weights: Mapping[str, Tensor]
    micro_batch: int
    routing: RoutingChoice = field(default_factory=RoutingChoice)
    capacity_factor: float = math.inf
    norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = NO_SCALING
    latent_norm_epsilon: float = 1e-6
    wide: torch.dtype = torch.float32
    seen: list[ReferenceRouting] = field(default_factory=list)

    def __call__(self, hidden_TH: Tensor, experts_TK: Tensor | None = None) -> Tensor:
        """The layer's output. `experts_TK` overrules the choice of experts, but not their weights."""
        x = hidden_TH.to(self.wide)
        attended = self._branch("attn_out", self._attention(self._norm("norm1", x)))
        middle = x + attended
        normed = self._norm("norm2", middle)
        ffn = self.layer.ffn
        if isinstance(ffn, DenseFfnSpec):
            return middle + self._branch("ffn_out", self._dense("", ffn.gated, normed))
        routed = self._branch("ffn_out", self._experts(ffn, normed, experts_TK))
        return middle + routed + self._shared(ffn, normed)

    def routed_experts(self, x_TH: Tensor, experts_TK: Tensor | None = None) -> Tensor:
        """The routed experts alone, from their router on."""
        if not isinstance(self.layer.ffn, MoeFfnSpec):
            raise ModelError("layer", "ffn", "is dense; expected a mixture of experts")
        return self._experts(self.layer.ffn, x_TH.to(self.wide), experts_TK)

    def _weight(self, name: str) -> Tensor | None:
        weight = self.weights.get(name)
        return None if weight is None else weight.to(self.wide)

    def _branch(self, name: str, x: Tensor) -> Tensor:
        return self._norm(f"post_norm.{name}", x) if self.layer.num_norms > 2 else x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._weight(name), self._weight(f"{name}.bias")
        if bias is not None:
            return F.layer_norm(x, x.shape[-1:], weight, bias, self.norm_epsilon)
        epsilon = self.latent_norm_epsilon if name.endswith("_latent") else self.norm_epsilon
        return F.rms_norm(x, x.shape[-1:], weight, epsilon)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight = self._weight(name)
        assert weight is not None
        return F.linear(x, weight, self._weight(f"{name}.bias"))

    # Attention, one sequence after another.

    def _attention(self, x_TH: Tensor) -> Tensor:
        sequences = x_TH.view(-1, self.micro_batch, x_TH.shape[1]).unbind(1)
        attended = [self._attend(sequence) for sequence in sequences]
        return self._linear("attn_projection", torch.stack(attended, 1).flatten(0, 1))

    def _attend(self, x_SH: Tensor) -> Tensor:
        query, key, value = self._latent_heads(x_SH) if self.layer.attention.is_mla else self._heads(x_SH)
        group = query.shape[1] // key.shape[1]
        outs = [
            _attend_head(
                query[:, head] * self.rope_scaling.score_factor, key[:, head // group], value[:, head // group]
            )
            for head in range(query.shape[1])
        ]
        return torch.cat(outs, 1)

    def _heads(self, x_SH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spec = self.layer.attention
        query, key, value = self._linear("qkv", x_SH).split([spec.query_width, spec.key_width, spec.value_width], 1)
        query, key = query.reshape(-1, spec.num_heads, spec.head_dim), key.reshape(-1, spec.num_kv_heads, spec.head_dim)
        if spec.qk_norm:
            query, key = self._norm("q_norm", query), self._norm("k_norm", key)
        value = value.reshape(-1, spec.num_kv_heads, spec.value_head_dim)
        return self._rotate(query), self._rotate(key), value

    def _latent_heads(self, x_SH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spec = self.layer.attention
        source = self._norm("norm_q_latent", self._linear("q_down", x_SH)) if spec.query_lora_rank else x_SH
        query = self._linear("q_up", source).reshape(-1, spec.num_heads, spec.head_dim)
        latent, rotary = self._linear("kv_down", x_SH).split([spec.kv_lora_rank, spec.rope_head_dim], 1)
        up = self._linear("kv_up", self._norm("norm_kv_latent", latent)).reshape(x_SH.shape[0], spec.num_heads, -1)
        nope, value = up[..., : spec.nope_head_dim], up[..., spec.nope_head_dim :]
        rotary_key = self._rotate(rotary.unsqueeze(1)).expand(-1, spec.num_heads, -1)
        rotary_query = self._rotate(query[..., spec.nope_head_dim :])
        query = torch.cat((query[..., : spec.nope_head_dim], rotary_query), -1)
        return query, torch.cat((nope, rotary_key), -1), value

    def _rotate(self, x_SND: Tensor) -> Tensor:
        half = x_SND.shape[-1] // 2
        powers = torch.arange(half, dtype=torch.float64, device=x_SND.device) / half
        frequencies = self.rope_scaling.frequencies(1 / self.rope_theta**powers, self.rope_theta)
        angles = torch.arange(x_SND.shape[0], device=x_SND.device).view(-1, 1, 1) * frequencies
        numbers = torch.complex(x_SND[..., :half], x_SND[..., half:])
        turned = numbers * torch.polar(torch.full_like(angles, self.rope_scaling.table_factor), angles).to(
            numbers.dtype
        )
        return torch.cat((turned.real, turned.imag), -1)

    # Feed-forward.

    def _dense(self, prefix: str, gated: bool, x: Tensor) -> Tensor:
        return self._linear(f"{prefix}fc2", _activate(self._linear(f"{prefix}fc1", x), gated))

    def _shared(self, moe: MoeFfnSpec, x: Tensor) -> Tensor:
        if not moe.shared_intermediate:
            return torch.zeros_like(x)
        out = self._dense("shared_", moe.gated, x)
        return out * torch.sigmoid(self._linear("shared_gate", x)) if moe.shared_gate else out

    def _experts(self, moe: MoeFfnSpec, x: Tensor, experts_TK: Tensor | None) -> Tensor:
        logits = self._linear("router", x)
        scores = torch.sigmoid(logits) if moe.score is RouterScore.SIGMOID else torch.softmax(logits, 1)
        experts = self._chosen(moe, scores) if experts_TK is None else experts_TK.to(torch.int64)
        kept = self._kept(moe, experts)
        self.seen.append(
            ReferenceRouting(moe=moe, micro_batch=self.micro_batch, logits=logits, experts=experts, kept=kept)
        )
        weights = scores.gather(1, experts)
        if self.routing.normalize:
            weights = weights / weights.sum(1, keepdim=True)
        weights = weights * self.routing.scale
        out = torch.zeros_like(x)
        for expert in range(moe.num_experts):
            tokens, choices = torch.where((experts == expert) & kept)
            if len(tokens):
                out = out.index_add(0, tokens, self._expert(moe, expert, x[tokens]) * weights[tokens, choices, None])
        return out

    def _kept(self, moe: MoeFfnSpec, experts: Tensor) -> Tensor:
        """Which choices are not dropped: an expert takes the first tokens of each sequence, as many as it may."""
        kept = torch.ones_like(experts, dtype=torch.bool)
        if math.isinf(self.capacity_factor):
            return kept
        mean = moe.top_k * (len(experts) // self.micro_batch) / moe.num_experts
        for member in range(self.micro_batch):
            left = [self.capacity_factor * mean] * moe.num_experts
            for token in range(member, len(experts), self.micro_batch):
                for choice, expert in enumerate(experts[token].tolist()):
                    kept[token, choice] = left[expert] > 0
                    left[expert] -= 1
        return kept

    def _chosen(self, moe: MoeFfnSpec, scores: Tensor) -> Tensor:
        correction = self._weight("router.correction")
        ranked = scores if correction is None else scores + correction
        if moe.groups_per_token < moe.num_expert_groups:
            ranked = _masked(ranked, moe)
        return torch.topk(ranked, moe.top_k, dim=1).indices

    def _expert(self, moe: MoeFfnSpec, expert: int, x: Tensor) -> Tensor:
        weights = {name: self.weights[name][expert].to(self.wide) for name in ("experts_fc1", "experts_fc2")}
        biases = {name: self.weights.get(f"{name}.bias") for name in weights}
        bias1, bias2 = (None if bias is None else bias[expert].to(self.wide) for bias in biases.values())
        inner = _activate(F.linear(x, weights["experts_fc1"], bias1), moe.gated)
        return F.linear(inner, weights["experts_fc2"], bias2)


def _activate(x: Tensor, gated: bool) -> Tensor:
    if not gated:
        return F.gelu(x)
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def _attend_head(query_SD: Tensor, key_SD: Tensor, value_SD: Tensor) -> Tensor:
    scores = query_SD @ key_SD.t() / query_SD.shape[1] ** 0.5
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), -1) @ value_SD


def _masked(ranked: Tensor, moe: MoeFfnSpec) -> Tensor:
    """Experts outside a token's best groups ranked last."""
    groups = ranked.view(len(ranked), moe.num_expert_groups, -1)
    counted = 2 if moe.score is RouterScore.SIGMOID else 1
    worth = groups.sort(-1, descending=True).values[..., :counted].sum(-1)
    best = worth.topk(moe.groups_per_token, -1).indices
    inside = F.one_hot(best, moe.num_expert_groups).sum(1).bool()
    return torch.where(inside[..., None], groups, torch.tensor(float("-inf")).to(groups)).flatten(1)
