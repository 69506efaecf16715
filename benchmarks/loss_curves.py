"""Loss curves of a small mixture of experts: on one rank, and on two as planned, with and without compression.

    python benchmarks/loss_curves.py                            on a host with two GPUs
    python benchmarks/loss_curves.py --device cpu --steps 20    anywhere, docs/tiny_moe.json: a try
    python benchmarks/loss_curves.py --plot FILE.json           draws a record, and nothing else

Every run starts from the same weights and sees the same tokens of `markov`, a random chain, in the same steps; only the
plan differs. Curves of 16-bit training part by rounding alone: `difference` says by how much, as the mean over the last
tenth of the steps. Writes a JSON of all losses and, beside it, a plot.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from meshwright.costmodel.value import Value
from meshwright.planner.dated_record import exit_status, origin_of, read_record, write_record

MODEL: dict[str, object] = {
    "model_type": "qwen3_moe",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 4096,
    "tie_word_embeddings": False,
    "moe_intermediate_size": 384,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "attention_bias": False,
    "use_sliding_window": False,
}
TINY_MODEL = Path(__file__).parent.parent / "docs" / "tiny_moe.json"
SEQ_LEN = {"cuda": 512, "cpu": 64}
GLOBAL_BATCH = 16
RUN_LIMIT_S = 300
LAST = 0.1
WINDOW_STEPS = 10


class Curve(Value, frozen=True, kw_only=True):
    """A run: its plan's GPUs and pins, and the runtime, which says in how many bytes gradients travel."""

    name: str
    gpus: int
    fixes: str
    runtime: str


SPREAD = "pp=1,ep=2,dispatch=alltoall,zero=1"
CURVES = (
    Curve(name="one rank", gpus=1, fixes="mbs=16", runtime="meshwright"),
    Curve(name="two ranks, EP 2, gradients in FP32", gpus=2, fixes=SPREAD, runtime="megatron"),
    Curve(name="two ranks, EP 2, gradients in BF16", gpus=2, fixes=SPREAD, runtime="meshwright"),
    Curve(
        name="two ranks, EP 2, gradients in BF16, activations in FP8 on the wire",
        gpus=2,
        fixes=f"{SPREAD},wire=fp8",
        runtime="meshwright",
    ),
    Curve(name="two ranks, DP 2, gradients in BF16", gpus=2, fixes="pp=1,dp=2,ep=1,zero=1", runtime="meshwright"),
)


def main() -> int:
    """Plan, train, record and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--plot", type=Path, help="draw this record, and nothing else")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if options.plot is not None:
        draw(read_record(options.plot, dict[str, object]), options.plot.with_suffix(".svg"))
        return 0
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        for curve in CURVES:
            start = time.monotonic()
            curves.append(trained(curve, options, Path(folder)))
            print(f"{curve.name}: {options.steps} steps, {time.monotonic() - start:.0f} s", file=sys.stderr)
    record = origin_of(__file__).head | {
        "model": _model(options.device),
        "sequence": SEQ_LEN[options.device],
        "global_batch": GLOBAL_BATCH,
        "curves": curves,
    }
    write_record(record, options.output, indent=0)
    draw(record, options.output.with_suffix(".svg"))
    for curve in curves:
        print(f"{curve['name']}: last tenth {curve['last_loss']:.4f}, off the first by {curve_off(curve, curves):+.4f}")
    return 0


def trained(curve: Curve, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The losses of a run, with what ran it."""
    config, plan, run = folder / "config.json", folder / "plan.json", folder / "run"
    config.write_text(json.dumps(_model(options.device)))
    workload = [
        "--global-batch",
        str(GLOBAL_BATCH),
        "--seq-len",
        str(SEQ_LEN[options.device]),
        "--gpus",
        str(curve.gpus),
    ]
    choices = ["--fix", curve.fixes, "--runtime", curve.runtime, "-o", str(plan)]
    _meshwright("plan", str(config), "--cluster", "h100", *workload, *choices)
    data = ["--data", "markov", "--learning-rate", "0.001", "--warm-up-steps", str(options.steps // 10)]
    _meshwright("run", str(plan), "--steps", str(options.steps), "--device", options.device, *data, "-o", str(run))
    losses = [json.loads(line)["loss"] for line in (run / "steps.jsonl").read_text().splitlines()]
    record = json.loads((run / "run.json").read_text())
    return {
        "name": curve.name,
        "mesh": record["mesh"],
        "runtime": curve.runtime,
        "device": record["device"],
        "torch": record["torch"],
        "losses": [round(loss, 5) for loss in losses],
        "last_loss": mean_of_last(losses),
    }


def _model(device: str) -> dict[str, object]:
    return MODEL if device == "cuda" else json.loads(TINY_MODEL.read_text())


def _meshwright(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshwright", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
    )
    if done.returncode:
        sys.exit(f"meshwright {arguments[0]} failed:\n{done.stderr[-2000:]}")


def mean_of_last(losses: list[float]) -> float:
    """The mean of the last tenth."""
    last = losses[-max(1, round(LAST * len(losses))) :]
    return sum(last) / len(last)


def curve_off(curve: dict[str, object], curves: list[dict[str, object]]) -> float:
    """The last losses of a curve less those of the first."""
    own, first = curve["last_loss"], curves[0]["last_loss"]
    assert isinstance(own, float)
    assert isinstance(first, float)
    return own - first


def draw(record: dict[str, object], path: Path) -> None:
    """All curves, each smoothed over ten steps, and below how far they are off the first."""
    curves = record["curves"]
    assert isinstance(curves, list)
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    base = smooth(curves[0]["losses"])
    for curve in curves:
        losses = smooth(curve["losses"])
        steps = range(WINDOW_STEPS, WINDOW_STEPS + len(losses))
        above.plot(steps, losses, label=curve["name"], linewidth=1)
        below.plot(steps, [own - first for own, first in zip(losses, base, strict=True)], linewidth=1)
    above.set_ylabel(f"cross-entropy, mean of {WINDOW_STEPS} steps")
    above.legend()
    below.set_ylabel("less that on one rank")
    below.set_xlabel("step")
    figure.savefig(path, metadata={"Date": None})


def smooth(losses: list[float]) -> list[float]:
    """Means of ten steps in a row."""
    return [sum(losses[at : at + WINDOW_STEPS]) / WINDOW_STEPS for at in range(len(losses) - WINDOW_STEPS + 1)]


if __name__ == "__main__":
    sys.exit(exit_status(main, __file__))
