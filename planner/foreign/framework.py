"""What the check needs of a framework: reading, rules, the configuration that is meant, and single changes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.hardware import ClusterSpec
from meshwright.costmodel.model import ModelSpec
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Recompute
from meshwright.costmodel.value import Value
from meshwright.planner.foreign.settings import Reading, Settings, SettingValue, UnmodelledUse
from meshwright.planner.foreign.violation import Violation


class Source(Value, frozen=True, kw_only=True):
    """What is to be read: a file's text or options as typed. `added` are options that come last and so count.

    `environment` are variables that a script may use. `suffix` is that of the file, empty for typed options.
    """

    where: str
    text: str
    suffix: str = ""
    added: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)


class Edit(Value, frozen=True, kw_only=True):
    """A small change of settings that may help; None takes a setting back to its default."""

    changes: dict[str, SettingValue]


class Framework(Value, frozen=True, kw_only=True):
    """A framework as functions. `offers` tells what of the planner's space it can run.

    title: its name in messages. runtime: its runtime description.
    read, broken_rules, unmodelled, configuration_of, edits: see `megatron` for what each takes and returns.
    write: settings as the user would write them. required: settings without which nothing can be said.
    pipelines: whether it can cut a model into stages.
    """

    name: str
    title: str
    runtime: str
    schedules: tuple[ScheduleKind, ...]
    recomputes: tuple[Recompute, ...]
    read: Callable[[Source], Reading]
    broken_rules: Callable[[Settings, int], tuple[Violation, ...]]
    unmodelled: Callable[[Settings], tuple[UnmodelledUse, ...]]
    configuration_of: Callable[[Settings, ClusterSpec, float], TrainingConfiguration]
    edits: Callable[[Settings, TrainingConfiguration], Iterator[Edit]]
    write: Callable[[Settings, dict[str, SettingValue]], str]
    required: tuple[str, ...] = ()
    pipelines: Callable[[ModelSpec], bool] = lambda _: True
