from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.step import predict
from meshwright.planner.describe import Section, describe_plan
from meshwright.planner.describe.comparison import describe_what_if
from meshwright.planner.describe.layers import pipeline_section
from meshwright.planner.describe.memory import device_layers
from meshwright.planner.describe.step_time import TERMS
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.what_if import what_if

replace = msgspec.structs.replace


def _sections(plan: Plan) -> dict[str, Section]:
    return {section.title: section for section in describe_plan(plan)}


def _section(sections: tuple[Section, ...], start: str) -> Section:
    return next(section for section in sections if section.title.startswith(start))


def test_every_row_has_a_cell_for_every_column(tiny_plan: Plan) -> None:
    sections = describe_plan(tiny_plan) + describe_what_if(tiny_plan, what_if(tiny_plan, ("num_gpus=16",)))
    for section in sections:
        assert {len(row) for row in section.rows} <= {len(section.columns)}


def test_the_headline_has_the_figures_people_compare(tiny_plan: Plan) -> None:
    text = "\n".join(describe_plan(tiny_plan)[0].lines)
    prediction = tiny_plan.prediction
    assert f"{prediction.step_time_s * 1e3:.2f} ms" in text
    assert f"{prediction.tokens_per_s_per_gpu:,.0f} tokens/s a GPU" in text
    assert f"MFU {prediction.mfu * 100:.1f} %" in text
    assert "8 GPUs" in text


def test_multi_token_prediction_counts_apart_in_parameters_and_flops(
    tiny_plan: Plan, tiny_configuration: TrainingConfiguration
) -> None:
    def model_line(plan: Plan) -> str:
        return (
            next(line for line in describe_plan(plan)[0].lines if line.startswith("model "))
            .removeprefix("model")
            .strip()
        )

    more = replace(tiny_configuration, model=replace(tiny_configuration.model, mtp_depth=1))
    published, added = model_line(build_plan(more, predict(more), tiny_plan.search)).split("; MTP adds ")
    assert published == model_line(tiny_plan), "as without the module"
    total, active, flops = added.split(", ")
    attention, expert, end = 1024 * (1024 + 2 * 512 + 1024), 3 * 1024 * 2048, 1024 * 4096
    others = attention + 8 * 1024 + 2 * 1024**2
    assert total == f"{(others + 8 * expert + 5 * 1024) / 1e6:.1f} M"
    assert active == f"{(others + 2 * expert + 5 * 1024) / 1e6:.1f} M active"
    scores = 3 * 2 * 2 * 1024 * (2048 + 1) / 2
    assert flops == f"{(6 * (others + 2 * expert + end) + scores) / 1e9:.1f} GFLOP/token"


def test_layers_are_in_words(tiny_plan: Plan) -> None:
    rows = _sections(tiny_plan)["Layers"].rows
    assert rows == (
        ("3", "0-2", "MoE top-2 of 8", "Ulysses SP 2", "EP 4 by all-to-all", "nothing"),
        ("1", "3", "MoE top-2 of 8", "Ulysses SP 2", "EP 4 by all-to-all", "whole layer"),
    )


def test_the_mesh_has_both_views(tiny_plan: Plan) -> None:
    lines = _sections(tiny_plan)["Mesh"].lines
    assert lines[0] == "pp 2 x dp 2 x sp 2 = 8 GPUs"
    assert lines[1] == "pp 2 x ep 4 as the experts see them"
    assert any("ZeRO-1" in line for line in lines)


def test_the_pipeline_says_how_large_its_stages_are(tiny_plan: Plan) -> None:
    lines = _sections(tiny_plan)["Pipeline"].lines
    assert lines[0].startswith("1f1b: 2 stages, 8 micro-batches of 1 sequence a replica, bubble ")
    assert lines[1] == "layers of stages: 2 in 0-1"


def test_one_stage_is_no_pipeline(tiny_plan: Plan) -> None:
    alone = replace(tiny_plan, mesh=replace(tiny_plan.mesh, pp=1))
    assert pipeline_section(alone).lines == ("none; 8 micro-batches of 1 sequence a replica",)


def test_memory_has_a_row_for_each_stage_with_its_ends(tiny_plan: Plan) -> None:
    section = _section(describe_plan(tiny_plan), "Memory")
    assert [row[:2] for row in section.rows] == [("0", "2 + embedding"), ("1", "2 + head")]
    peak_gib = tiny_plan.prediction.peak_memory_bytes[0] / 2**30
    assert section.rows[0][-2] == f"{peak_gib:.1f}"


