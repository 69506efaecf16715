from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshwright.costmodel.errors import ClusterError, InputError
from meshwright.costmodel.step import predict
from meshwright.planner.foreign import FRAMEWORKS, CheckRequest, Source, check
from meshwright.planner.foreign.advice import LEAST_GAIN, Outcome
from meshwright.planner.foreign.best_plan import faster_one
from meshwright.planner.foreign.describe import as_plan, describe_check
from meshwright.planner.foreign.record import check_record
from meshwright.planner.foreign.violation import nearest_divisors, nearest_multiples
from meshwright.planner.plan_conversion import configuration_of
from meshwright.planner.plan_orders import plan_orders

CONFIGURATIONS = Path(__file__).parent / "configurations"
SMALL = (
    "--num-layers 8 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048"
    " --micro-batch-size 1 --global-batch-size 32 --vocab-size 32000 --bf16 --swiglu --disable-bias-linear"
    " --normalization RMSNorm --position-embedding-type rope --untie-embeddings-and-output-weights"
)


def request(text: str, num_gpus: int | None = 8, *, search: bool = False) -> CheckRequest:
    source = Source(where="arguments", text=text)
    return CheckRequest(framework="megatron", source=source, cluster="h100", num_gpus=num_gpus, search=search)


def test_the_best_plan_is_at_least_as_fast_as_any_advice() -> None:
    four_layers = SMALL.replace("--num-layers 8", "--num-layers 4")
    result = check(request(f"{four_layers} --pipeline-model-parallel-size 2", search=True))
    assert (result.legal, result.fits) == (True, True)
    assert result.best is not None
    assert result.prediction is not None
    assert result.gap == pytest.approx(1 - result.best.step_time_s / result.prediction.step_time_s)
    assert result.gap is not None
    assert result.gap > 0
    assert result.best.lower_bound_s <= result.best.step_time_s
    schedules = FRAMEWORKS["megatron"].schedules
    assert result.best.configuration.pipeline.schedule in schedules
    assert all(strategy.sp == 1 for stage in result.best.configuration.stages for strategy in stage)
    assert min(advice.step_time_s for advice in result.advice) >= result.best.step_time_s * 0.99


def test_the_best_plan_is_at_least_as_fast_as_all_changes_together() -> None:
    """Switches that the configuration leaves off are among the changes: the best plan may have them on as well."""
    moe = f"{SMALL} --num-experts 8 --moe-router-topk 2 --expert-model-parallel-size 8 --use-distributed-optimizer"
    result = check(request(moe, search=True))
    (combined,) = result.combined
    assert result.best is not None
    assert "--overlap-grad-reduce" in result.best.switches
    assert result.best.step_time_s <= combined.step_time_s
    printed = {section.title: section.lines for section in describe_check(result, verbose=False)}
    assert f"with {result.best.switches}" in printed["The best plan found"]


def test_advice_that_leaves_the_searched_space_may_be_the_best() -> None:
    result = check(request(SMALL, search=True))
    assert result.configuration is not None
    assert result.best is not None
    step_s = result.best.step_time_s / 2
    for fits, expected_s in ((True, step_s), (False, result.best.step_time_s)):
        outcome = Outcome(step_time_s=step_s, peak_bytes=1.0, fits=fits)
        best = faster_one(result.best, result.configuration, outcome, "--some-option")
        assert (best.step_time_s, best.is_advised) == (expected_s, fits)
        assert best.lower_bound_s <= best.step_time_s


def test_advice_is_legal_ranked_and_what_its_options_predict() -> None:
    result = check(request(f"{SMALL} --pipeline-model-parallel-size 2 --recompute-activations"))
    times = [advice.step_time_s for advice in result.advice]
    assert times == sorted(times)
    assert all(advice.fits and advice.gain >= LEAST_GAIN for advice in result.advice)
    added = next(advice for advice in result.advice if "drop" not in advice.change)
    again = check(request(f"{SMALL} --pipeline-model-parallel-size 2 --recompute-activations {added.change}"))
    assert again.legal
    assert again.prediction is not None
    assert again.prediction.step_time_s == pytest.approx(added.step_time_s)
    assert any(advice.change == "drop --recompute-activations" for advice in result.advice)


def test_changes_one_after_another_are_better_than_any_alone() -> None:
    result = check(request(f"{SMALL} --pipeline-model-parallel-size 4 --recompute-activations"))
    (combined,) = result.combined
    assert combined.fits
    assert combined.step_time_s < result.advice[0].step_time_s


