"""What export needs of a framework, beside what the check needs: the way back from a configuration to settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.value import Value
from meshwright.planner.foreign.framework import Framework
from meshwright.planner.foreign.settings import Settings, SettingValue, UnmodelledUse
from meshwright.planner.foreign.violation import Violation


class Exporter(Value, frozen=True, kw_only=True):
    """A framework read backwards, as functions.

    obstacles: why a configuration cannot run there as planned, one line each, beyond what the framework's rules say.
    settings_of: settings that stand for it, recomputation left out; what they cannot say is left out, too.
    ways: settings to try on top of these: what the framework can recompute, and overlap beside it.
    configuration_of, broken_rules, unmodelled: the framework's, for settings that came from a configuration.
    fixes: what `plan --fix` pins so that a plan can be exported, for the model and batch of a configuration.
    write: the file; it takes settings, the configuration, and comments.
    """

    framework: Framework
    suffix: str
    obstacles: Callable[[TrainingConfiguration], Iterator[str]]
    settings_of: Callable[[TrainingConfiguration], Settings]
    ways: Callable[[TrainingConfiguration], Iterator[dict[str, SettingValue]]]
    configuration_of: Callable[[Settings, TrainingConfiguration], TrainingConfiguration]
    broken_rules: Callable[[Settings, TrainingConfiguration], tuple[Violation, ...]]
    unmodelled: Callable[[Settings, TrainingConfiguration], tuple[UnmodelledUse, ...]]
    fixes: Callable[[TrainingConfiguration], dict[str, str]]
    write: Callable[[Settings, TrainingConfiguration, tuple[str, ...]], str]
