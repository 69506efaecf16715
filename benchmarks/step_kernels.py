"""What a rank does beside its products, in a training step of Qwen3-30B-A3B: as it runs, and the way it was before.

    python benchmarks/step_kernels.py [-o FILE.json]        one Hopper GPU, about a minute

Gradients into FP32 sums, the update, the sum of an exchange's parts, the loss. Timed as `kernels/checking/timing.py`
has it: CUDA graphs over rotating inputs larger than the cache, medians. `share` is the bytes that must move over the
time, as a share of what a copy reaches in this run; a product also has its arithmetic to do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from meshwright.costmodel.value import Value
from meshwright.executor.layer.bindings.cross_entropy import gradient_fused, statistics_fused
from meshwright.executor.layer.functions.compiled import compiled, compiled_for_any_length
from meshwright.executor.layer.functions.grouped import grouped_wgrad
from meshwright.executor.layer.functions.sums import WIDTH, add_gradient, add_product, summed
from meshwright.executor.layer_timing.machine import describe_machine
from meshwright.executor.state.adamw import UpdateNumbers, updated
from meshwright.kernels.checking.timing import copy_bytes_per_s, time_works
from meshwright.planner.dated_record import origin_of, write_record

TOKENS, HIDDEN, QKV, VOCABULARY = 8192, 2048, 5120, 151_936
EXPERTS, TOP_K, FC1 = 128, 8, 1536
BUFFER = 2**28
DEVICE = torch.device("cuda")
Work = Callable[[], object]


class Row(Value, frozen=True, kw_only=True):
    """Seconds of one piece of work as it runs and as it was, and the bytes that it must move."""

    name: str
    num_bytes: int
    median_s: float
    before_s: float


def main() -> int:
    """Time, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path)
    output = parser.parse_args().output
    copied = copy_bytes_per_s(DEVICE)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: a copy reaches {copied / 1e12:.2f} TB/s")
    print(f"{'':34}{'us':>9}{'share':>8}{'before us':>11}")
    rows = []
    for name, num_bytes, now, before in _cases():
        with torch.no_grad():
            row = Row(
                name=name,
                num_bytes=num_bytes,
                median_s=time_works(now).median_s,
                before_s=time_works(before).median_s,
            )
        share = num_bytes / row.median_s / copied
        print(f"{name:34}{row.median_s * 1e6:9.1f}{share:8.0%}{row.before_s * 1e6:11.1f}", flush=True)
        rows.append({field: getattr(row, field) for field in row.__struct_fields__})
        torch.cuda.empty_cache()
    if output is not None:
        record = origin_of(__file__).head | {
            "machine": describe_machine(DEVICE, 1),
            "copy_bytes_per_s": copied,
            "rows": rows,
        }
        write_record(record, output)
    return 0


Case = tuple[str, int, Sequence[Work], Sequence[Work]]


def _cases() -> Iterator[Case]:
    yield from _sums()
    yield from _products()
    yield _grouped()
    yield _update()
    yield _exchange()
    yield from _loss()


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=dtype)


def _sums() -> Iterator[Case]:
    shape = (EXPERTS, FC1, HIDDEN)
    pairs = [(_random(*shape, dtype=torch.float32), _random(*shape)) for _ in range(2)]
    count = pairs[0][0].numel()
    first = [partial(add_gradient, total, gradient, restarts=True) for total, gradient in pairs]
    yield "experts' gradients, first", 6 * count, first, [partial(total.copy_, one) for total, one in pairs]
    later = [partial(add_gradient, total, gradient, restarts=False) for total, gradient in pairs]
    yield "experts' gradients, added", 10 * count, later, [partial(total.add_, one) for total, one in pairs]


