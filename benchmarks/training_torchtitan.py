"""Training steps of torchtitan on the GPUs of this host: the same models, tokens and batches as training.py has.

    python benchmarks/training_torchtitan.py                 all settings, balanced; the best of them natural, too
    python benchmarks/training_torchtitan.py --only qwen3    cases whose name contains this

Needs `pip install torchtitan==0.2.2`. Models are flavors of its qwen3 family, described by our presets; it trains
sequences of 4,096 random tokens with its own trainer, optimizer and clipping as they are by default (FP32 masters,
AdamW, fused), nothing recomputed. Settings: experts sharded by FSDP or over EP 2, compiled or not, FSDP keeps its
weights after the forward or gathers them again. A step's time is the median behind the first three, by events at the
ends of the steps.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.value import Value
from meshwright.planner.dated_record import exit_status, origin_of, read_record, write_record

FRAMEWORK = "torchtitan"
SEQ_LEN = 4096
STEPS = 16
WARM_UP_STEPS = 3
RUN_LIMIT_S = 300


class Case(Value, frozen=True, kw_only=True):
    """A preset of so many layers, its numerics, and the sequences a GPU a step."""

    name: str
    preset: str
    num_layers: int
    sequences_per_gpu: int
    norm_epsilon: float
    rope_theta: float


CASES = (
    Case(
        name="mixtral-8x7b-4",
        preset="mixtral-8x7b",
        num_layers=4,
        sequences_per_gpu=2,
        norm_epsilon=1e-5,
        rope_theta=1e6,
    ),
    Case(
        name="qwen3-30b-a3b-8",
        preset="qwen3-30b-a3b",
        num_layers=8,
        sequences_per_gpu=4,
        norm_epsilon=1e-6,
        rope_theta=1e6,
    ),
)


class Setting(Value, frozen=True, kw_only=True):
    """What of torchtitan's configuration differs from its defaults."""

    ep: int
    compiled: bool
    reshard_after_forward: str
    balanced: bool = True

    @property
    def title(self) -> str:
        """In a line of print."""
        experts = f"EP {self.ep}" if self.ep > 1 else "FSDP"
        compiled = "compiled" if self.compiled else "eager"
        routing = "" if self.balanced else ", natural routing"
        return f"{experts}, {compiled}, reshard {self.reshard_after_forward}{routing}"


SETTINGS = (
    Setting(ep=2, compiled=True, reshard_after_forward="never"),
    Setting(ep=2, compiled=False, reshard_after_forward="never"),
    Setting(ep=1, compiled=True, reshard_after_forward="never"),
    Setting(ep=1, compiled=True, reshard_after_forward="default"),
)


class Measured(Value, frozen=True, kw_only=True):
    """What the first rank of a run found."""

    torchtitan: str
    torch: str
    device: str
    step_times_s: tuple[float, ...]
    peak_memory_bytes: int

    @property
    def step_time_s(self) -> float:
        """The median step behind the warm-up."""
        return statistics.median(self.step_times_s[WARM_UP_STEPS:])


