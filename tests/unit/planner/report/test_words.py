from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.report.words import days_to_tokens, headline, plan_words

replace = msgspec.structs.replace


def test_the_headline_has_the_main_figures(tiny_plan: Plan) -> None:
    words = headline(tiny_plan)
    assert words.startswith(f"tiny trains on 8 GPUs at {tiny_plan.prediction.tokens_per_s:,.0f} tokens/s")
    assert "within 1.00 % of the best of 40 candidates" in words


def test_paragraphs_of_a_pipeline_with_experts(tiny_plan: Plan) -> None:
    words = " ".join(plan_words(tiny_plan))
    for part in (
        "tiny has",
        "1 node of 8 GPUs (h100), each GPU with 450 GB/s of NVLink in one direction",
        "16 sequences of 2,048 tokens in BF16: 32,768 tokens",
        "2 replicas of the model work on different sequences, each cut into 2 pipeline stages",
        "the 2 GPUs that hold one stage of a replica share each sequence",
        "The experts of a layer lie on 4 GPUs",
        "8 micro-batches of 1 sequence through its 2 stages",
        "nothing in 3 layers; whole layer in 1 layer",
        "with 90 % probability",
    ):
        assert part in words, part


def test_one_gpu_has_no_pipeline_and_no_replicas(tiny_plan: Plan, tiny_configuration: TrainingConfiguration) -> None:
    alone = replace(
        tiny_configuration,
        cluster=tiny_configuration.cluster.with_gpus(1),
        mesh=Mesh(),
        pipeline=Pipeline(),
        stages=((LayerStrategy(),) * 4,),
    )
    words = " ".join(plan_words(build_plan(alone, predict(alone), tiny_plan.search)))
    assert "There is no pipeline: a replica runs 16 micro-batches of 1 sequence" in words
    assert "1 replica of the model works on different sequences." in words
    assert "experts of a layer lie" not in words


def test_days_are_tokens_over_speed(tiny_plan: Plan) -> None:
    prediction = replace(tiny_plan.prediction, tokens_per_s=1e6)
    # 86.4e9 tokens at a million a second take 86,400 s.
    assert days_to_tokens(replace(tiny_plan, prediction=prediction), 86.4e9) == pytest.approx(1.0)
