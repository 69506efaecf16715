"""Times one layer: every operator as it runs in the layer, then whole passes as they follow one another."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import torch
from torch import Tensor

from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.layer_cost import Terms
from meshwright.costmodel.order.launch_order import LayerOrder, PassKind
from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.context import AttentionKernel, LayerContext, RoutingChoice
from meshwright.executor.layer.groups import LayerGroups
from meshwright.executor.layer.order import on_streams
from meshwright.executor.layer.parameter_list import layer_parameters
from meshwright.executor.layer.parameters import Parameters, full_weights, own_weights
from meshwright.executor.layer.run import Around, LayerRunner, MicroBatch
from meshwright.executor.layer.stream_plan import plan_streams
from meshwright.executor.layer.streams import Streams
from meshwright.executor.layer_timing.cases import Case
from meshwright.executor.layer_timing.clock import Mark, OperatorClock, label, let_host_run_ahead, wait_for
from meshwright.executor.layer_timing.output_check import output_error, own_tokens
from meshwright.executor.layer_timing.prediction import LayerPrediction
from meshwright.executor.layer_timing.record import LayerTimes, OperatorTimes, OverlappedPass, PassTimes
from meshwright.kernels.checking.spread import Spread, spread

WARM_UP_PASSES = 5
OUTPUT_ERROR_LIMIT = 0.03
WEIGHT_SEED, INPUT_SEED = 11, 12

RunPass = Callable[[MicroBatch, PassKind], None]
"""Runs a pass of a micro-batch otherwise than on one stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingChoice:
    """How a layer is run and timed."""

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    attention_kernel: AttentionKernel = AttentionKernel.CUDNN
    fuse: bool = False
    balanced: bool = True
    passes: int = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """An order whose passes are timed on streams, too, with their prediction."""

    streams: Streams
    order: LayerOrder
    prediction: LayerPrediction


def measure_layer(
    case: Case,
    choice: TimingChoice,
    groups: LayerGroups,
    replica: int,
    predict: Callable[[Case], LayerPrediction],
    overlap: Overlap | None = None,
) -> LayerTimes:
    """The times of one layer on this rank. `replica` numbers the micro-batches that ranks run side by side."""
    context = LayerContext(
        layer=case.layer,
        setting=case.setting,
        device=choice.device,
        dtype=choice.dtype,
        groups=groups,
        attention_kernel=choice.attention_kernel,
        routing=RoutingChoice(balanced=choice.balanced),
        fuse=choice.fuse,
    )
    specs = layer_parameters(case.layer, case.setting.hidden)
    full = full_weights(specs, choice.device, choice.dtype, WEIGHT_SEED)
    runner = LayerRunner(case.program, context, Parameters(own_weights(specs, full, groups)))
    hidden, upstream = _inputs(case, choice, replica)
    error = output_error(runner, hidden, full)
    if not error <= OUTPUT_ERROR_LIMIT:
        raise MeshwrightError(f"{case.title}: the output is {error:.2%} off the float32 reference")
    del full
    runs = _Runs(runner, own_tokens(hidden, context), own_tokens(upstream, context))
    times = _times(case, choice, runs, error, predict(case))
    return times if overlap is None else _with_overlap(times, choice, runs, overlap)


