from __future__ import annotations

import msgspec
import pytest

from meshwright.costmodel.errors import StrategyError
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.runtime import load_runtime, runtime_names
from meshwright.costmodel.runtime_limits import check_runtime_runs, parts_of_layer, parts_of_model
from meshwright.costmodel.workload import Workload

RUN = load_runtime("meshwright-run")


@pytest.mark.parametrize(
    ("model", "seq_len", "precision", "refused"),
    [
        ("gpt-oss-20b", 4096, Precision.BF16, "sliding windows and chunks"),
        ("gpt-oss-20b", 128, Precision.BF16, "attention sinks"),
        ("hunyuan-large", 4096, Precision.BF16, "keys and values of another layer"),
        ("deepseek-v3", 4096, Precision.BF16, "multi-token prediction"),
        ("gpt3-175b", 2048, Precision.BF16, "learned positions"),
        ("qwen3-30b-a3b", 4096, Precision.FP8, "FP8 products"),
    ],
)
def test_what_the_executor_does_not_run_is_refused_in_one_line(
    model: str, seq_len: int, precision: Precision, refused: str
) -> None:
    workload = Workload(global_batch=8, seq_len=seq_len, precision=precision)
    with pytest.raises(StrategyError) as caught:
        check_runtime_runs(RUN, load_model(model), workload)
    assert str(caught.value) == f"--runtime: meshwright-run does not run {refused} yet; plan for another runtime"
    check_runtime_runs(load_runtime("meshwright"), load_model(model), workload)


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v2-lite", "mixtral-8x7b", "llama-3.1-8b"])
def test_what_it_runs_passes(model: str) -> None:
    check_runtime_runs(RUN, load_model(model), Workload(global_batch=8, seq_len=4096))


def test_a_window_as_long_as_the_sequence_limits_nothing() -> None:
    layer = load_model("gpt-oss-20b").layers[0]
    assert layer.attention.window == 128
    assert "window" in parts_of_layer(layer, 129, Precision.BF16)
    assert "window" not in parts_of_layer(layer, 128, Precision.BF16)


def test_descriptions_name_parts_that_there_are() -> None:
    layer, model = load_model("gpt-oss-20b").layers[0], load_model("gpt3-175b")
    sharing = msgspec.structs.replace(layer, attention=msgspec.structs.replace(layer.attention, shares_key_value=True))
    known = {
        *parts_of_layer(sharing, 4096, Precision.FP8),
        *parts_of_model(msgspec.structs.replace(model, mtp_depth=1)),
    }
    for name in runtime_names():
        assert set(load_runtime(name).not_run) <= known
    assert set(RUN.not_run) == known
