"""A tiny plan for four ranks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.simulate import ScheduleKind
from meshwright.costmodel.strategy import LayerStrategy, Mesh
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan, configuration_of
from meshwright.planner.plan_orders import plan_orders
from meshwright.planner.search import search
from meshwright.planner.space import Problem


@pytest.fixture(scope="session")
def tiny_plan(repository: object) -> Plan:
    """The model of docs/tiny_moe.json over sp 2, dp 2 and ep 4."""
    problem = Problem(
        model=load_model(f"{repository}/docs/tiny_moe.json"),
        cluster=load_cluster("h100").with_gpus(4),
        workload=Workload(global_batch=8, seq_len=16),
        fixes=parse_fixes(("sp=2,dp=2,ep=4,dispatch=alltoall,zero=1",)),
    )
    found = search(problem, top=0)
    return build_plan(found.configuration, found.prediction, found.certificate)


@pytest.fixture
def tiny_configuration(tiny_plan: Plan) -> TrainingConfiguration:
    """Its configuration."""
    return configuration_of(tiny_plan)


@pytest.fixture
def dualpipe_configuration(tiny_configuration: TrainingConfiguration) -> TrainingConfiguration:
    """The same model on two stages under DualPipeV and ep 2, in the orders that list scheduling finds."""
    configuration = replace(
        tiny_configuration,
        workload=replace(tiny_configuration.workload, global_batch=16),
        mesh=Mesh(pp=2, dp=2, ep=2),
        pipeline=Pipeline(schedule=ScheduleKind.DUALPIPE_V, virtual_stages=2),
        stages=((LayerStrategy(ep=2),),) * 4,
    )
    return replace(configuration, orders=plan_orders(replace(configuration, orders=OrderBook())))