def _inputs(case: Case, choice: TimingChoice, replica: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(choice.device).manual_seed(INPUT_SEED + replica)
    setting = case.setting
    shape = (setting.seq_len * setting.micro_batch, setting.hidden)
    both = torch.randn((2, *shape), generator=generator, device=choice.device, dtype=torch.float32)
    return both[0].to(choice.dtype), (both[1] * setting.hidden**-0.5).to(choice.dtype)


class _Runs:
    """Passes of a layer over the same input."""

    def __init__(self, runner: LayerRunner, hidden: Tensor, upstream: Tensor) -> None:
        self.runner = runner
        self.device = hidden.device
        self._hidden = hidden
        self._upstream = upstream

    def once(self, around: Around | None = None, run: RunPass | None = None) -> tuple[Mark, Mark, Mark]:
        """A forward and a backward; marks before, between and after. `run` None: one operator after another."""
        runner = self.runner
        runner.parameters.clear_gradients()
        start = Mark(self.device)
        batch = runner.start(self._hidden)
        run = partial(self._one_by_one, around) if run is None else run
        run(batch, PassKind.FORWARD)
        middle = Mark(self.device)
        batch.put_output_gradient(self._upstream)
        run(batch, PassKind.BACKWARD)
        return start, middle, Mark(self.device)

    def _one_by_one(self, around: Around | None, batch: MicroBatch, kind: PassKind) -> None:
        batch.run(self.runner.forward if kind is PassKind.FORWARD else self.runner.backward, around)

    def issue_s(self) -> float:
        """What the host takes to issue a forward and a backward to an idle device, at most."""
        wait_for(self.device)
        start_s = time.perf_counter()
        self.once()
        seconds = time.perf_counter() - start_s
        wait_for(self.device)
        return seconds

    def operators(self, passes: int) -> OperatorClock:
        """Every operator of so many passes; the host is ahead, so that no operator waits for its launch."""
        clock = OperatorClock(self.device)
        ahead_s = 1.5 * self.issue_s()
        for _ in range(passes):
            let_host_run_ahead(self.device, ahead_s)
            self.once(clock.around)
            wait_for(self.device)
        return clock

    def whole(self, passes: int, run: RunPass | None = None) -> tuple[Spread, Spread]:
        """Whole forwards and backwards, one after another as in training: nothing waits for the device."""
        wait_for(self.device)
        marks = [self.once(run=run) for _ in range(passes + 2)][2:]
        wait_for(self.device)
        forward = spread([start.seconds_until(middle) for start, middle, _ in marks])
        return forward, spread([middle.seconds_until(end) for _, middle, end in marks])


def _times(case: Case, choice: TimingChoice, runs: _Runs, error: float, prediction: LayerPrediction) -> LayerTimes:
    runner, setting = runs.runner, case.setting
    on_cuda = choice.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(choice.device)
    for _ in range(WARM_UP_PASSES):
        runs.once()
    reads_before = runner.host.count
    clock = runs.operators(choice.passes)
    host_reads = (runner.host.count - reads_before) // (choice.passes + 1)
    forward, backward = runs.whole(choice.passes)
    operators = tuple(_operator_times(op, clock, prediction) for op in (*runner.forward, *runner.backward))
    num_forward = len(runner.forward)
    return LayerTimes(
        model=case.model,
        strategy=case.strategy_name,
        tp=setting.strategy.tp,
        sp=setting.strategy.sp,
        ffn_tp=setting.strategy.ffn_tp,
        ep=setting.strategy.ep,
        dispatch=setting.strategy.dispatch,
        seq_len=setting.seq_len,
        micro_batch=setting.micro_batch,
        num_experts=case.num_experts,
        num_experts_of_model=case.num_experts_of_model,
        balanced_routing=choice.balanced,
        attention_kernel=choice.attention_kernel.value,
        fused_kernels=choice.fuse,
        parameters=sum(weight.numel() for weight in runner.parameters.weights.values()),
        passes=choice.passes,
        output_error=error,
        host_reads=host_reads,
        peak_memory_bytes=torch.cuda.max_memory_allocated(choice.device) if on_cuda else 0,
        forward=_pass_times(forward, operators[:num_forward], prediction.forward),
        backward=_pass_times(backward, operators[num_forward:], prediction.backward),
        operators=operators,
    )


def _with_overlap(times: LayerTimes, choice: TimingChoice, runs: _Runs, overlap: Overlap) -> LayerTimes:
    """The times, with those of the passes on streams."""
    planned = {}
    for kind, operators in ((PassKind.FORWARD, runs.runner.forward), (PassKind.BACKWARD, runs.runner.backward)):
        order = overlap.order.of(kind)
        assert order is not None  # both are ordered
        planned[kind] = plan_streams(on_streams(operators, order))

    def run(batch: MicroBatch, kind: PassKind) -> None:
        batch.run_on(overlap.streams, planned[kind])

    for _ in range(WARM_UP_PASSES):
        runs.once(run=run)
    forward, backward = runs.whole(choice.passes, run)
    return msgspec.structs.replace(
        times,
        overlapped_forward=OverlappedPass(measured=forward, predicted_s=overlap.prediction.forward.total_s),
        overlapped_backward=OverlappedPass(measured=backward, predicted_s=overlap.prediction.backward.total_s),
    )


def _operator_times(operator: Operator, clock: OperatorClock, prediction: LayerPrediction) -> OperatorTimes:
    predicted = prediction.timing_of(operator)
    return OperatorTimes(
        name=label(operator),
        module=operator.module,
        phase=operator.phase,
        kind=str(operator.work.__struct_config__.tag),
        measured=clock.spread_of(operator),
        predicted_s=predicted.time_s,
        basis=predicted.basis,
        host_measured_s=clock.host_median_s(operator),
        host_predicted_s=prediction.host_s_of(operator),
    )


def _pass_times(measured: Spread, operators: tuple[OperatorTimes, ...], predicted: Terms) -> PassTimes:
    return PassTimes(
        measured=measured,
        operators_s=sum(op.measured.median_s for op in operators),
        host_measured_s=sum(op.host_measured_s for op in operators),
        predicted_s=predicted.total_s,
        predicted_host_s=predicted.host_s,
    )