def test_stages_that_print_alike_share_a_row(tiny_plan: Plan) -> None:
    memory = tiny_plan.prediction.memory[0]
    stages = tuple(
        replace(tiny_plan.pipeline.stages[0], virtual_stage=stage, device=stage, num_layers=1) for stage in range(4)
    )
    plan = replace(
        tiny_plan,
        mesh=replace(tiny_plan.mesh, pp=4),
        cluster=replace(tiny_plan.cluster, num_gpus=2 * tiny_plan.cluster.num_gpus),
        pipeline=replace(tiny_plan.pipeline, stages=stages),
        prediction=replace(tiny_plan.prediction, memory=(memory,) * 4),
    )
    rows = _section(describe_plan(plan), "Memory").rows
    assert [row[:2] for row in rows] == [("0", "1 + embedding"), ("1-2", "1"), ("3", "1 + head")]


def test_a_v_shaped_pipeline_has_both_ends_on_one_device(
    tiny_plan: Plan, tiny_configuration: TrainingConfiguration
) -> None:
    strategies = [strategy for stage in tiny_configuration.stages for strategy in stage]
    pipeline = replace(tiny_configuration.pipeline, schedule=ScheduleKind.ZB_V, virtual_stages=2)
    stages = tuple((strategy,) for strategy in strategies)
    folded = replace(tiny_configuration, pipeline=pipeline, stages=stages)
    plan = build_plan(folded, predict(folded), tiny_plan.search)
    assert device_layers(plan) == ("2 + embedding + head", "2")


def test_the_terms_of_the_step_add_up(tiny_plan: Plan) -> None:
    assert set(tiny_plan.prediction.breakdown_s) == set(TERMS)
    rows = _section(describe_plan(tiny_plan), "Where the step goes").rows
    shown_ms = [float(row[1].replace(",", "")) for row in rows]
    assert sum(shown_ms[:-1]) == pytest.approx(shown_ms[-1], abs=0.0006 * len(rows))
    assert rows[-1][:3] == ("step", f"{tiny_plan.prediction.step_time_s * 1e3:,.3f}", "100.0 %")


def test_what_does_not_exist_is_not_printed(tiny_plan: Plan) -> None:
    text = str(describe_plan(replace(tiny_plan, alternatives=())))
    assert "Runners-up" not in text
    assert "cp" not in "".join(_sections(tiny_plan)["Mesh"].lines[0])
    terms = {row[0] for row in _section(describe_plan(tiny_plan), "Where").rows}
    assert TERMS["exposed_network"] not in terms, "one node has no network"


def test_runners_up_say_why_they_lost(tiny_plan: Plan) -> None:
    (row,) = _sections(tiny_plan)["Runners-up"].rows
    assert row[1:4] == ("25.0 %", "dp8", "1f1b")
    assert row[-1] == "exposed network +3.0 ms"


def test_the_certificate_says_what_was_proven_and_what_not(tiny_plan: Plan) -> None:
    text = "\n".join(_sections(tiny_plan)["Certificate"].lines)
    assert "no plan of the space is faster by more than 1.00 %" in text
    assert "40" in text
    assert "a made-up space" in text
    assert "meshwright validate" in text


def test_a_plan_predicted_again_is_shown_once(tiny_plan: Plan) -> None:
    sections = describe_what_if(tiny_plan, what_if(tiny_plan, ()))
    assert "to the last digit" in sections[0].notes[0]
    assert all("now" not in section.columns for section in sections)


def test_changes_are_shown_beside_the_plan(tiny_plan: Plan) -> None:
    sections = describe_what_if(tiny_plan, what_if(tiny_plan, ("nvlink_bytes_per_s=2x",)))
    assert sections[0].lines == ("cluster.nvlink_bytes_per_s: 450 GB/s -> 900 GB/s",)
    speed = _section(sections, "Speed")
    assert speed.columns == ("", "plan", "now", "change")
    assert speed.rows[0][3].startswith("-")
    terms = _section(sections, "Where the step goes")
    change_ms = tuple(float(row[3].replace(",", "")) for row in terms.rows)
    assert sum(change_ms[:-1]) == pytest.approx(change_ms[-1], abs=0.0006 * len(change_ms))


def test_what_does_not_fit_is_said_with_stage_and_bytes(tiny_plan: Plan) -> None:
    result = what_if(tiny_plan, ("usable_memory_bytes=2 GiB",))
    (note,) = describe_what_if(tiny_plan, result)[-1].notes
    worst = max(result.over_limit, key=lambda over: over.over_bytes)
    assert note.startswith(f"does not fit: stage {worst.stage} is ")
    assert f"({worst.over_bytes:,.0f} bytes) over the limit" in note
