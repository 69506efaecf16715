from __future__ import annotations

import msgspec
import numpy as np
import pytest

from meshwright.planner.codesign import CodesignStudy, codesign
from meshwright.planner.codesign.plot import plot, plot_png
from meshwright.planner.space import Problem


@pytest.fixture(scope="module")
def made() -> list[CodesignStudy]:
    """The study, made once."""
    return []


@pytest.fixture
def study(made: list[CodesignStudy], tiny_problem: Problem) -> CodesignStudy:
    if not made:
        made.append(codesign(tiny_problem, hold="parameters", vary={"experts": (4, 16)}, tokens=3e12))
    return made[0]


def test_axes_have_names_and_units_and_the_base_model_is_marked(study: CodesignStudy) -> None:
    axes = plot(study).axes[0]
    assert axes.get_xlabel() == "active parameters [million]"
    assert axes.get_ylabel() == "step time of the best plan [ms]"
    assert axes.child_axes[0].get_ylabel() == "days to 3 T tokens"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "shape with its best plan",
        "Pareto front: no shape is at least as large and faster",
        "base: tiny",
    ]
    assert "total parameters held at 222.3 M by expert-size: 3 shapes" in axes.get_title()
    assert {text.get_text() for text in axes.texts} == {"experts 8", "experts 4", "experts 16"}


def test_points_are_the_shapes(study: CodesignStudy) -> None:
    drawn = np.asarray(plot(study).axes[0].collections[0].get_offsets(), dtype=float)
    assert drawn[:, 0] == pytest.approx([(shape.active_parameters or 0) / 1e6 for shape in study.shapes])
    assert drawn[:, 1] == pytest.approx([shape.plan.step_time_s * 1e3 for shape in study.shapes if shape.plan])


def test_a_png_even_of_nothing(study: CodesignStudy) -> None:
    nothing = msgspec.structs.replace(
        study,
        stopped="interrupted",
        shapes=tuple(msgspec.structs.replace(shape, plan=None) for shape in study.shapes),
    )
    assert plot(nothing).axes[0].get_title().endswith("by expert-size: 0 shapes, 3 more without a plan")
    for image in (plot_png(study), plot_png(nothing)):
        assert image.startswith(b"\x89PNG")
