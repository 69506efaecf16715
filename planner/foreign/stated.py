"""The option tables read backwards: fields of a configuration that one option states alone, and options as written."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.planner.foreign.option_table import Reads, option_table
from meshwright.planner.foreign.settings import GivenOption, Settings, SettingValue, default_values


def stated_fields(framework: str, configuration: TrainingConfiguration) -> dict[str, SettingValue]:
    """Every setting whose `meaning` in the table is a field of the configuration, with that field's value."""
    options = [option for option in option_table(framework).mapped if option.meaning]
    values = {option.setting: attrgetter(option.meaning)(configuration) for option in options}
    texts = {option.setting for option in options if option.reads is Reads.TEXT}
    return {name: str(value) if name in texts else value for name, value in values.items()}


def settings_from(framework: str, where: str, values: dict[str, SettingValue]) -> Settings:
    """Settings with these values; what is None or at a switch's default counts as not given."""
    defaults = default_values(framework)
    settings = Settings(framework=framework, where=where, values=defaults)
    return settings.changed({name: value for name, value in values.items() if _says(value, defaults[name])})


def _says(value: SettingValue, default: SettingValue) -> bool:
    return value is not None and not (isinstance(default, bool) and value == default)


def given_options(settings: Settings) -> Iterator[tuple[str, GivenOption]]:
    """Each given setting with its option as it is to be written, in the order of the table."""
    for option in option_table(settings.framework).mapped:
        if option.setting in settings.given:
            yield option.setting, GivenOption(name=option.names[0], values=_words(settings, option.setting))


def _words(settings: Settings, name: str) -> tuple[str, ...]:
    """The words of a value; a switch has none."""
    value = settings.values[name]
    if isinstance(value, bool) or value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
