from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Recompute
from meshwright.planner.explain.describe_difference import describe_difference
from meshwright.planner.explain.difference import diff_configurations, diff_plans
from meshwright.planner.explain.parts import part_terms
from meshwright.planner.plan import Plan


def _keeping_all(configuration: TrainingConfiguration) -> TrainingConfiguration:
    keep = configuration.stages[0][0]
    return msgspec.structs.replace(configuration, stages=((keep, keep), (keep, keep)))


def test_a_plan_does_not_differ_from_itself(tiny_plan: Plan) -> None:
    difference = diff_plans(tiny_plan, tiny_plan)
    assert (difference.inputs, difference.choices) == ((), ())
    assert {term.more for terms in (difference.breakdown_s, difference.memory_bytes) for term in terms} == {0.0}
    (section,) = describe_difference(difference, ("plan", "other"))
    assert section.lines == ("predict the same step from the same choices",)


def test_only_what_differs_is_listed(tiny_configuration: TrainingConfiguration) -> None:
    difference = diff_configurations(tiny_configuration, _keeping_all(tiny_configuration))
    assert difference.inputs == ()
    assert {(changed.name, changed.one, changed.other) for changed in difference.choices} == {
        ("layers sp2 / ep4 alltoall / none", "3", "4"),
        ("layers sp2 / ep4 alltoall / full", "1", "-"),
    }


def test_terms_are_other_less_one_and_the_largest_come_first(tiny_configuration: TrainingConfiguration) -> None:
    other = _keeping_all(tiny_configuration)
    difference = diff_configurations(tiny_configuration, other)
    one, two = predict(tiny_configuration), predict(other)
    for term in difference.breakdown_s:
        assert (term.one, term.other) == (one.breakdown_s[term.name], two.breakdown_s[term.name])
    for terms in (difference.breakdown_s, difference.memory_bytes, difference.operators_s):
        sizes = [abs(term.more) for term in terms]
        assert sizes == sorted(sizes, reverse=True)
    assert sum(term.more for term in difference.breakdown_s) == pytest.approx(two.step_time_s - one.step_time_s)
    recompute = next(term for term in difference.breakdown_s if term.name == "recompute")
    assert recompute.more == -one.breakdown_s["recompute"] < 0


def test_operators_that_run_again_are_the_difference(tiny_configuration: TrainingConfiguration) -> None:
    difference = diff_configurations(tiny_configuration, _keeping_all(tiny_configuration))
    changed = [term for term in difference.operators_s if abs(term.more) > 1e-12]
    assert changed
    assert all(term.name.endswith("(again)") and term.other == 0.0 for term in changed)
    (part,) = [part for part in part_terms(tiny_configuration) if part.strategy.endswith(Recompute.FULL.value)]
    fc1 = next(op for one in part.passes for op in one.operators if op.name == "experts_fc1" and op.recomputes)
    # One layer of one of two stages, 8 micro-batches.
    assert next(term.one for term in changed if term.name == "experts_fc1 (again)") == pytest.approx(8 / 2 * fc1.time_s)


def test_other_problems_are_said_to_be_other(tiny_configuration: TrainingConfiguration) -> None:
    workload = msgspec.structs.replace(tiny_configuration.workload, seq_len=4096)
    cluster = msgspec.structs.replace(tiny_configuration.cluster, network_bytes_per_s=100e9)
    other = msgspec.structs.replace(tiny_configuration, workload=workload, cluster=cluster)
    difference = diff_configurations(tiny_configuration, other)
    assert {(changed.name, changed.one, changed.other) for changed in difference.inputs} == {
        ("workload.seq_len", "2048", "4096"),
        ("cluster.network_bytes_per_s", "50 GB/s", "100 GB/s"),
    }
    titles = [section.title for section in describe_difference(difference, ("plan", "other"))]
    assert "Not the same problem: these inputs differ" in titles


def test_signs_are_explained_and_every_row_has_all_cells(tiny_configuration: TrainingConfiguration) -> None:
    difference = diff_configurations(tiny_configuration, _keeping_all(tiny_configuration))
    sections = describe_difference(difference, ("plan", "other"))
    assert any("+ is more time or memory in the other" in note for section in sections for note in section.notes)
    assert all(len(row) == len(section.columns) for section in sections for row in section.rows)