def test_what_does_not_fit_is_told_what_would() -> None:
    large = SMALL.replace("--num-layers 8", "--num-layers 80").replace("--hidden-size 2048", "--hidden-size 8192")
    result = check(request(f"{large} --tensor-model-parallel-size 8", 64))
    assert (result.legal, result.fits) == (True, False)
    assert result.advice[0].fits
    assert "--pipeline-model-parallel-size" in " ".join(advice.change for advice in result.advice)
    none = check(request(large, 8))
    assert not any(advice.fits for advice in none.advice)
    peaks = [advice.peak_memory_bytes for advice in none.advice]
    assert peaks == sorted(peaks)
    titles = [section.title for section in describe_check(none, verbose=False)]
    assert "No single change makes it fit; these save most memory" in titles


def test_illegal_arguments_are_predicted_where_that_has_a_meaning() -> None:
    described = check(request(f"{SMALL} --overlap-param-gather"))
    assert not described.legal
    assert described.prediction is not None
    impossible = check(request(f"{SMALL} --tensor-model-parallel-size 3"))
    assert (impossible.prediction, impossible.fits, impossible.best) == (None, None, None)
    assert len(impossible.problems) >= 2


def test_our_own_rules_are_named_as_ours() -> None:
    broken = check(
        request(f"{SMALL} --kv-channels 128 --num-attention-heads 16 --sequence-parallel --fp8-format e4m3", 8)
    )
    assert broken.legal
    a100 = msgspec.structs.replace(request(f"{SMALL} --fp8-format hybrid"), cluster="a100")
    (problem,) = check(a100).problems
    assert problem.whose == "Meshwright"


def test_gpus_that_nothing_says_or_that_do_not_fill_nodes() -> None:
    with pytest.raises(InputError, match="--gpus: is missing: arguments does not say"):
        check(request(SMALL, None))
    with pytest.raises(ClusterError, match="--gpus"):
        check(request(SMALL, 12))
    with pytest.raises(ClusterError, match="--gpus: 0"):
        check(request(f"{SMALL}", 0))


@pytest.mark.parametrize("missing", ["--num-layers", "--hidden-size", "--num-attention-heads", "--seq-length"])
def test_a_size_without_which_nothing_can_be_said(missing: str) -> None:
    words = SMALL.split()
    at = words.index(missing)
    with pytest.raises(InputError, match=f"arguments: {missing}: is missing"):
        check(request(" ".join(words[:at] + words[at + 2 :])))


def test_an_unknown_framework() -> None:
    with pytest.raises(InputError, match="expected megatron or torchtitan"):
        check(msgspec.structs.replace(request(SMALL), framework="deepspeed"))


def test_the_configuration_as_a_plan_is_the_configuration() -> None:
    result = check(request(f"{SMALL} --pipeline-model-parallel-size 2"))
    assert result.configuration is not None
    plan = as_plan(result.configuration)
    held = msgspec.structs.replace(result.configuration, orders=plan_orders(result.configuration))
    assert configuration_of(plan) == held
    assert plan.prediction.step_time_s == predict(result.configuration).step_time_s
    assert plan.search.solvers == ()


def test_sections_name_everything_that_is_not_followed() -> None:
    text = f"{SMALL} --no-such-flag 3 --optimizer muon --lr 1e-4"
    result = check(request(text))
    printed = {section.title: section for section in describe_check(result, verbose=True)}
    assert printed["Options that the framework does not have"].lines[0].startswith("--no-such-flag 3: unknown")
    assert any("--optimizer muon" in line for line in printed["Matters, but is not modelled"].lines)
    assert printed["No effect on the prediction"].lines == ("optimizer: --lr 1e-4",) or any(
        "--lr 1e-4" in line for line in printed["No effect on the prediction"].lines
    )
    brief = {section.title: section for section in describe_check(result, verbose=False)}
    assert brief["No effect on the prediction"].lines == ("1 option: 1 learning rate; -v lists them",)


def test_the_record_has_the_stable_keys() -> None:
    record = msgspec.to_builtins(check_record(check(request(SMALL))))
    assert list(record) == [
        "framework",
        "num_gpus",
        "legal",
        "problems",
        "unknown_flags",
        "ignored_flags",
        "unmodelled_flags",
        "not_followed",
        "fits",
        "run",
        "prediction",
        "best",
        "gap",
        "advice",
        "combined",
    ]
    assert record["run"]["mesh"]["dp"] == 8


def test_nearest_values() -> None:
    assert nearest_divisors(48, 5) == "4 or 6"
    assert nearest_multiples(8, 3) == "8"
