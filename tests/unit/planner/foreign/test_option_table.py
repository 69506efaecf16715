from __future__ import annotations

import pytest

from meshwright.costmodel.errors import InputError
from meshwright.planner.foreign.check import FRAMEWORKS
from meshwright.planner.foreign.option_table import (
    IgnoredOption,
    MappedOption,
    OptionTable,
    Reads,
    UnmodelledOption,
    known_options,
    nearest_option,
    option_of_setting,
    option_table,
)
from meshwright.planner.foreign.settings import GivenOption, default_values, sort_options


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_every_table_reads_and_names_its_source(framework: str) -> None:
    table = option_table(framework)
    assert "commit" in table.source
    assert all(option.why for option in table.unmodelled)
    settings = [option.setting for option in table.mapped]
    assert len(set(settings)) == len(settings)


def test_meanings_name_fields_of_a_plan_once_each() -> None:
    """So the table reads backwards: a field of a plan gives its option."""
    for framework in FRAMEWORKS:
        meanings = [option.meaning for option in option_table(framework).mapped if option.meaning]
        assert len(set(meanings)) == len(meanings)
        assert {"mesh.tp", "mesh.pp", "mesh.cp", "mesh.ep", "mesh.etp", "workload.seq_len"} <= set(meanings)


def test_an_option_is_mapped_unmodelled_or_ignored() -> None:
    known = known_options("megatron")
    assert isinstance(known["--tensor-model-parallel-size"], MappedOption)
    assert isinstance(known["--optimizer"], UnmodelledOption)
    assert known["--log-interval"] == IgnoredOption(group="logging", arity="1")
    assert "--tensor-parallel" not in known


def test_an_option_that_stands_twice_is_refused() -> None:
    twice = MappedOption(names=("--x",), setting="x", reads=Reads.COUNT)
    with pytest.raises(InputError, match="stands there twice"):
        OptionTable(source="", mapped=(twice,), unmodelled=(), no_effect={"logging": {"0": ("--x",)}})


def test_the_nearest_option_is_suggested() -> None:
    assert nearest_option("megatron", "--tensor-model-paralel-size") == "--tensor-model-parallel-size"
    assert nearest_option("megatron", "--zzzz") == ""


def test_every_option_ends_in_one_place() -> None:
    texts = ("--bf16", "--lr 1e-4", "--optimizer muon", "--optimizer adam", "--vocab-sice 5", "--use-custom-fsdp")
    options = [GivenOption(name=text.split()[0], values=tuple(text.split()[1:])) for text in texts]
    reading = sort_options("megatron", "x", options)
    assert reading.settings.given == {"bf16", "use_megatron_fsdp"}
    assert [use.option for use in reading.unmodelled] == ["--optimizer muon"]
    assert [use.option for use in reading.ignored] == ["--lr 1e-4", "--optimizer adam"]
    assert [(flag.option, flag.suggestion) for flag in reading.unknown] == [("--vocab-sice 5", "--vocab-size")]


def test_defaults_of_switches() -> None:
    defaults = default_values("megatron")
    assert defaults["bf16"] is False
    assert defaults["add_bias_linear"] is True
    assert defaults["tensor_model_parallel_size"] == 1
    assert option_of_setting("megatron")["add_bias_linear"].names == ("--disable-bias-linear",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("--num-layers x", "'x' is not a whole number >= 1"),
        ("--num-layers 0", "'0' is not a whole number >= 1"),
        ("--num-layers", "expected one value, found 0"),
        ("--num-layers 1 2", "expected one value, found 2"),
        ("--num-layers $N", "could not be resolved"),
        ("--moe-expert-capacity-factor big", "'big' is not a number"),
        ("--normalization BatchNorm", "expected one of LayerNorm, RMSNorm"),
        ("--bf16 maybe", "neither true nor false"),
    ],
)
def test_values_that_are_none(text: str, problem: str) -> None:
    name, *values = text.split()
    option = GivenOption(name=name, values=tuple(values), line=7)
    with pytest.raises(InputError, match=r"train\.sh:7") as error:
        sort_options("megatron", "train.sh", [option])
    assert problem in str(error.value)


def test_changed_settings_and_back_to_the_default() -> None:
    settings = sort_options("megatron", "x", [GivenOption(name="--micro-batch-size", values=("4",))]).settings
    assert settings.changed({"micro_batch_size": 8}).integer("micro_batch_size") == 8
    assert not settings.changed({"micro_batch_size": None}).has("micro_batch_size")
    with pytest.raises(InputError, match="--global-batch-size: is missing"):
        settings.integer("global_batch_size")
