"""A plan in words and tables, for people: sections of plain text that the command line prints.

One module for each part of the report; all make the one value of `section`.
"""

from __future__ import annotations

from meshwright.planner.describe.certificate import certificate_section, runners_up_section
from meshwright.planner.describe.headline import headline_section
from meshwright.planner.describe.layers import layers_section, mesh_section, pipeline_section
from meshwright.planner.describe.memory import memory_section
from meshwright.planner.describe.orders import orders_section
from meshwright.planner.describe.section import Section
from meshwright.planner.describe.step_time import step_time_section
from meshwright.planner.plan import Plan

__all__ = ["Section", "describe_plan"]


def describe_plan(plan: Plan) -> tuple[Section, ...]:
    """Everything a user wants to see of a plan, in reading order."""
    sections = (
        headline_section(plan),
        mesh_section(plan),
        layers_section(plan),
        pipeline_section(plan),
        orders_section(plan),
        memory_section(plan),
        step_time_section(plan),
        runners_up_section(plan),
        certificate_section(plan),
    )
    return tuple(section for section in sections if section.rows or section.lines)
