"""One rank's share of an attention block."""

from __future__ import annotations

from meshwright.costmodel.model import AttentionSpec
from meshwright.costmodel.program.setting import ProgramSetting
from meshwright.costmodel.program.split import share
from meshwright.costmodel.value import Value


class AttentionShape(Value, frozen=True, kw_only=True):
    """Tokens, heads and widths of one rank.

    tokens: in the residual stream; gathered_tokens: inside the tensor-parallel region; attended_tokens: after the
    Ulysses exchange. Heads are those of one tensor-parallel rank (`projected_*`) and after the exchange
    (`attended_*`). Widths are elements a token. A layer that shares the keys and values of the layer before
    (`shares_key_value`) projects and exchanges none.
    """

    tokens: float
    gathered_tokens: float
    attended_tokens: float
    projected_heads: int
    projected_kv_heads: int
    attended_heads: int
    attended_kv_heads: int
    head_dim: int
    value_head_dim: int
    projects_key_value: bool

    @property
    def query_width(self) -> int:
        """Query elements of one rank's heads."""
        return self.projected_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Key elements of one rank's heads."""
        return self.projected_kv_heads * self.head_dim

    @property
    def value_width(self) -> int:
        """Value elements of one rank's heads."""
        return self.projected_kv_heads * self.value_head_dim

    @property
    def qkv_width(self) -> int:
        """What the rank projects a token to."""
        return self.query_width + (self.key_width + self.value_width if self.projects_key_value else 0)

    @property
    def output_width(self) -> int:
        """Attention output of one rank's heads."""
        return self.projected_heads * self.value_head_dim

    @property
    def attended_kv_width(self) -> int:
        """Key and value elements that the rank's attention reads."""
        return self.attended_kv_heads * (self.head_dim + self.value_head_dim)

    @property
    def exchanged_width(self) -> int:
        """What the Ulysses exchange brings a rank, for each of its attended tokens."""
        return self.attended_heads * self.head_dim + (self.attended_kv_width if self.projects_key_value else 0)


def attention_shape(setting: ProgramSetting, attention: AttentionSpec) -> AttentionShape:
    """Shapes on one rank: tp splits heads at the projection, sp (Ulysses) splits them again for attention.

    With fewer key-value heads than ranks they are replicated: projected, exchanged and differentiated by each rank.
    """
    strategy = setting.strategy
    gathered = setting.gathered_tokens
    heads, kv_heads = share(attention.num_heads, strategy.tp), share(attention.num_kv_heads, strategy.tp)
    return AttentionShape(
        tokens=setting.tokens,
        gathered_tokens=gathered,
        attended_tokens=gathered * strategy.sp,
        projected_heads=heads,
        projected_kv_heads=kv_heads,
        attended_heads=share(heads, strategy.sp),
        attended_kv_heads=share(kv_heads, strategy.sp),
        head_dim=attention.head_dim,
        value_head_dim=attention.value_head_dim,
        projects_key_value=not attention.shares_key_value,
    )
