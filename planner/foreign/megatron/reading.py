"""Reads Megatron-LM's arguments: a launch script, a list of arguments, or YAML."""

from __future__ import annotations

import msgspec
import yaml

from meshwright.costmodel.errors import InputError
from meshwright.planner.foreign.framework import Source
from meshwright.planner.foreign.option_table import Reads, known_options, option_of_setting
from meshwright.planner.foreign.settings import GivenOption, Reading, sort_options
from meshwright.planner.foreign.shell.commands import split_commands
from meshwright.planner.foreign.shell.expansion import Variables
from meshwright.planner.foreign.shell.launch import Launch, find_launch, split_options

NAME = "megatron"
YAML_SUFFIXES = (".yaml", ".yml")
YAML_NAMES = {"num_moe_experts": "num_experts", "layernorm_epsilon": "norm_epsilon", "fp8": "fp8_format"}
"""Names that Megatron-LM's own YAML has for options that are called otherwise on its command line."""


def read(source: Source) -> Reading:
    """The arguments with what became of each; an `InputError` where the source holds none or a value is none."""
    launch = _launch(source)
    added = typed_options(source.where, source.added, source.environment)
    reading = sort_options(NAME, source.where, (*launch.options, *added))
    return msgspec.structs.replace(reading, num_gpus=launch.num_gpus, notes=launch.notes)


def _launch(source: Source) -> Launch:
    if source.suffix in YAML_SUFFIXES:
        return Launch(options=_yaml_options(source), num_gpus=None, notes=())
    if not source.suffix and source.text.lstrip().startswith("-"):
        return Launch(options=typed_options(source.where, source.text, source.environment), num_gpus=None, notes=())
    return find_launch(source.where, source.text, source.environment, frozenset(known_options(NAME)))


def typed_options(where: str, text: str, environment: dict[str, str]) -> tuple[GivenOption, ...]:
    """A list of options as one would type it, variables of the environment filled in."""
    variables = Variables(environment)
    commands = split_commands(where, text.replace("\n", " "))
    return split_options(
        tuple(f for command in commands for word in command.words for f in variables.fields(word.text))
    )


def _yaml_options(source: Source) -> tuple[GivenOption, ...]:
    try:
        content = yaml.safe_load(source.text)
    except yaml.YAMLError as problem:
        raise InputError(source.where, "", f"is no YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(content, dict):
        raise InputError(source.where, "", "is no mapping of options")
    model_args = content.get("MODEL_ARGS")
    options = tuple(_leaves(model_args if isinstance(model_args, dict) else content))
    if not options:
        raise InputError(source.where, "", "holds no option")
    return options


def _leaves(section: dict[str, object]) -> list[GivenOption]:
    """Options of all sections; a switch that is false is as if it were not there."""
    options = []
    for key, value in section.items():
        if isinstance(value, dict):
            options += _leaves(value)
        elif value is not None:
            options += _leaf(str(key), value)
    return options


def _leaf(key: str, value: object) -> list[GivenOption]:
    name = YAML_NAMES.get(key, key)
    by_setting = option_of_setting(NAME).get(name.removeprefix("--").replace("-", "_"))
    written = name if name.startswith("--") else f"--{name.replace('_', '-')}"
    if by_setting is not None and written not in by_setting.names:
        written = by_setting.names[0]
        if by_setting.reads is Reads.OFF and isinstance(value, bool):
            value = not value
    if isinstance(value, bool):
        return [GivenOption(name=written, values=())] if value else []
    values = value if isinstance(value, list) else str(value).split() if by_setting is None else [value]
    return [GivenOption(name=written, values=tuple(map(str, values)))]
