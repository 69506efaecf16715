from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute
from meshwright.planner.runners_up import describe_alternative, strategy_text

replace = msgspec.structs.replace


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (LayerStrategy(), "dp / ffn tp1 / none"),
        (LayerStrategy(tp=4, cp=2, ffn_tp=4, recompute=Recompute.FULL), "tp4 cp2 / ffn tp4 / full"),
        (LayerStrategy(sp=8, ep=4, etp=2, dispatch=Dispatch.ALL_GATHER), "sp8 / ep4 etp2 allgather / none"),
        (
            LayerStrategy(ep=8, dispatch=Dispatch.ALL_TO_ALL_DEDUP, communication=Precision.FP8, offload=True),
            "dp / ep8 alltoall-dedup / none / fp8 on the wire / offload",
        ),
    ],
)
def test_a_strategy_in_a_few_words(strategy: LayerStrategy, text: str) -> None:
    assert strategy_text(strategy) == text


def test_a_runner_up_says_what_it_chose_and_takes(tiny_configuration: TrainingConfiguration) -> None:
    other = replace(
        tiny_configuration,
        mesh=Mesh(pp=4, dp=2),
        pipeline=Pipeline(micro_batch=2),
        stages=((LayerStrategy(recompute=Recompute.FULL),),) + ((LayerStrategy(),),) * 3,
    )
    described, prediction = describe_alternative(tiny_configuration, other), predict(other)
    assert described.mesh == other.mesh
    assert described.micro_batch_size == 2
    assert described.strategies == ("3 x dp / ffn tp1 / none", "1 x dp / ffn tp1 / full")
    assert described.step_time_s == prediction.step_time_s
    assert described.peak_memory_bytes == max(prediction.peak_memory_bytes)


def test_the_reason_names_the_two_terms_that_grew_most(tiny_configuration: TrainingConfiguration) -> None:
    other = replace(tiny_configuration, mesh=Mesh(pp=4, dp=2), stages=((LayerStrategy(),),) * 4)
    best_s, other_s = (predict(each).breakdown_s for each in (tiny_configuration, other))
    growth = sorted(((other_s[name] - best_s[name], name) for name in best_s), reverse=True)
    expected = ", ".join(f"{name.replace('_', ' ')} +{seconds * 1e3:.1f} ms" for seconds, name in growth[:2])
    assert growth[1][0] > 0
    assert describe_alternative(tiny_configuration, other).reason == expected


def test_a_plan_that_is_no_worse_has_no_reason(tiny_configuration: TrainingConfiguration) -> None:
    assert describe_alternative(tiny_configuration, tiny_configuration).reason == ""