def main() -> int:
    """Run all settings of the cases, or be one rank of a run."""
    options = _options()
    if options.rank_of is not None:
        name, setting = options.rank_of
        case = next(case for case in CASES if case.name == name)
        run_rank(case, msgspec.json.decode(setting, type=Setting), options.output)
        return 0
    rows: list[dict[str, object]] = []
    record: dict[str, object] = origin_of(__file__).head | {"gpus": options.gpus, "rows": rows}
    for case in CASES:
        if options.only not in case.name:
            continue
        measured: dict[Setting, Measured] = {}
        for setting in SETTINGS:
            _measure(case, setting, options.gpus, rows, measured)
            write_record(record, options.output)
        if measured:
            best = min(measured, key=lambda setting: measured[setting].step_time_s)
            _measure(case, msgspec.structs.replace(best, balanced=False), options.gpus, rows, measured)
            write_record(record, options.output)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".json"), help="the record")
    parser.add_argument("--rank-of", nargs=2, metavar=("CASE", "SETTING"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(
    case: Case, setting: Setting, num_gpus: int, rows: list[dict[str, object]], measured: dict[Setting, Measured]
) -> None:
    """Run, print, and add to both; a run that failed is a row with the end of what it said."""
    row: dict[str, object] = {"case": case.name, "setting": setting}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_gpus}"]
        command += [__file__, "--rank-of", case.name, msgspec.json.encode(setting).decode(), "-o", str(result)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            rows.append(row | {"failed": [f"took longer than {RUN_LIMIT_S} s"]})
            print(f"{case.name}, {setting.title}: took longer than {RUN_LIMIT_S} s")
            return
        if done.returncode or not result.exists():
            said = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line][:8]
            rows.append(row | {"failed": said})
            print(f"{case.name}, {setting.title}: failed", *said, sep="\n  ")
            return
        found = read_record(result, Measured)
    measured[setting] = found
    tokens_per_s_per_gpu = case.sequences_per_gpu * SEQ_LEN / found.step_time_s
    rows.append(
        row | {"tokens_per_s_per_gpu": tokens_per_s_per_gpu, "step_time_s": found.step_time_s, "measured": found}
    )
    print(
        f"{case.name}, {setting.title}: {found.step_time_s * 1e3:.1f} ms, {tokens_per_s_per_gpu:,.0f} tokens/s a GPU, "
        f"peak {found.peak_memory_bytes / 2**30:.1f} GiB"
    )


def run_rank(case: Case, setting: Setting, result: Path) -> None:
    """One rank of torchtitan's own trainer; the first writes what it measured."""
    import torch

    _without_datasets()
    job = _torchtitan("config").ConfigManager().parse_args(_arguments(case, setting, result.parent))
    _register(case)
    trainer = _timed_trainer()(job)
    trainer.train()
    torch.cuda.synchronize()
    if torch.distributed.get_rank() == 0:
        times_s = tuple(start.elapsed_time(end) / 1e3 for start, end in pairwise(trainer.step_ends))
        measured = Measured(
            torchtitan=importlib.metadata.version(FRAMEWORK),
            torch=str(torch.__version__),
            device=torch.cuda.get_device_name(),
            step_times_s=times_s,
            peak_memory_bytes=torch.cuda.max_memory_allocated(),
        )
        write_record(measured, result)
    trainer.close()
    torch.distributed.destroy_process_group()


def _torchtitan(name: str) -> Any:  # noqa: ANN401 (its types are not known where it is not installed)
    return importlib.import_module(f"{FRAMEWORK}.{name}")


def _without_datasets() -> None:
    """Its text data sets need the package `datasets`, which random tokens do not."""
    if importlib.util.find_spec("datasets") is not None:
        return
    members = {"datasets": ("Dataset", "load_dataset"), "datasets.distributed": ("split_dataset_by_node",)}
    for name, names in members.items():
        module = ModuleType(name)
        module.__dict__.update(dict.fromkeys(names))
        sys.modules[name] = module


def _arguments(case: Case, setting: Setting, folder: Path) -> list[str]:
    arguments = {
        "model.name": case.name,
        "model.flavor": case.name,
        "training.local_batch_size": case.sequences_per_gpu,
        "training.seq_len": SEQ_LEN,
        "training.steps": STEPS,
        "lr_scheduler.warmup_steps": 2,
        "parallelism.expert_parallel_degree": setting.ep,
        "parallelism.fsdp_reshard_after_forward": setting.reshard_after_forward,
        "activation_checkpoint.mode": "none",
        "metrics.log_freq": 1_000_000,
        "job.dump_folder": folder,
    }
    words = [word for option, value in arguments.items() for word in (f"--{option}", str(value))]
    if setting.compiled:
        words.append("--compile.enable")
    if setting.balanced:
        words.append("--debug.moe_force_load_balance")
    return words


def _register(case: Case) -> None:
    """The case's model as a flavor of torchtitan's qwen3, fed with random tokens."""
    qwen3 = _torchtitan("models.qwen3")
    model = load_model(case.preset)
    attention, ffn = model.layers[0].attention, model.layers[0].ffn
    assert isinstance(ffn, MoeFfnSpec)
    experts = _torchtitan("models.moe").MoEArgs(
        num_experts=ffn.num_experts,
        num_shared_experts=0,
        top_k=ffn.top_k,
        score_func=ffn.score.value,
        route_norm=True,
        score_before_experts=False,
    )
    flavor = qwen3.Qwen3ModelArgs(
        dim=model.hidden,
        n_layers=case.num_layers,
        n_heads=attention.num_heads,
        n_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        qk_norm=attention.qk_norm,
        vocab_size=model.vocab,
        norm_eps=case.norm_epsilon,
        rope_theta=case.rope_theta,
        max_seq_len=SEQ_LEN,
        enable_weight_tying=model.tied_embeddings,
        moe_enabled=True,
        moe_inter_dim=ffn.intermediate,
        moe_args=experts,
    )
    specification = qwen3.get_train_spec()
    specification.model_args = {case.name: flavor}
    specification.build_tokenizer_fn = None
    specification.build_dataloader_fn = _random_tokens(model.vocab, case.sequences_per_gpu)
    specification.state_dict_adapter = None
    _torchtitan("protocols.train_spec").register_train_spec(case.name, specification)


def _random_tokens(vocab: int, num_sequences: int) -> Callable[..., Any]:
    """What builds a loader of uniformly random tokens, another stream a data rank."""
    import torch

    class Loader(_torchtitan("components.dataloader").BaseDataLoader):  # type: ignore[misc]
        def __init__(self, *, dp_rank: int, **_: object) -> None:
            self._generator = torch.Generator().manual_seed(dp_rank)

        def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
            while True:
                tokens = torch.randint(vocab, (num_sequences, SEQ_LEN + 1), generator=self._generator)
                yield {"input": tokens[:, :-1].contiguous()}, tokens[:, 1:].contiguous()

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    return Loader


def _timed_trainer() -> Any:  # noqa: ANN401 (its types are not known where it is not installed)
    """Its trainer, with an event behind each step."""
    import torch

    class Timed(_torchtitan("train").Trainer):  # type: ignore[misc]
        def train_step(self, data_iterator: Iterator[Any]) -> None:
            if self.step == 1:
                self.step_ends = [_event()]
            super().train_step(data_iterator)
            self.step_ends.append(_event())

    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return Timed


if __name__ == "__main__":
    sys.exit(exit_status(main, __file__))
