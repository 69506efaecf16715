"""MegaScale-MoE's ranking of {TP, SP} x {TP, EP} on one node of H800, as this cost model has it.

    .venv/bin/python benchmarks/paper_ranking.py

Six models (arXiv 2505.11432, table 2), 32 sequences of 8,192 a step, micro-batch 1, SAR; as many layers of each as fit
under all four strategies, since most do not fit on one node whole and the paper does not tell how many it ran. EP by
the faster dispatch. Without overlap and with all of it, orders solved; with and without the wait for routing, which is
a constant a layer and so weighs most in small layers. Prints gains over TP+TP, and writes them with their date beside
this file. About half a minute. docs/paper.md says what they mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meshwright.costmodel.configuration import Pipeline, TrainingConfiguration
from meshwright.costmodel.data_parallel import Sharding
from meshwright.costmodel.model import MoeFfnSpec, with_num_layers
from meshwright.costmodel.overlap import LayerOverlap, OverlapLevel
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import load_runtime
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.dated_record import origin_of, write_record
from meshwright.planner.operator_order import ordered_configuration

RESULT = Path(__file__).with_suffix(".json")
MODELS = ("internal-352b", "mixtral-8x7b", "mixtral-8x22b", "hunyuan-large", "phi-3.5-moe", "deepseek-moe-16b")
PAPER_RANGE = (0.149, 0.329)
SAR = Recompute.SELECTIVE
GATHER = Dispatch.ALL_GATHER
STRATEGIES = {
    "TP+TP": (LayerStrategy(tp=8, ffn_tp=8, etp=8, dispatch=GATHER, recompute=SAR),),
    "TP+EP": tuple(LayerStrategy(tp=8, ep=8, dispatch=way, recompute=SAR) for way in (Dispatch.ALL_TO_ALL, GATHER)),
    "SP+TP": (LayerStrategy(sp=8, ffn_tp=8, etp=8, dispatch=GATHER, recompute=SAR),),
    "SP+EP": tuple(LayerStrategy(sp=8, ep=8, dispatch=way, recompute=SAR) for way in (Dispatch.ALL_TO_ALL, GATHER)),
}
LEVELS = (OverlapLevel.NONE, OverlapLevel.FUSED)
RUNTIMES = {"waits for routing": 2.5e-3, "no wait": 0.0}
"""Seconds a layer that the host waits for the counts of routing (`paper_ablation.LAYER_WAIT_S` has the reason)."""


def configuration(
    model: str, num_layers: int, strategy: LayerStrategy, level: OverlapLevel, layer_wait_s: float
) -> TrainingConfiguration:
    """So many layers of a model on one node."""
    ffn = load_model(model).layers[-1].ffn
    assert isinstance(ffn, MoeFfnSpec)  # the paper's models are
    runtime = msgspec.structs.replace(
        load_runtime("megascale-moe"),
        overlap=LayerOverlap(tensor=level, sequence=level, context=level, expert=level),
        routing_wait_s=layer_wait_s / (ffn.num_experts // strategy.ep),
    )
    return TrainingConfiguration(
        model=with_num_layers(load_model(model), num_layers),
        cluster=load_cluster("h800").with_gpus(8),
        workload=Workload(global_batch=32, seq_len=8192),
        runtime=runtime,
        mesh=Mesh(tp=strategy.tp, sp=strategy.sp, ep=strategy.ep, etp=strategy.etp),
        sharding=Sharding(),
        pipeline=Pipeline(),
        stages=((strategy,) * num_layers,),
    )


def most_layers(model: str) -> int:
    """As many layers as fit under every strategy."""
    for num_layers in range(load_model(model).num_layers, 0, -1):
        configurations = (
            configuration(model, num_layers, way, OverlapLevel.NONE, 0.0)
            for ways in STRATEGIES.values()
            for way in ways
        )
        if all(predict(one).fits for one in configurations):
            return num_layers
    raise SystemExit(f"no layer of {model} fits on one node")


def rows_of(model: str) -> Iterator[dict[str, object]]:
    """The four strategies of one model, by level of overlap and runtime."""
    num_layers = most_layers(model)
    for name, layer_wait_s in RUNTIMES.items():
        for level in LEVELS:
            steps_s = {
                title: min(
                    predict(
                        ordered_configuration(configuration(model, num_layers, way, level, layer_wait_s))
                    ).step_time_s
                    for way in ways
                )
                for title, ways in STRATEGIES.items()
            }
            yield {
                "model": model,
                "layers": num_layers,
                "runtime": name,
                "overlap": level.value,
                "step_s": steps_s,
                "gain_over_tp_tp": {title: steps_s["TP+TP"] / step_s - 1.0 for title, step_s in steps_s.items()},
                "sp_ep_first": min(steps_s, key=lambda title: steps_s[title]) == "SP+EP",
            }


def main() -> None:
    """Print the table and write the record."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(f"{'model':18s}{'layers':>6s}  {'runtime':19s}{'overlap':8s}" + "".join(f"{name:>9s}" for name in STRATEGIES))
    rows = []
    for model in MODELS:
        for row in rows_of(model):
            rows.append(row)
            gains = "".join(f"{gain:+9.1%}" for gain in row["gain_over_tp_tp"].values())  # type: ignore[attr-defined]
            print(f"{model:18s}{row['layers']:6d}  {row['runtime']:19s}{row['overlap']:8s}{gains}", flush=True)
    first = sum(bool(row["sp_ep_first"]) for row in rows)
    print(f"SP+EP first in {first} of {len(rows)}; the paper: first for all six models, +14.9 % to +32.9 % over TP+TP")
    record = origin_of(__file__).head | {
        "paper_range": PAPER_RANGE,
        "rows": rows,
    }
    write_record(record, RESULT)


if __name__ == "__main__":
    main()
