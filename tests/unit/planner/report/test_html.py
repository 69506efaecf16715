from __future__ import annotations

from meshwright.planner.report.html import element, figure, join, table, text, words_rows


def test_words_are_escaped_everywhere() -> None:
    assert element("p", text("<b> & 'c'"), title='"x"') == (
        '<p title="&quot;x&quot;">&lt;b&gt; &amp; &#x27;c&#x27;</p>'
    )


def test_void_elements_have_no_end() -> None:
    assert element("meta", name="viewport", content="x") == '<meta name="viewport" content="x">'


def test_a_figure_keeps_every_digit() -> None:
    value = 0.1 + 0.2
    assert f'value="{value!r}"' in figure("a.b", value, "0.3")
    assert float(repr(value)) == value


def test_units_stay_with_their_numbers() -> None:
    assert text("1.5 GiB, 20 % of 3 sequences") == "1.5\N{NO-BREAK SPACE}GiB, 20\N{NO-BREAK SPACE}% of 3 sequences"


def test_columns_of_figures_are_aligned_right() -> None:
    rows = [("stage 0", "1,234.5", "+3.1 %", "10 layers + head"), ("stage 1", "-", "−2.0 %", "9 layers of three kinds")]
    made = table(("name", "ms", "change", "holds"), words_rows(rows))
    right = [f'<th class="number">{name}</th>' in made for name in ("name", "ms", "change", "holds")]
    assert right == [False, True, True, False]


def test_markup_in_a_cell_does_not_hide_that_it_is_a_figure() -> None:
    made = table(("ms",), [(figure("x", 1.5, "1.5"),), (join([element("b", text("2.5"))]),)])
    assert made.count('class="number"') == 3
