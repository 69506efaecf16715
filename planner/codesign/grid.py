"""The shapes of a study: every combination of the sizes that are varied, each with the size that keeps the budget."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import product
from math import lcm, prod

from meshwright.costmodel.errors import InfeasibleError, InputError
from meshwright.costmodel.model import ModelSpec, MoeFfnSpec
from meshwright.costmodel.value import Value
from meshwright.planner.codesign.budget import Budget, Measure, measured, moves, solved_size
from meshwright.planner.codesign.dimensions import DIMENSIONS, shape_name, shaped, sizes_of

VARY, ADJUST, HOLD, MULTIPLE, TOLERANCE = "--vary", "--adjust", "--hold", "--multiple", "--tolerance"
DEFAULT_TOLERANCE = 0.02
MAX_SHAPES = 200
"""More than these are refused unless asked for: each is a search of its own."""


class Grid(Value, frozen=True, kw_only=True):
    """What is varied, and what is solved to keep the budget. `multiple`: what the solved size is a multiple of.

    `vary`: sizes by the name of their dimension, in the order given; the first one varies slowest.
    """

    base: ModelSpec
    seq_len: int
    budget: Budget
    vary: tuple[tuple[str, tuple[int, ...]], ...]
    adjust: str
    multiple: int

    @property
    def num_shapes(self) -> int:
        """Shapes beside the base model."""
        return prod(len(sizes) for _, sizes in self.vary)


class Shape(Value, frozen=True, kw_only=True):
    """One point: its sizes (varied ones and the solved one), and its model, or why there is none."""

    name: str
    sizes: tuple[tuple[str, int], ...]
    is_base: bool
    model: ModelSpec | None
    reason: str = ""


def make_grid(
    base: ModelSpec,
    seq_len: int,
    *,
    hold: Measure,
    vary: Mapping[str, tuple[int, ...]],
    adjust: str = "",
    multiple: int = 0,
    tolerance_fraction: float = DEFAULT_TOLERANCE,
) -> Grid:
    """Check what is asked for. Empty `adjust`: the width of experts, in a dense model that of its FFN.

    Raises `InputError` with the option that is wrong.
    """
    own = sizes_of(base)
    _check_vary(base, own, vary)
    adjust = adjust or _default_adjust(own, vary)
    _check_adjust(own, adjust, vary)
    if not 0.0 < tolerance_fraction < 1.0:
        raise InputError(TOLERANCE, "", f"{tolerance_fraction:g} is not a share between 0 and 1, as in 0.02")
    if multiple < 0:
        raise InputError(MULTIPLE, "", f"{multiple} is not a positive whole number")
    if not moves(base, adjust, hold, seq_len):
        raise InputError(ADJUST, adjust, f"does not change {hold} of {base.name}; expected another size")
    return Grid(
        base=base,
        seq_len=seq_len,
        budget=Budget(measure=hold, amount=measured(base, hold, seq_len), tolerance_fraction=tolerance_fraction),
        vary=tuple(vary.items()),
        adjust=adjust,
        multiple=lcm(multiple or DIMENSIONS[adjust].multiple, _expert_groups(base) if adjust == "experts" else 1),
    )


def parse_vary(texts: tuple[str, ...], base: ModelSpec) -> dict[str, tuple[int, ...]]:
    """`name=16,32,64` texts; a size may be a factor of the base model's, as in 2x or 0.5x.

    Raises `InputError` for what is no size, a size or a name given twice, and a name that is unknown.
    """
    found: dict[str, tuple[int, ...]] = {}
    own = sizes_of(base)
    for text in texts:
        name, separator, values = (part.strip() for part in text.partition("="))
        if not separator:
            raise InputError(VARY, text, "expected name=size,size,..., for example experts=16,32,64")
        _check_known(VARY, name)
        if name in found:
            raise InputError(VARY, name, "is given twice")
        found[name] = tuple(_parse_size(name, size.strip(), own) for size in values.split(","))
    return found


def _parse_size(name: str, text: str, own: Mapping[str, int]) -> int:
    number, factor = text.removesuffix("x"), text.endswith("x")
    try:
        size = float(number) * own.get(name, 0) if factor else float(int(number))
    except (ValueError, OverflowError):
        size = -1.0
    least = 0 if name == "shared-experts" else 1
    if not (least <= size <= DIMENSIONS[name].largest and size == int(size)):
        kind = "a whole number >= 0" if least == 0 else "a positive whole number"
        top = f" up to {DIMENSIONS[name].largest:,}" if size > DIMENSIONS[name].largest else ""
        raise InputError(VARY, name, f"{text!r} is not {kind}{top}")
    return int(size)


def _check_known(option: str, name: str) -> None:
    if name not in DIMENSIONS:
        near = get_close_matches(name, DIMENSIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {' '.join(DIMENSIONS)}"
        raise InputError(option, name, f"unknown size; {hint}")


def _check_vary(base: ModelSpec, own: Mapping[str, int], vary: Mapping[str, tuple[int, ...]]) -> None:
    if not vary:
        raise InputError(VARY, "", "nothing is varied; expected name=size,size,..., for example experts=16,32,64")
    for name, sizes in vary.items():
        _check_known(VARY, name)
        if name not in own:
            raise InputError(VARY, name, f"{base.name} has none, or its layers differ in it; it has {' '.join(own)}")
        if twice := next((size for size in sizes if sizes.count(size) > 1), None):
            raise InputError(VARY, name, f"{twice} is given twice")
        if not sizes:
            raise InputError(VARY, name, "no sizes are given")


def _default_adjust(own: Mapping[str, int], vary: Mapping[str, tuple[int, ...]]) -> str:
    """The width of what most parameters are in."""
    width = "expert-size" if "expert-size" in own else "ffn-size"
    if width not in vary:
        return width
    others = [name for name in own if DIMENSIONS[name].multiple and name not in vary]
    expected = f"expected one of {' '.join(others)}" if others else "leave one of them out"
    raise InputError(ADJUST, "", f"{width} is varied, so another size must keep the budget; {expected}")


def _check_adjust(own: Mapping[str, int], adjust: str, vary: Mapping[str, tuple[int, ...]]) -> None:
    _check_known(ADJUST, adjust)
    possible = [name for name in own if DIMENSIONS[name].multiple]
    if adjust not in possible:
        raise InputError(ADJUST, adjust, f"cannot be solved for in this model; expected one of {' '.join(possible)}")
    if adjust in vary:
        raise InputError(ADJUST, adjust, f"is varied as well ({VARY}); one of the two must go")


def _expert_groups(base: ModelSpec) -> int:
    """What the number of experts must be a multiple of, where tokens are limited to groups of them."""
    groups = [layer.ffn.num_expert_groups for layer in base.layer_types if isinstance(layer.ffn, MoeFfnSpec)]
    return lcm(*groups) if groups else 1


def check_size(grid: Grid, *, force: bool = False) -> None:
    """Raises `InputError` where there are more shapes than anyone means to search, unless forced."""
    if grid.num_shapes > MAX_SHAPES and not force:
        counts = " x ".join(f"{len(sizes)} {name}" for name, sizes in grid.vary)
        raise InputError(
            VARY, "", f"{grid.num_shapes:,} shapes ({counts}), each a search; more than {MAX_SHAPES} need --force"
        )


def shapes(grid: Grid) -> tuple[Shape, ...]:
    """The base model, then every other shape of the grid, each solved for the budget or with the reason why not."""
    own = sizes_of(grid.base)
    base = tuple((name, own[name]) for name in (*(name for name, _ in grid.vary), grid.adjust))
    first = Shape(name=grid.base.name, sizes=base, is_base=True, model=grid.base)
    combinations = product(*(sizes for _, sizes in grid.vary))
    points = (dict(zip((name for name, _ in grid.vary), point, strict=True)) for point in combinations)
    return (first, *(_shape(grid, sizes) for sizes in points if any(own[name] != sizes[name] for name in sizes)))


def _shape(grid: Grid, sizes: dict[str, int]) -> Shape:
    try:
        size = solved_size(grid.base, sizes, grid.adjust, grid.multiple, grid.budget, grid.seq_len)
        model = shaped(grid.base, sizes | {grid.adjust: size})
    except (InputError, InfeasibleError) as error:
        reason = f"{error.field}: {error.problem}" if isinstance(error, InputError) else str(error)
        return Shape(
            name=shape_name(grid.base, sizes), sizes=tuple(sizes.items()), is_base=False, model=None, reason=reason
        )
    return Shape(name=model.name, sizes=(*sizes.items(), (grid.adjust, size)), is_base=False, model=model)
