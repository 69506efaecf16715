from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.presets import load_model
from meshwright.planner.codesign.budget import Measure, measured
from meshwright.planner.codesign.grid import MAX_SHAPES, Grid, check_size, make_grid, parse_vary, shapes

BASE = load_model("internal-352b")
DENSE = load_model("llama-3.1-8b")
SEQ_LEN = 8192


def _grid(vary: dict[str, tuple[int, ...]], **options: object) -> Grid:
    return make_grid(BASE, SEQ_LEN, hold=Measure.PARAMETERS, vary=vary, **options)  # type: ignore[arg-type]


def test_every_combination_after_the_base_model_the_last_size_fastest() -> None:
    found = shapes(_grid({"experts": (16, 64), "layers": (48, 60)}))
    assert [tuple(size for _, size in shape.sizes[:2]) for shape in found] == [
        (32, 60),
        (16, 48),
        (16, 60),
        (64, 48),
        (64, 60),
    ]
    assert [shape.is_base for shape in found] == [True, False, False, False, False]


def test_the_base_model_is_not_planned_twice() -> None:
    found = shapes(_grid({"experts": (16, 32)}))
    assert [shape.name for shape in found] == ["internal-352b", "internal-352b experts=16 expert-size=27776"]
    assert found[0].model is BASE
    assert found[0].sizes == (("experts", 32), ("expert-size", 14336))


def test_every_shape_keeps_the_budget() -> None:
    grid = _grid({"experts": (8, 16, 64, 128), "layers": (40, 60, 90), "hidden": (3072, 4096, 6144)})
    models = [shape.model for shape in shapes(grid) if shape.model is not None]
    assert len(models) == 36
    for model in models:
        assert measured(model, Measure.PARAMETERS, SEQ_LEN) == pytest.approx(grid.budget.amount, rel=0.02)


def test_what_is_illegal_stays_in_the_list_with_its_reason() -> None:
    found = shapes(_grid({"hidden": (4096, 5000), "top-k": (3, 40)}))
    assert [(shape.sizes[:2], shape.model is None, shape.reason) for shape in found[1:]] == [
        (
            (("hidden", 4096), ("top-k", 40)),
            True,
            "top_k: 40 is more than num_experts 32",
        ),
        (
            (("hidden", 5000), ("top-k", 3)),
            True,
            "hidden: 5000 is not a multiple of 128, what internal-352b has of it a head; give heads too",
        ),
        (
            (("hidden", 5000), ("top-k", 40)),
            True,
            "hidden: 5000 is not a multiple of 128, what internal-352b has of it a head; give heads too",
        ),
    ]


def test_the_width_of_experts_keeps_the_budget_unless_something_else_is_asked_for() -> None:
    assert _grid({"experts": (16,)}).adjust == "expert-size"
    assert _grid({"expert-size": (7168,)}, adjust="layers").adjust == "layers"
    assert make_grid(DENSE, SEQ_LEN, hold=Measure.FLOPS, vary={"layers": (24,)}).adjust == "ffn-size"


@pytest.mark.parametrize(("adjust", "multiple"), [("expert-size", 128), ("layers", 1), ("experts", 8)])
def test_what_the_solved_size_is_a_multiple_of(adjust: str, multiple: int) -> None:
    assert _grid({"hidden": (6144,)}, adjust=adjust).multiple == multiple
    assert _grid({"hidden": (6144,)}, adjust=adjust, multiple=48).multiple == 48


def test_experts_in_groups_stay_a_multiple_of_the_groups() -> None:
    base = load_model("deepseek-v3")
    grid = make_grid(base, SEQ_LEN, hold=Measure.PARAMETERS, vary={"layers": (48,)}, adjust="experts", multiple=12)
    assert grid.multiple == 24