def _products() -> Iterator[Case]:
    for name, width in (("qkv", QKV), ("head", VOCABULARY)):
        sets = [
            (_random(width, HIDDEN, dtype=torch.float32), _random(TOKENS, width), _random(TOKENS, HIDDEN))
            for _ in range(2)
        ]
        num_bytes = 2 * TOKENS * (width + HIDDEN) + 8 * width * HIDDEN
        now = [partial(add_product, total, grad.t(), rows, restarts=False) for total, grad, rows in sets]
        yield f"wgrad of {name}, added", num_bytes, now, [partial(_multiply_and_add, *one) for one in sets]


def _multiply_and_add(total: Tensor, grad: Tensor, rows: Tensor) -> None:
    total.add_(grad.t() @ rows)


def _grouped() -> Case:
    rows = TOKENS * TOP_K
    offsets = torch.arange(1, EXPERTS + 1, device=DEVICE, dtype=torch.int32) * (rows // EXPERTS)
    total = _random(EXPERTS, FC1, HIDDEN, dtype=torch.float32)
    sets = [(_random(rows, FC1), _random(rows, HIDDEN)) for _ in range(2)]

    def now(grad: Tensor, inputs: Tensor) -> None:
        add_gradient(total, grouped_wgrad(grad, inputs, offsets), restarts=False)

    def before(grad: Tensor, inputs: Tensor) -> None:
        total.add_(grouped_wgrad(grad, inputs, offsets))

    num_bytes = 2 * rows * (FC1 + HIDDEN) + (2 + 10) * total.numel()
    return (
        "wgrad of experts, added",
        num_bytes,
        [partial(now, *one) for one in sets],
        [partial(before, *one) for one in sets],
    )


def _update() -> Case:
    wide = [_random(BUFFER, dtype=torch.float32) for _ in range(4)]
    master, mean, mean_square, gradient = wide
    mean_square.square_()
    weights, step = _random(BUFFER), torch.ones((), device=DEVICE)
    numbers = UpdateNumbers(
        scale=0.5, learning_rate=1e-4, weight_decay=0.1, number=2, betas=(0.9, 0.95), epsilon=1e-8
    ).changing(master)
    rows = tuple(tensor.view(-1, WIDTH) for tensor in (master, mean, mean_square, weights, gradient))

    def now() -> None:
        compiled_for_any_length(updated)(rows, numbers, (0.9, 0.95), 1e-8)

    def before() -> None:
        gradient.mul_(0.999)
        torch._fused_adamw_(
            [master],
            [gradient],
            [mean],
            [mean_square],
            [],
            [step],
            lr=1e-4,
            beta1=0.9,
            beta2=0.95,
            weight_decay=0.1,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        weights.copy_(master)

    return "update of a buffer", 30 * BUFFER, [now, now], [before, before]


def _exchange() -> Case:
    parts = [_random(2, BUFFER // 2) for _ in range(2)]
    now = [partial(summed, one, torch.float32) for one in parts]
    before = [partial(torch.sum, one, 0, dtype=torch.float32) for one in parts]
    return "sum of two ranks' parts", (2 + 2 + 4) * BUFFER // 2, now, before


def _loss() -> Iterator[Case]:
    logits = _random(TOKENS, VOCABULARY)
    labels = torch.randint(VOCABULARY, (TOKENS,), device=DEVICE)
    elsewhere = torch.zeros(TOKENS, dtype=torch.bool, device=DEVICE)
    forward = partial(compiled(statistics_fused), logits, labels, elsewhere)
    eager = partial(statistics_fused, logits, labels, elsewhere)
    yield "loss", 2 * logits.numel(), [forward, forward], [eager, eager]
    statistics = statistics_fused(logits, labels, elsewhere)
    given = (logits, statistics, labels, elsewhere, 1e-4, torch.bfloat16)
    backward, eager = partial(compiled(gradient_fused), *given), partial(gradient_fused, *given)
    yield "gradient of the loss", 4 * logits.numel(), [backward, backward], [eager, eager]


if __name__ == "__main__":
    sys.exit(main())
