"""A CPU run is refused where not even the ranks' state fits in the host's memory, and only there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.errors import PlanError
from meshwright.costmodel.formulas.parameters import total_parameters
from meshwright.costmodel.order.order_book import OrderBook
from meshwright.costmodel.strategy import LayerStrategy, Mesh, ZeroStage
from meshwright.executor.data.synthetic import MarkovTokens
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.optimizer import MEAN, MEAN_SQUARE
from meshwright.executor.train import entry
from meshwright.executor.train.host_memory import available_host_bytes, check_host_memory, least_bytes
from meshwright.executor.train.request import DeviceChoice, Format, RunRequest
from meshwright.executor.train.trainer import Trainer, TrainingChoices
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

GIB = 2**30
WEIGHT_MASTER_MOMENTS_GRADIENT = 4 + 4 + 8 + 4


def request(*, num_steps: int = 1, number_format: Format = Format.AUTO, resume: bool = False) -> RunRequest:
    return RunRequest(
        plan=Path("plan.json"),
        output=Path("run"),
        num_steps=num_steps,
        format=number_format,
        resume=resume,
        checkpoint=Path("saved"),
    )


def alone(configuration: TrainingConfiguration, replicas: int = 1) -> TrainingConfiguration:
    """The same model with nothing split, on one rank or several."""
    return replace(
        configuration,
        cluster=configuration.cluster.with_gpus(replicas),
        mesh=Mesh(dp=replicas),
        pipeline=replace(configuration.pipeline, micro_batch=1),
        stages=((LayerStrategy(),) * configuration.model.num_layers,),
        orders=OrderBook(),
    )


def num_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    ("number_format", "dtype"),
    [(Format.AUTO, torch.float32), (Format.BFLOAT16, torch.bfloat16), (Format.FLOAT64, torch.float64)],
)
def test_a_rank_really_keeps_that_and_little_more(
    tiny_configuration: TrainingConfiguration, number_format: Format, dtype: torch.dtype
) -> None:
    configuration = alone(tiny_configuration)
    workload = configuration.workload
    trainer = Trainer(
        configuration,
        0,
        TrainingChoices(
            numerics=Numerics(device=torch.device("cpu"), dtype=dtype),
            learning_rate=LearningRate(peak=1e-3, num_steps=1),
        ),
        MarkovTokens(vocabulary=256, seq_len=workload.seq_len, global_batch=workload.global_batch, seed=0),
    )
    flats = trainer.model.flats
    moments = [trainer.optimizer.moments(flat)[name] for flat in flats for name in (MEAN, MEAN_SQUARE)]
    kept = num_bytes([flat.weights for flat in flats]) + num_bytes([flat.master for flat in flats])
    trainer.step(0)
    sums = trainer.model.state.gradient_shards()
    (least,) = least_bytes(configuration, request(number_format=number_format))
    total = kept + num_bytes(moments) + num_bytes(sums)
    assert 0.95 * total < least <= total


@pytest.mark.parametrize("zero", ZeroStage)
def test_ranks_keep_copies_or_shards(tiny_configuration: TrainingConfiguration, zero: ZeroStage) -> None:
    """Data parallelism over four: what is sharded is there once, the rest four times."""
    configuration = replace(alone(tiny_configuration, replicas=4), sharding=Sharding(zero=zero))
    (each,) = least_bytes(configuration, request())
    parameters = total_parameters(configuration.model)
    sharded = {"0": 0, "1": 4 + 8, "2": 4 + 8 + 4, "3": WEIGHT_MASTER_MOMENTS_GRADIENT}[zero]
    copied = WEIGHT_MASTER_MOMENTS_GRADIENT - sharded
    assert 4 * each == pytest.approx(parameters * (sharded + 4 * copied), rel=0.01)
    offloaded = replace(configuration, sharding=Sharding(zero=zero, offload_optimizer=True))
    assert least_bytes(offloaded, request()) == (each,), "host memory is where all is"


@pytest.mark.parametrize("asked", [request(num_steps=0), request(resume=True)], ids=["no step", "perhaps no step"])
def test_what_is_never_written_takes_no_memory(tiny_configuration: TrainingConfiguration, asked: RunRequest) -> None:
    (all_of_it,) = least_bytes(alone(tiny_configuration), request())
    (least,) = least_bytes(alone(tiny_configuration), asked)
    assert least == pytest.approx(all_of_it * (4 + 4) / WEIGHT_MASTER_MOMENTS_GRADIENT)


def test_refused_with_both_figures_and_what_to_change(tiny_configuration: TrainingConfiguration) -> None:
    needed = 4 * least_bytes(tiny_configuration, request())[0]
    check_host_memory(tiny_configuration, request(), "plan.json", 4, needed)
    with pytest.raises(PlanError) as refused:
        check_host_memory(tiny_configuration, request(), "plan.json", 4, needed - 1)
    assert str(refused.value).startswith("plan.json: mesh: on this host's CPU 4 ranks keep at least ")
    assert "of weights, gradients and optimizer state, of its memory " in str(refused.value)
    assert "plan again with --fix zero=3, start the ranks on several hosts" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_status == 2


def test_of_ranks_on_several_hosts_those_of_this_one_count(tiny_configuration: TrainingConfiguration) -> None:
    each = least_bytes(tiny_configuration, request())[0]
    check_host_memory(tiny_configuration, request(), "plan.json", 2, 2 * each)
    with pytest.raises(PlanError, match="2 ranks keep"):
        check_host_memory(tiny_configuration, request(), "plan.json", 2, 2 * each - 1)


def test_nothing_starts_where_it_does_not_fit(tiny_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(tiny_plan, tmp_path / "plan.json")
    asked = RunRequest(
        plan=tmp_path / "plan.json", output=tmp_path / "run", num_steps=1, device=DeviceChoice.CPU, timeout_s=60.0
    )
    monkeypatch.setattr(entry, "available_host_bytes", lambda: 1000.0)
    with pytest.raises(PlanError, match=r"4 ranks keep at least .*1,?000 B are available"):
        entry.run(asked, (), lambda _: None)
    assert not (tmp_path / "run").exists()


def files(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable:   {32 * 2**20} kB\nSwapFree: {2**20} kB\n"


@pytest.mark.parametrize(
    ("texts", "gib"),
    [
        ({"proc/meminfo": MEMINFO}, 33),
        ({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 33),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": f"{8 * GIB}\n",
                "sys/fs/cgroup/job/memory.stat": f"anon {3 * GIB}\nfile {5 * GIB}\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
            },
            8 - 3 + 1,
        ),
        (
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
                "sys/fs/cgroup/memory/memory.stat": f"cache 7\ntotal_rss {GIB}\n",
            },
            4 - 1 + 1,
        ),
        ({"proc/meminfo": "MemFree: 1 kB\n"}, math.inf),
        ({}, math.inf),
    ],
    ids=["host", "unlimited group", "group above", "version 1 in a container", "old kernel", "nothing"],
)
def test_what_is_available(tmp_path: Path, texts: dict[str, str], gib: float) -> None:
    assert available_host_bytes(files(tmp_path, texts)) == gib * GIB


def test_this_host_has_some() -> None:
    assert available_host_bytes() > 0
