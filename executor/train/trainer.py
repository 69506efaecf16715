"""One rank's training: a step from tokens to updated weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.costmodel.beside import runs_beside
from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.model import MoeFfnSpec
from meshwright.costmodel.stage_cost import ends_of
from meshwright.costmodel.step import schedule_of
from meshwright.executor.data.source import TokenSource
from meshwright.executor.layer.collectives import all_reduce
from meshwright.executor.layer.cuda_streams import CudaStreams
from meshwright.executor.layer.streams import Streams
from meshwright.executor.model.build import RankModel, end_devices
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens, own_tokens
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.model.sm_shares import strategy_sms
from meshwright.executor.observe.observer import StepObserver
from meshwright.executor.observe.whereabouts import Whereabouts
from meshwright.executor.pipeline.mailbox import Mailbox, empty_hidden
from meshwright.executor.pipeline.run import PipelineDevice
from meshwright.executor.pipeline.slot_times import agreed_slot_times_s, planned_slot_times_s
from meshwright.executor.ranks.communicators import Communicators
from meshwright.executor.ranks.place import Place
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.norm import own_square_sum
from meshwright.executor.state.optimizer import AdamWSettings, Optimizer
from meshwright.executor.stopwatch import StepPart
from meshwright.executor.train.expert_balance import balance_experts
from meshwright.executor.train.refusals import check_runs
from meshwright.executor.train.routing_totals import RoutingTotals
from meshwright.executor.train.step_tokens import StepTokens

NUM_FIGURES = 8
"""That all ranks tell each other at the end of a step, beside what exchanges have needed."""


class LossError(MeshwrightError):
    """The loss or the norm of the gradients is not a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step has shown, the same on all ranks. `expert_load`: busiest expert over mean, 0 without experts.

    `loss` is that of the tokens alone; `aux_loss` (of even loads of experts) and `z_loss` are trained for beside it.
    `dropped_fraction`: choices of experts beyond their capacity over all.
    `skipped`: the weights were left as they were, because loss or norm were not finite. `repeated`: ranks had to
    exchange more rows than they had room for, and the step was done once more. `stop_asked`: some rank was asked to end
    the run.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    expert_load: float
    skipped: bool = False
    repeated: bool = False
    stop_asked: bool = False
    aux_loss: float = 0.0
    z_loss: float = 0.0
    dropped_fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingChoices:
    """What a plan leaves open.

    `one_stream`: operators of layers run one after another, for comparison. `bias_speed`: by how much a step moves the
    biases that balance experts. `has_room`: ranks exchange tokens in messages with room for more than they have needed
    lately, so that no host waits to know how many there are.
    """

    numerics: Numerics
    learning_rate: LearningRate
    optimizer: AdamWSettings = field(default_factory=AdamWSettings)
    seed: int = 0
    skip_not_finite: bool = False
    one_stream: bool = False
    bias_speed: float = 0.0
    has_room: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Totals:
    """Over all ranks: mean loss, squared norm of the gradients, losses of the router, choices dropped, greatest expert
    load, whether any is asked to stop, whether any had too little room. needed_rows: by any rank of this stage.
    """

    loss: float
    square_sum: float
    aux_loss: float
    z_loss: float
    num_dropped: float
    expert_load: float
    stop_asked: bool
    overflowed: bool
    needed_rows: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passes:
    """What all passes of a step have found: gradients of this rank's shards, choices of experts by layer, totals."""

    gradients: list[Tensor]
    chosen: dict[str, Tensor]
    totals: _Totals


