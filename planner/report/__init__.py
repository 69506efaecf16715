"""A plan as one page of HTML that needs no network: for people who decide, and for those who must be convinced.

`page` puts it together. `*_sections` make the parts of it that are text, tables and bars; `*_chart(s)` and
`sensitivity` make the data that `assets/*.js` draws. Every figure of the plan stands in a `data` element with its place
in plan.json and its exact value, and plan.json itself is inside the page.
"""

from __future__ import annotations

from meshwright.planner.report.page import report_html, write_report

__all__ = ["report_html", "write_report"]
