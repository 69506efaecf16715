from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodel.errors import InfeasibleError, ModelError
from meshwright.costmodel.presets import load_model
from meshwright.planner.codesign.budget import Budget, Measure, measured, moves, solved_size
from meshwright.planner.codesign.dimensions import shaped

SEQ_LEN = 8192
BASE = load_model("internal-352b")


def _budget(measure: Measure, tolerance: float = 0.02, base: str = "internal-352b") -> Budget:
    return Budget(measure=measure, amount=measured(load_model(base), measure, SEQ_LEN), tolerance_fraction=tolerance)


def test_twice_the_experts_are_half_as_wide() -> None:
    """60 layers of (32 + 1) experts of 14,336 are 60 of (64 + 1) of 7,278.3 plus 32 more columns of the router."""
    size = solved_size(BASE, {"experts": 64}, "expert-size", 128, _budget(Measure.PARAMETERS), SEQ_LEN)
    exact = (33 * 3 * 14336 - 32) / (65 * 3)
    assert size == 128 * round(exact / 128) == 7296


def test_active_parameters_do_not_depend_on_the_experts_that_wait() -> None:
    size = solved_size(BASE, {"experts": 128}, "expert-size", 128, _budget(Measure.ACTIVE_PARAMETERS), SEQ_LEN)
    assert size == 14336


def test_flops_of_more_experts_a_token() -> None:
    """3 + 1 experts of 14,336 columns a token are 7 + 1 of 7,168."""
    size = solved_size(BASE, {"top-k": 7}, "expert-size", 128, _budget(Measure.FLOPS), SEQ_LEN)
    assert size == 7168


def test_layers_can_keep_the_budget() -> None:
    """Layers half as wide in their experts: the experts of one layer are 33 x 3 h f, the rest 2.5 h^2 + 34 h."""
    hidden = 4096
    experts, rest = 33 * 3 * 14336, 2.5 * hidden + 32 + 2
    expected = round(60 * (experts + rest) / (experts / 2 + rest))
    assert solved_size(BASE, {"expert-size": 7168}, "layers", 1, _budget(Measure.PARAMETERS), SEQ_LEN) == expected


def test_experts_can_keep_the_budget_in_multiples_that_their_groups_allow() -> None:
    """DeepSeek-V3 has 256 experts in 8 groups of which a token reaches 4: twice as narrow, twice as many."""
    budget = _budget(Measure.PARAMETERS, base="deepseek-v3")
    size = solved_size(load_model("deepseek-v3"), {"expert-size": 1024}, "experts", 8, budget, SEQ_LEN)
    assert size == 512


@given(
    experts=st.sampled_from([8, 24, 32, 48, 96, 256]),
    layers=st.integers(8, 120),
    top_k=st.integers(1, 8),
    measure=st.sampled_from(list(Measure)),
    multiple=st.sampled_from([1, 64, 128, 512]),
)
def test_no_other_multiple_comes_nearer(experts: int, layers: int, top_k: int, measure: Measure, multiple: int) -> None:
    sizes = {"experts": experts, "layers": layers, "top-k": top_k}
    budget = _budget(measure, tolerance=0.999)

    def distance(size: int) -> float:
        return abs(budget.excess(measured(shaped(BASE, {**sizes, "expert-size": size}), measure, SEQ_LEN)))

    try:
        size = solved_size(BASE, sizes, "expert-size", multiple, budget, SEQ_LEN)
    except InfeasibleError:
        assert distance(multiple) > 0.999
        return
    assert size % multiple == 0
    near = [other for other in (size - multiple, size + multiple) if other > 0]
    assert all(distance(size) <= distance(other) for other in near)


def test_a_budget_that_rounding_misses() -> None:
    with pytest.raises(InfeasibleError) as caught:
        solved_size(BASE, {"experts": 500}, "expert-size", 512, _budget(Measure.PARAMETERS), SEQ_LEN)
    assert str(caught.value) == (
        "no expert-size in multiples of 512 keeps parameters within 2.0%: expert-size 512 gives -45.3%,"
        " expert-size 1024 gives +8.4%"
    )


def test_a_budget_that_is_spent_without_any_experts() -> None:
    with pytest.raises(InfeasibleError, match=r"keeps active-parameters within 2.0%: expert-size 128 gives \+"):
        solved_size(
            BASE, {"hidden": 16384, "layers": 120}, "expert-size", 128, _budget(Measure.ACTIVE_PARAMETERS), SEQ_LEN
        )


def test_sizes_that_no_adjustment_makes_legal() -> None:
    with pytest.raises(ModelError, match="8 does not divide num_heads 28"):
        solved_size(BASE, {"heads": 28}, "expert-size", 128, _budget(Measure.PARAMETERS), SEQ_LEN)


def test_what_moves_a_measure() -> None:
    assert moves(BASE, "expert-size", Measure.FLOPS, SEQ_LEN)
    assert moves(BASE, "experts", Measure.PARAMETERS, SEQ_LEN)
    assert not moves(BASE, "experts", Measure.ACTIVE_PARAMETERS, SEQ_LEN)
    assert not moves(BASE, "experts", Measure.FLOPS, SEQ_LEN)
