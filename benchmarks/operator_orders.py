"""Orders of operators, side by side: program order, the paper's hand order, solved.

    .venv/bin/python benchmarks/operator_orders.py

The six models of MegaScale-MoE (arXiv 2505.11432, table 2), each layer under {TP, SP} x {TP, EP by all-to-all, EP by
all-gather and reduce-scatter} on one node of 8 H800: 8,192 tokens, micro-batch 1, SAR. Forward, backward, and a forward
beside a backward. Prints milliseconds, and writes the figures with their date beside this file. Fails if a solved
order is worse than one of the others, or contradicts its bound. Seconds of solving are CPU seconds of one core. About
three minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from meshwright.costmodel.data_parallel import Sharding, StateModel
from meshwright.costmodel.layer_passes import LayerPasses
from meshwright.costmodel.order.bound import pass_bound_s
from meshwright.costmodel.order.launch_order import PassKind
from meshwright.costmodel.order.list_schedule import Fits
from meshwright.costmodel.order.ordered_pass import serial_timeline
from meshwright.costmodel.order.pass_problem import PassProblem
from meshwright.costmodel.order_memory import order_memory
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.runtime import RuntimeSpec, load_runtime
from meshwright.costmodel.stage_cost import CostContext
from meshwright.costmodel.strategy import Dispatch, LayerStrategy, Mesh, Recompute
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.dated_record import origin_of, write_record
from meshwright.planner.operator_order import solve_pass
from meshwright.planner.operator_order.hand_order import hand_order

RESULT = Path(__file__).with_suffix(".json")
MODELS = ("internal-352b", "mixtral-8x7b", "mixtral-8x22b", "hunyuan-large", "phi-3.5-moe", "deepseek-moe-16b")
STRATEGIES = {
    "TP+TP": LayerStrategy(tp=8, ffn_tp=8, etp=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.SELECTIVE),
    "TP+EP a2a": LayerStrategy(tp=8, ep=8, recompute=Recompute.SELECTIVE),
    "TP+EP ag/rs": LayerStrategy(tp=8, ep=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.SELECTIVE),
    "SP+TP": LayerStrategy(sp=8, ffn_tp=8, etp=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.SELECTIVE),
    "SP+EP a2a": LayerStrategy(sp=8, ep=8, recompute=Recompute.SELECTIVE),
    "SP+EP ag/rs": LayerStrategy(sp=8, ep=8, dispatch=Dispatch.ALL_GATHER, recompute=Recompute.SELECTIVE),
}
"""Attention, then FFN. Shared experts go with the FFN: split over the ranks under TP, whole on each under EP."""
KINDS = (PassKind.FORWARD, PassKind.BACKWARD, PassKind.JOINT)
NUM_NODES, NUM_REPLAYS = 12_000, 2_000
SLACK = 1e-9


class PaperPass(NamedTuple):
    """One pass to be ordered, with what memory lets it be."""

    model: str
    strategy: str
    kind: PassKind
    problem: PassProblem
    fits: Fits


def paper_passes(runtime: RuntimeSpec) -> Iterator[PaperPass]:
    """Every pass of every layer."""
    cluster = load_cluster("h800").with_gpus(8)
    for name in MODELS:
        model = load_model(name)
        for title, strategy in STRATEGIES.items():
            mesh = Mesh(tp=strategy.tp, sp=strategy.sp, ep=strategy.ep, etp=strategy.etp)
            context = CostContext(
                model=model,
                cluster=cluster,
                workload=Workload(global_batch=32, seq_len=8192),
                runtime=runtime,
                state=StateModel(cluster=cluster, mesh=mesh, sharding=Sharding(), runtime=runtime),
                micro_batch=1,
                passes=LayerPasses.ALL,
            )
            layer = model.layers[-1]
            program, ordered = context.program(layer, strategy), context.ordered(layer, strategy)
            for kind in KINDS:
                memory = order_memory(program, strategy.recompute, kind)
                yield PaperPass(name, title, kind, ordered[kind].problem, memory.fits)


def measure(one: PaperPass) -> dict[str, object]:
    """One pass in all orders."""
    problem = one.problem
    start = time.process_time()
    solved = solve_pass(problem, one.fits, num_nodes=NUM_NODES, num_replays=NUM_REPLAYS)
    solve_s = time.process_time() - start
    serial_s = serial_timeline(problem).end_s
    hand_s, hand_fused_s = (hand_order(problem, fused=fused).total_s for fused in (False, True))
    total_s = solved.ordered.total_s
    title = f"{one.model} {one.strategy} {one.kind}"
    assert total_s <= serial_s * (1.0 + SLACK), f"{title}: worse than program order"
    assert total_s <= min(hand_s, hand_fused_s) * (1.0 + SLACK), f"{title}: worse than the order written by hand"
    assert total_s >= pass_bound_s(problem) * (1.0 - SLACK), f"{title}: below its bound"
    return {
        "model": one.model,
        "strategy": one.strategy,
        "pass": one.kind.value,
        "operators": len(problem.operators),
        "fused_pairs": len(problem.pairs),
        "program_order_s": serial_s,
        "hand_inter_operator_s": hand_s,
        "hand_intra_operator_s": hand_fused_s,
        "solved_s": total_s,
        "lower_bound_s": solved.lower_bound_s,
        "gap": solved.gap,
        "proven": solved.is_proven,
        "solve_s": round(solve_s, 3),
    }


def _line(row: dict[str, object]) -> str:
    times = ("program_order_s", "hand_inter_operator_s", "hand_intra_operator_s", "solved_s", "lower_bound_s")
    numbers = "  ".join(f"{1e3 * float(str(row[name])):8.3f}" for name in times)
    gap = "proven" if row["proven"] else f"{float(str(row['gap'])):6.2%}"
    return f"{row['model']:18s}{row['strategy']:13s}{row['pass']:10s}{numbers}  {gap:>7s}  {row['solve_s']:6.2f}"


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """How many are proven, how far the others may be from the best, what is gained."""

    def mean_ratio(name: str) -> float:
        return sum(float(str(row[name])) / float(str(row["solved_s"])) for row in rows) / len(rows)

    return {
        "passes": len(rows),
        "proven": sum(bool(row["proven"]) for row in rows),
        "worst_gap": max(float(str(row["gap"])) for row in rows),
        "longest_solve_s": max(float(str(row["solve_s"])) for row in rows),
        "program_order_over_solved": mean_ratio("program_order_s"),
        "hand_inter_operator_over_solved": mean_ratio("hand_inter_operator_s"),
        "hand_intra_operator_over_solved": mean_ratio("hand_intra_operator_s"),
    }


def main() -> None:
    """Print the table and write the record."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(
        f"{'model':18s}{'layer':13s}{'pass':10s}" + " program hand inter hand fused  solved   bound ms      gap  CPU s"
    )
    rows = []
    for one in paper_passes(load_runtime("meshwright")):
        rows.append(measure(one))
        print(_line(rows[-1]), flush=True)
    total = summary(rows)
    print(
        f"{total['proven']} of {total['passes']} proven the best, worst gap {total['worst_gap']:.2%}, longest solve"
        f" {total['longest_solve_s']:.2f} s; never worse than program order or the hand order.\n"
        f"Mean over solved: program order {total['program_order_over_solved']:.3f}, hand inter-operator"
        f" {total['hand_inter_operator_over_solved']:.3f}, hand intra-operator"
        f" {total['hand_intra_operator_over_solved']:.3f}"
    )
    record = origin_of(__file__).head | {
        "nodes": NUM_NODES,
        "replays": NUM_REPLAYS,
        "summary": total,
        "rows": rows,
    }
    write_record(record, RESULT)


if __name__ == "__main__":
    main()
