"""torchtitan read backwards: from a plan to a TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import msgspec

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import Dispatch
from meshwright.planner.foreign.exporter import Exporter
from meshwright.planner.foreign.settings import Settings, UnmodelledUse
from meshwright.planner.foreign.torchtitan import TORCHTITAN
from meshwright.planner.foreign.torchtitan.configuration import SCHEDULES, configuration_for
from meshwright.planner.foreign.torchtitan.document import toml_text
from meshwright.planner.foreign.torchtitan.flavors import flavor_model
from meshwright.planner.foreign.torchtitan.model_args import FlavorName, find_flavor, runs_pipeline
from meshwright.planner.foreign.torchtitan.rules import broken_rules_for
from meshwright.planner.foreign.torchtitan.run_settings import expert_strategy, recomputes, settings_of
from meshwright.planner.foreign.torchtitan.unmodelled import unmodelled_for
from meshwright.planner.foreign.violation import Violation


def obstacles(configuration: TrainingConfiguration) -> Iterator[str]:
    """Models, schedules, Ulysses groups and dispatchers that torchtitan does not have."""
    mesh, schedule, strategy = configuration.mesh, configuration.pipeline.schedule, expert_strategy(configuration)
    if find_flavor(configuration.model) is None:
        yield f"no model of torchtitan has the layers of {configuration.model.name}; no other plan would change that"
    if mesh.pp > 1 and schedule not in SCHEDULES.values():
        yield f"its pipeline schedule is {schedule}; torchtitan has {', '.join(dict.fromkeys(SCHEDULES.values()))}"
    if mesh.sp > 1:
        yield f"it exchanges heads among {mesh.sp} ranks (Ulysses); torchtitan's context parallelism does not"
    if mesh.ep > 1 and strategy.dispatch is Dispatch.ALL_GATHER:
        yield "its tokens reach the experts by all-gather; torchtitan has all-to-all only"


def fixes(configuration: TrainingConfiguration) -> dict[str, str]:
    """Choices with which a plan can be exported."""
    mesh, schedule = configuration.mesh, configuration.pipeline.schedule
    narrow = configuration.workload.precision is Precision.FP8
    cut = mesh.pp > 1 and runs_pipeline(configuration.model)
    is_moe = configuration.model.is_moe
    pinned = {"schedule": str(ScheduleKind.ONE_F_ONE_B), "sp": "1", "cp": str(mesh.cp)}
    if not cut or (is_moe and narrow):
        pinned |= {"pp": "1", "cp": "1" if narrow and is_moe else str(mesh.cp)}
    elif schedule in TORCHTITAN.schedules and schedule is not ScheduleKind.ONE_F_ONE_B:
        pinned |= {"schedule": str(schedule), "pp": str(mesh.pp), "vp": str(configuration.pipeline.virtual_stages)}
    if int(pinned["cp"]) > 1:
        pinned["attention"] = "cp-allgather"
    return pinned | (_expert_fixes(configuration) if is_moe else {})


def _expert_fixes(configuration: TrainingConfiguration) -> dict[str, str]:
    """Whole experts on each rank, reached by all-to-all."""
    strategy, cluster = expert_strategy(configuration), configuration.cluster
    experts = gcd(*(layer.ffn.num_experts for layer in configuration.model.layers if isinstance(layer.ffn, MoeFfnSpec)))
    ep = configuration.mesh.ep if configuration.mesh.ep > 1 else gcd(experts, cluster.gpus_per_node, cluster.num_gpus)
    gathers = strategy.dispatch is Dispatch.ALL_GATHER
    return {"ep": str(ep), "etp": "1", "dispatch": str(Dispatch.ALL_TO_ALL_DEDUP if gathers else strategy.dispatch)}


def _flavor(configuration: TrainingConfiguration) -> FlavorName:
    flavor = find_flavor(configuration.model)
    assert flavor is not None  # an obstacle otherwise
    return flavor


def _settings_of(configuration: TrainingConfiguration) -> Settings:
    return settings_of(configuration, _flavor(configuration))


def _configuration_of(settings: Settings, wanted: TrainingConfiguration) -> TrainingConfiguration:
    flavor = _flavor(wanted)
    own = msgspec.structs.replace(wanted.model, mtp_depth=0)  # torchtitan predicts no further tokens
    model = own if flavor.own else flavor_model("", flavor.name, flavor.flavor)
    return configuration_for(settings, model, wanted.cluster, wanted.workload.expert_imbalance)


def _broken_rules(settings: Settings, wanted: TrainingConfiguration) -> tuple[Violation, ...]:
    return broken_rules_for(settings, wanted.model, wanted.cluster.num_gpus)


def _unmodelled(settings: Settings, wanted: TrainingConfiguration) -> tuple[UnmodelledUse, ...]:
    return unmodelled_for(settings, wanted.model)


def _write(settings: Settings, configuration: TrainingConfiguration, comments: tuple[str, ...]) -> str:
    return toml_text(settings, configuration, _flavor(configuration), comments)


TO_TORCHTITAN = Exporter(
    framework=TORCHTITAN,
    suffix=".toml",
    obstacles=obstacles,
    settings_of=_settings_of,
    ways=recomputes,
    configuration_of=_configuration_of,
    broken_rules=_broken_rules,
    unmodelled=_unmodelled,
    fixes=fixes,
    write=_write,
)
