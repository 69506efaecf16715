"""What a formula says of itself: its equation and its source, read from its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from meshwright.costmodel.value import Value

Formula = Callable[..., Any]
_LABEL = re.compile(r"(Equation|Source): ")
_EXAMPLE = ">>> "


class FormulaText(Value, frozen=True, kw_only=True):
    """A formula for people. `name` is the module and the function, as in matmul.gemm_flops."""

    name: str
    summary: str
    equation: str
    source: str


def formula_name(formula: Formula) -> str:
    """Module and function.

    >>> from meshwright.costmodel.formulas.matmul import gemm_flops
    >>> formula_name(gemm_flops)
    'matmul.gemm_flops'
    """
    return f"{formula.__module__.rpartition('.')[2]}.{formula.__name__}"


def formula_text(formula: Formula) -> FormulaText:
    """What a formula says. The equation stands behind "Equation:", or indented by itself, or in the summary.

    >>> from meshwright.costmodel.formulas.matmul import gemm_flops
    >>> formula_text(gemm_flops).equation
    '2 m n k.'
    """
    paragraphs = _paragraphs(inspect.getdoc(formula) or "")
    labelled = dict(part for text in paragraphs for part in _labelled(text))
    summary = _joined(paragraphs[0])
    indented = [_joined(text) for text in paragraphs if text.startswith("    ")]
    return FormulaText(
        name=formula_name(formula),
        summary=summary,
        equation=labelled.get("Equation") or "; ".join(indented) or summary,
        source=labelled.get("Source", ""),
    )


def _paragraphs(text: str) -> list[str]:
    return [part for part in text.partition(_EXAMPLE)[0].split("\n\n") if part.strip()]


def _labelled(paragraph: str) -> list[tuple[str, str]]:
    """(label, text) of what a paragraph labels; a label's text runs to the next label."""
    parts = _LABEL.split(paragraph)[1:]
    return [(label, _joined(text)) for label, text in zip(parts[::2], parts[1::2], strict=True)]


def _joined(text: str) -> str:
    return " ".join(text.split())