@pytest.mark.parametrize(
    ("vary", "options", "expected"),
    [
        ({}, {}, "--vary: nothing is varied"),
        ({"expert": (8,)}, {}, "--vary: expert: unknown size; did you mean experts?"),
        ({"wings": (2,)}, {}, "--vary: wings: unknown size; expected one of layers hidden"),
        ({"ffn-size": (8192,)}, {}, "--vary: ffn-size: internal-352b has none, or its layers differ in it"),
        ({"experts": (8, 16, 8)}, {}, "--vary: experts: 8 is given twice"),
        ({"experts": ()}, {}, "--vary: experts: no sizes are given"),
        ({"expert-size": (8192,)}, {}, "--adjust: expert-size is varied, so another size must keep the budget"),
        ({"layers": (48,)}, {"adjust": "layers"}, "--adjust: layers: is varied as well (--vary)"),
        ({"layers": (48,)}, {"adjust": "hidden"}, "--adjust: hidden: cannot be solved for in this model"),
        ({"layers": (48,)}, {"adjust": "ffn-size"}, "--adjust: ffn-size: cannot be solved for in this model"),
        ({"layers": (48,)}, {"tolerance_fraction": 0.0}, "--tolerance: 0 is not a share between 0 and 1"),
        ({"layers": (48,)}, {"tolerance_fraction": float("nan")}, "--tolerance: nan is not a share"),
        ({"layers": (48,)}, {"multiple": -1}, "--multiple: -1 is not a positive whole number"),
    ],
)
def test_questions_that_are_refused(
    vary: dict[str, tuple[int, ...]], options: dict[str, object], expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        _grid(vary, **options)
    assert str(caught.value).startswith(expected)


def test_a_size_that_cannot_move_the_budget() -> None:
    with pytest.raises(InputError, match="--adjust: experts: does not change active-parameters of internal-352b"):
        make_grid(BASE, SEQ_LEN, hold=Measure.ACTIVE_PARAMETERS, vary={"layers": (48,)}, adjust="experts")


def test_more_shapes_than_anyone_means() -> None:
    grid = _grid({"layers": tuple(range(1, 101)), "experts": (8, 16, 32)})
    with pytest.raises(InputError, match=r"300 shapes \(100 layers x 3 experts\), each a search; more than 200 need"):
        check_size(grid)
    check_size(grid, force=True)
    check_size(_grid({"layers": tuple(range(1, MAX_SHAPES + 1))}))


def test_sizes_are_read_as_numbers_or_as_factors() -> None:
    found = parse_vary(("experts=16, 0.5x,2x", "shared-experts=0,2"), BASE)
    assert found == {"experts": (16, 16, 64), "shared-experts": (0, 2)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("experts", "--vary: experts: expected name=size,size,..., for example experts=16,32,64"),
        ("experts=", "--vary: experts: '' is not a positive whole number"),
        ("experts=16,,32", "--vary: experts: '' is not a positive whole number"),
        ("experts=many", "--vary: experts: 'many' is not a positive whole number"),
        ("experts=0", "--vary: experts: '0' is not a positive whole number"),
        ("experts=-8", "--vary: experts: '-8' is not a positive whole number"),
        ("experts=8.5", "--vary: experts: '8.5' is not a positive whole number"),
        ("experts=0.01x", "--vary: experts: '0.01x' is not a positive whole number"),
        ("experts=nanx", "--vary: experts: 'nanx' is not a positive whole number"),
        ("experts=1e400x", "--vary: experts: '1e400x' is not a positive whole number"),
        ("layers=1000000", "--vary: layers: '1000000' is not a positive whole number up to 10,000"),
        ("shared-experts=-1", "--vary: shared-experts: '-1' is not a whole number >= 0"),
        ("exprts=8", "--vary: exprts: unknown size; did you mean experts?"),
    ],
)
def test_sizes_that_are_none(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_vary((text,), BASE)
    assert str(caught.value).startswith(expected)


def test_a_size_given_in_two_options() -> None:
    with pytest.raises(InputError, match="--vary: experts: is given twice"):
        parse_vary(("experts=8", "experts=16"), BASE)
