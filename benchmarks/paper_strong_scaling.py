"""The paper's strong-scaling table beside our predictions: 352B MoE, H800, 720 sequences a step (arXiv 2505.11432).

    .venv/bin/python benchmarks/paper_strong_scaling.py

Prints the table, and writes it with its date beside this file. Runs in about two seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from meshwright.planner.dated_record import origin_of, write_record
from meshwright.planner.validation.rows import TrainingRow, packaged_path, parse_row, read_table
from meshwright.planner.validation.run_description import describe
from meshwright.planner.validation.validation import predicted_step_s

MODEL = "internal-352b"
SYSTEMS = {"megascale-moe": "MegaScale-MoE", "megatron": "Megatron-LM"}
RESULT = Path(__file__).with_suffix(".json")


def paper_rows() -> list[TrainingRow]:
    """The paper's ten runs: five sizes, two systems."""
    return [parse_row(text) for text in read_table(packaged_path()) if text.cells["model"] == MODEL]


def compare(row: TrainingRow) -> dict[str, object]:
    """One run, measured and predicted."""
    measured_s = row.global_batch * row.seq_len / row.num_gpus / row.tokens_per_s_per_gpu
    predicted_s = predicted_step_s(describe(row))
    return {
        "system": SYSTEMS[row.framework],
        "gpus": row.num_gpus,
        "measured_s": round(measured_s, 3),
        "predicted_s": round(predicted_s, 3),
        "error": round(predicted_s / measured_s - 1.0, 4),
    }


def main() -> None:
    """Print the table and write the record."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    runs = sorted((compare(row) for row in paper_rows()), key=lambda run: (str(run["system"]), run["gpus"]))
    print("system         GPUs   paper [s]  predicted [s]   error")
    for run in runs:
        print(
            f"{run['system']:14s} {run['gpus']:5d}   {run['measured_s']:9.2f}  {run['predicted_s']:13.2f}"
            f"  {run['error']:+6.1%}"
        )
    record = origin_of(__file__).head | {"runs": runs}
    write_record(record, RESULT)


if __name__ == "__main__":
    main()
