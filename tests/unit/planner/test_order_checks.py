"""Orders of a plan that was edited by hand: what is no order of its operators is refused with its path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from meshwright.cli import main
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.step import predict
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import configuration_of, prediction_record
from meshwright.planner.serialise import parse_plan, plan_json

Edit = Callable[[dict[str, Any]], object]


def _edited(plan: Plan, edit: Edit) -> bytes:
    data: dict[str, Any] = json.loads(plan_json(plan))
    edit(data)
    return json.dumps(data).encode()


def _forward(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Launches of the forward of the first two layers: sp 2, ep 4, nothing recomputed."""
    launches: list[dict[str, Any]] = data["orders"][1]["order"]["forward"]["launches"]
    return launches


def _place(data: dict[str, Any], name: str) -> int:
    return next(place for place, launch in enumerate(_forward(data)) if name in launch["operators"])


def _move(data: dict[str, Any], name: str, ahead_of: str) -> None:
    launches = _forward(data)
    launch = launches.pop(_place(data, name))
    launches.insert(_place(data, ahead_of), launch)


def _append(data: dict[str, Any], *names: str) -> None:
    _forward(data).append({"operators": list(names), "stream": "compute", "num_sms": 0})


def _split_fused(data: dict[str, Any]) -> None:
    """The second fused kernel as two launches: the same work, nothing of its communication hidden."""
    launches, place = _forward(data), _place(data, "attn_projection")
    launches[place : place + 1] = [
        {"operators": ["all_to_all.attn"], "stream": "nvlink", "num_sms": launches[place]["num_sms"]},
        {"operators": ["attn_projection"], "stream": "compute", "num_sms": 0},
    ]


LAUNCHES = "orders[1].order.forward.launches"
REFUSED: dict[str, tuple[Edit, str]] = {
    "unknown operator": (lambda data: _append(data, "warp"), f"{LAUNCHES}: warp is no operator of this pass"),
    "not launched": (lambda data: _forward(data).pop(0), f"{LAUNCHES}: norm1 is not launched"),
    "launched twice": (lambda data: _append(data, "norm1"), f"{LAUNCHES}: launch norm1 twice"),
    "too early": (
        lambda data: _move(data, "experts_fc2", "experts_fc1"),
        f"{LAUNCHES}: launches experts_fc2 before experts_activation, which it waits for",
    ),
    "no such kernel": (
        lambda data: _forward(data)[_place(data, "norm2")].update(
            operators=["norm2", *_forward(data).pop(_place(data, "router"))["operators"]]
        ),
        f"{LAUNCHES}: no fused kernel runs norm2, router",
    ),
    "another stream": (
        lambda data: _forward(data)[0].update(stream="network"),
        f"{LAUNCHES}[0].stream: network, expected compute",
    ),
    "unknown stream": (lambda data: _forward(data)[0].update(stream="radio"), f"{LAUNCHES}[0].stream: "),
    "a gap over 1": (lambda data: data["orders"][1]["order"]["forward"].update(gap=2.0), "orders[1].order.forward"),
    "a pass is missing": (
        lambda data: data["orders"][2]["order"].update(backward=None),
        "orders[2].order.backward: missing; 1f1b runs it",
    ),
    "a pass of another part": (
        lambda data: data["orders"][2]["order"].update(backward=data["orders"][1]["order"]["backward"]),
        "orders[2].order.backward.launches: norm1 is not launched",
    ),
    "no order of the head": (lambda data: data["orders"].pop(3), "orders: has none of part head"),
    "two orders of the head": (
        lambda data: data["orders"].append(data["orders"][3]),
        "orders[4].part: a second order of the head",
    ),
    "an order of nothing": (
        lambda data: data["orders"].insert(2, data["orders"][1]),
        "orders[3]: no group of layers runs in it",
    ),
    "two orders of one kind": (
        lambda data: (data["orders"].append(data["orders"][1]), data["layers"][1].update(order=4)),
        "layers[1].order: 4, but layers of this kind and strategy run in order 1",
    ),
    "an order that is not there": (lambda data: data["layers"][0].update(order=9), "layers[0].order: 9 is no order"),
    "the order of an end": (
        lambda data: data["layers"][0].update(order=0),
        "layers[0].order: 0 is no order of a layer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_named_with_its_path(tiny_plan: Plan, name: str) -> None:
    edit, expected = REFUSED[name]
    with pytest.raises(PlanError) as caught:
        parse_plan(_edited(tiny_plan, edit), "plan.json")
    assert str(caught.value).startswith(f"plan.json: {expected}")
    assert "\n" not in str(caught.value)


def _with_graphs(configuration: TrainingConfiguration) -> TrainingConfiguration:
    """Layers so small that in eager code the GPU would wait for the host, whatever the order."""
    return replace(configuration, runtime=replace(configuration.runtime, cuda_graphs=True))


def test_the_stored_order_is_what_is_predicted(tiny_plan: Plan) -> None:
    """A slower order that is legal is obeyed: the layers' communication that was fused is exposed."""
    unfused = parse_plan(_edited(tiny_plan, _split_fused), "plan.json")
    assert predict(configuration_of(tiny_plan)).step_time_s == tiny_plan.prediction.step_time_s
    before, after = (predict(_with_graphs(configuration_of(plan))) for plan in (tiny_plan, unfused))
    assert after.step_time_s > before.step_time_s
    assert after.breakdown_s["exposed_nvlink"] > before.breakdown_s["exposed_nvlink"]
    assert after.hidden_s["nvlink"] < before.hidden_s["nvlink"]


def test_simulate_gives_the_prediction_of_the_orders_in_the_file(
    tiny_plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfused = parse_plan(_edited(tiny_plan, _split_fused), "plan.json")
    own = prediction_record(predict(configuration_of(unfused)), configuration_of(unfused).model)
    for plan in (tiny_plan, replace(unfused, prediction=own)):
        path = tmp_path / "plan.json"
        path.write_bytes(plan_json(plan))
        assert main(["simulate", str(path), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["prediction"] == json.loads(plan_json(plan))["prediction"]
