from __future__ import annotations

import pytest

from meshwright.planner.describe.section import Section
from meshwright.planner.explain.describe_explanation import (
    describe_full,
    describe_layer,
    describe_stage,
    describe_summary,
)
from meshwright.planner.explain.describe_operators import step_operators
from meshwright.planner.explain.explanation import Explanation, explain, selected
from meshwright.planner.plan import Plan


@pytest.fixture
def explanation(tiny_plan: Plan) -> Explanation:
    """The tiny plan explained."""
    return explain(tiny_plan)


def _all_text(sections: tuple[Section, ...]) -> str:
    parts = [text for section in sections for text in (section.title, *section.lines, *section.notes)]
    return "\n".join([*parts, *(cell for section in sections for row in section.rows for cell in row)])


def test_every_row_has_a_cell_for_each_column(explanation: Explanation) -> None:
    for section in (*describe_summary(explanation), *describe_full(explanation)):
        assert all(len(row) == len(section.columns) for row in section.rows), section.title


def test_the_printed_path_adds_up(explanation: Explanation) -> None:
    """The parts, as printed, add up to the step, as printed, within rounding."""
    section = next(section for section in describe_summary(explanation) if section.title.startswith("The path"))
    parts = [row for row in section.rows if not row[0].startswith("  ")]
    *shown, step = [float(row[-1].replace(",", "")) for row in parts]
    assert parts[-1][0] == "step"
    assert sum(shown) == pytest.approx(step, abs=0.0005 * len(shown))
    assert step == pytest.approx(explanation.prediction.step_time_s * 1e3, abs=0.0005)


def test_the_printed_terms_of_the_path_add_up_to_its_parts(explanation: Explanation) -> None:
    section = next(section for section in describe_summary(explanation) if section.title.startswith("The path"))
    left_ms, count = 0.0, 0
    for row in section.rows:
        value = float(row[-1].replace(",", ""))
        if row[0].startswith("  "):
            times = int(row[2])
            assert value == pytest.approx(times * float(row[3]), abs=0.0005 * (1 + abs(times)))
            left_ms, count = left_ms - value, count + 1
        else:
            assert left_ms == pytest.approx(0.0, abs=0.0006 * (count + 1))
            left_ms, count = (value, 0) if row[0] != "step" else (0.0, 0)
    assert section.rows[-1][0] == "step"


def test_the_summary_is_short_and_the_rest_is_there(explanation: Explanation) -> None:
    summary, full = describe_summary(explanation), describe_full(explanation)
    assert sum(len(section.rows) + len(section.lines) + len(section.notes) for section in summary) < 150
    text = _all_text(full)
    for part in explanation.parts:
        assert part.label in text
        assert all(kept.name in text for kept in part.kept)
    assert all(formula.source in text for formula in explanation.formulas.values())
    assert all(figure.text in text for figure in explanation.cites.values())
    assert all(entry.meaning in text for entry in explanation.assumptions)


def test_a_layer_has_its_operators_formulas_and_figures(explanation: Explanation) -> None:
    chosen = selected(explanation, layer=3, stage=None)
    sections = describe_layer(chosen)
    text = _all_text(sections)
    assert "experts_fc1 (again)" in text
    assert "Source: FlashAttention-2, arXiv 2307.08691, section 4.1." in text
    assert "`meshwright profile -o profile.json" in text


def test_a_stage_shows_every_byte(explanation: Explanation) -> None:
    chunks, memory = describe_stage(explanation, 1)
    peak = explanation.prediction.peak_memory_bytes[1] / 2**30
    assert memory.rows[-1][0] == "peak"
    assert float(memory.rows[-1][-1]) == pytest.approx(peak, abs=0.05)
    assert chunks.rows[0][1] == "2-3"


def test_step_operators_come_once_each(explanation: Explanation) -> None:
    operators = step_operators(explanation)
    names = [(operator.term.name, operator.term.recomputes, operator.term.work) for operator in operators]
    assert len(set(names)) == len(names)
    seconds = [operator.step_s for operator in operators]
    assert seconds == sorted(seconds, reverse=True)
    # 4 layers on 2 stages, 8 micro-batches.
    assert next(op.times for op in operators if op.term.name == "qkv" and not op.term.recomputes) == 4 / 2 * 8
