"""Megatron-LM read backwards: from a plan to a launch script."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.planner.foreign.exporter import Exporter
from meshwright.planner.foreign.megatron import MEGATRON
from meshwright.planner.foreign.megatron.run_settings import expert_strategy, settings_of, ways
from meshwright.planner.foreign.megatron.script import script_text
from meshwright.planner.foreign.settings import Settings, UnmodelledUse
from meshwright.planner.foreign.violation import Violation


def obstacles(configuration: TrainingConfiguration) -> Iterator[str]:
    """Schedules that Megatron-LM does not have."""
    schedule = configuration.pipeline.schedule
    if configuration.mesh.pp > 1 and schedule not in MEGATRON.schedules:
        yield f"its pipeline schedule is {schedule}; Megatron-LM has {' and '.join(MEGATRON.schedules)}"


def fixes(configuration: TrainingConfiguration) -> dict[str, str]:
    """Choices with which a plan can be exported."""
    mesh, schedule = configuration.mesh, configuration.pipeline.schedule
    pinned = {"schedule": str(ScheduleKind.ONE_F_ONE_B), "sp": "1", "cp": str(mesh.cp)}
    if mesh.pp > 1 and schedule is ScheduleKind.INTERLEAVED:
        pinned |= {"schedule": str(schedule), "pp": str(mesh.pp), "vp": str(configuration.pipeline.virtual_stages)}
    if mesh.cp > 1:
        pinned["attention"] = "cp-ring"
    strategy = expert_strategy(configuration)
    if strategy is not None and strategy.ep * strategy.etp > 1:
        pinned["dispatch"] = str(strategy.dispatch)
    return pinned


def _configuration_of(settings: Settings, wanted: TrainingConfiguration) -> TrainingConfiguration:
    return MEGATRON.configuration_of(settings, wanted.cluster, wanted.workload.expert_imbalance)


def _broken_rules(settings: Settings, wanted: TrainingConfiguration) -> tuple[Violation, ...]:
    return MEGATRON.broken_rules(settings, wanted.cluster.num_gpus)


def _unmodelled(settings: Settings, _: TrainingConfiguration) -> tuple[UnmodelledUse, ...]:
    return MEGATRON.unmodelled(settings)


TO_MEGATRON = Exporter(
    framework=MEGATRON,
    suffix=".sh",
    obstacles=obstacles,
    settings_of=settings_of,
    ways=ways,
    configuration_of=_configuration_of,
    broken_rules=_broken_rules,
    unmodelled=_unmodelled,
    fixes=fixes,
    write=script_text,
)