class Trainer:
    """Trains a configuration on rank `rank` of its mesh; where there are several, torch.distributed must be ready."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        rank: int,
        choices: TrainingChoices,
        tokens: TokenSource,
        whereabouts: Whereabouts | None = None,
    ) -> None:
        check_runs(configuration)
        self.configuration = configuration
        self.choices = choices
        strategies = (
            ends_of(configuration),
            *dict.fromkeys(s for stage in configuration.stages for s in stage),
        )
        self.watch = StepObserver(choices.numerics.device, whereabouts)
        streams = self._streams()
        self.communicators = Communicators(
            Place(mesh=configuration.mesh, rank=rank),
            strategies,
            end_devices(configuration),
            configuration.sharding,
            configuration.cluster.gpus_per_node,
            key_heads=(layer.attention.num_kv_heads for layer in configuration.model.layer_types),
            sms=() if streams is None else strategy_sms(configuration),
        )
        self._tokens = StepTokens(tokens, self._own_sequences(), choices.numerics.device)
        self._routing = RoutingTotals(choices.numerics.device)
        self.model = RankModel(
            configuration,
            self.communicators,
            choices.numerics,
            seed=choices.seed,
            routed=self._routing.add,
            watch=self.watch,
            streams=streams,
            has_room=choices.has_room,
        )
        self.optimizer = Optimizer(self.model.flats, choices.optimizer)
        self._device = self._pipeline_device()
        self._reads_tokens = self.communicators.place.stage in end_devices(configuration)

    @property
    def on_one_stream(self) -> bool:
        """Whether operators of layers run one after another whatever the plan overlaps: as asked, or on the CPU."""
        return self.choices.one_stream or self.choices.numerics.device.type != "cuda"

    def _streams(self) -> Streams | None:
        if self.on_one_stream:
            return None
        return Streams(CudaStreams(self.choices.numerics.device), self.watch.waiting)

    def _pipeline_device(self) -> PipelineDevice:
        configuration, numerics, place = self.configuration, self.choices.numerics, self.communicators.place
        pipeline, model = configuration.pipeline, configuration.model
        num_tokens = pipeline.micro_batch * configuration.workload.seq_len // configuration.mesh.replica_gpus

        def make_mailbox() -> Mailbox:
            return Mailbox(
                self.communicators, lambda: empty_hidden(num_tokens, model.hidden, numerics.dtype, numerics.device)
            )

        times_s = planned_slot_times_s(configuration)
        return PipelineDevice(
            schedule_of(configuration),
            agreed_slot_times_s(times_s, self.communicators.pipeline, numerics.device),
            place.stage,
            self.model.stages,
            make_mailbox,
            self.watch,
            runs_beside=runs_beside(configuration),
        )

    def step(self, number: int, *, stop: bool = False, records: bool = False) -> StepResult:
        """Step `number`, from 0; `stop` tells all ranks that this one is asked to end the run.

        `records`: all operators are timed, on all ranks or on none. Raises `LossError` on all ranks where the loss is
        not finite, unless asked to skip.
        """
        self.watch.whereabouts.enter_step(number)
        if records:
            self._begin_record()
        passes, repeated = self._passes_with_room(number, stop=stop, records=records)
        gradients, chosen, totals = passes.gradients, passes.chosen, passes.totals
        self.model.rooms.learn(totals.needed_rows)
        norm, rate = math.sqrt(totals.square_sum), self.choices.learning_rate.at(number)
        finite = math.isfinite(totals.loss) and math.isfinite(norm)
        if finite:
            with self.watch.part(StepPart.OPTIMIZER):
                self.optimizer.step(gradients, norm, rate)
                balance_experts(self.model.router_constants, chosen, self.choices.bias_speed)
            self.model.state.spread()
        elif not self.choices.skip_not_finite:
            raise LossError(
                f"step {number}: loss {totals.loss}, gradient norm {norm}: not finite; weights are those before the"
                " step (--skip-not-finite leaves out such steps)"
            )
        self.watch.end_step()
        self.watch.whereabouts.do("end", waits=False)
        return StepResult(
            loss=totals.loss,
            gradient_norm=norm,
            learning_rate=rate,
            expert_load=totals.expert_load,
            skipped=not finite,
            repeated=repeated,
            stop_asked=totals.stop_asked,
            aux_loss=totals.aux_loss,
            z_loss=totals.z_loss,
            dropped_fraction=totals.num_dropped / max(1, self._num_choices),
        )

    def _begin_record(self) -> None:
        """Ranks begin together: what they wait for in the step is of the step."""
        if self.communicators.world.size > 1:
            self.watch.whereabouts.do("barrier before a recorded step", waits=True)
            dist.barrier()
        self.watch.record_step()

    def _passes_with_room(self, step: int, *, stop: bool, records: bool) -> tuple[_Passes, bool]:
        """All of a step but its update, and whether it was done once more, because ranks had too little room."""
        tokens = self._tokens.of_step(step) if self._reads_tokens else torch.empty(0)
        passes = self._passes(tokens, stop=stop)
        if not passes.totals.overflowed:
            return passes, False
        del passes  # gradients that count for nothing
        self.model.rooms.lift()
        if records:
            self._begin_record()
        else:
            self.watch.stopwatch.begin_again()
        return self._passes(tokens, stop=stop), True

    def _passes(self, tokens: Tensor, *, stop: bool) -> _Passes:
        loss, gradients = self._loss_and_gradients(tokens)
        chosen = self._routing.load.totals(self.communicators.stage)
        return _Passes(gradients=gradients, chosen=chosen, totals=self._totals(loss, gradients, chosen, stop=stop))

    def _loss_and_gradients(self, tokens: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The loss summed over this rank's tokens, where the last stage is, and the gradients of its shards."""
        self._routing.restart()
        self.model.rooms.restart()
        self.model.state.restart()
        loss = self._device.run(lambda micro_batch: self._micro_batch(tokens, micro_batch))
        return loss, self.model.state.gradient_shards()

    @property
    def _num_choices(self) -> int:
        """Choices of experts in a step, over all layers."""
        layers = (layer.ffn for layer in self.configuration.model.layers)
        return self.configuration.workload.tokens * sum(ffn.top_k for ffn in layers if isinstance(ffn, MoeFfnSpec))

    def _own_sequences(self) -> range:
        """The places of this rank's sequences in the global batch, those of its first micro-batch first."""
        configuration, place = self.configuration, self.communicators.place
        count = configuration.num_micro_batches * configuration.pipeline.micro_batch
        return range(place.replica * count, (place.replica + 1) * count)

    def _micro_batch(self, step_tokens: Tensor, micro_batch: int) -> MicroBatchTokens:
        size = self.configuration.pipeline.micro_batch
        tokens = step_tokens[micro_batch * size : (micro_batch + 1) * size]
        return own_tokens(tokens.to(self.choices.numerics.device, non_blocking=True), self.model.end_groups)

    def _totals(
        self, loss: Tensor | None, gradients: list[Tensor], chosen: dict[str, Tensor], *, stop: bool
    ) -> _Totals:
        """What all ranks have found; waits for the device. `chosen`: choices of experts by layer of this stage."""
        place, world = self.communicators.place, self.communicators.world
        at_begin = place.stage == end_devices(self.configuration)[0]
        with self.watch.part(StepPart.OPTIMIZER):
            square_sum = own_square_sum(self.model.flats, gradients, counts_tied=at_begin)
        copies_of_tokens = self.configuration.mesh.tp
        self.watch.whereabouts.do("sums of loss and norm over all ranks", waits=True)
        share = 1.0 / (self.configuration.workload.tokens * copies_of_tokens)
        own_loss = torch.zeros_like(square_sum) if loss is None else loss.to(square_sum.dtype) * share
        sums = all_reduce(torch.stack((own_loss, square_sum, *self._routing.sums)), world)
        load = self._routing.load.greatest(chosen)
        overflowed = self.model.rooms.overflowed().to(load.dtype)
        greatest = torch.stack((load, torch.full_like(load, float(stop)), overflowed))
        needed = self.model.rooms.needed.flatten()
        if world.size > 1:
            dist.all_reduce(greatest, op=dist.ReduceOp.MAX)
        if needed.numel() and self.communicators.stage.size > 1:
            dist.all_reduce(needed, op=dist.ReduceOp.MAX, group=self.communicators.stage.group)
        figures, needed_rows = torch.cat((sums, greatest, needed.to(sums.dtype))).cpu().tensor_split([NUM_FIGURES])
        loss_value, total, aux_loss, z_loss, num_dropped, most_loaded, stop_asked, too_little = figures.tolist()
        return _Totals(
            loss=loss_value,
            square_sum=total,
            aux_loss=aux_loss,
            z_loss=z_loss,
            num_dropped=num_dropped,
            expert_load=most_loaded,
            stop_asked=bool(stop_asked),
            overflowed=bool(too_little),
            needed_rows=needed_rows,
        )
