"""One rank's training: a step from tokens to updated weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.errors import MeshwrightError
from meshwright.costmodel.simulate import build_schedule
from meshwright.costmodel.stage_cost import end_strategy
from meshwright.executor.data.source import TokenSource
from meshwright.executor.layer.collectives import all_reduce
from meshwright.executor.model.build import RankModel, end_devices
from meshwright.executor.model.micro_batch_tokens import MicroBatchTokens, own_tokens
from meshwright.executor.model.numerics import Numerics
from meshwright.executor.pipeline.mailbox import Mailbox, empty_hidden
from meshwright.executor.pipeline.run import PipelineDevice
from meshwright.executor.ranks.communicators import Communicators
from meshwright.executor.ranks.place import Place
from meshwright.executor.state.exchange import reduce_gradients
from meshwright.executor.state.learning_rate import LearningRate
from meshwright.executor.state.norm import own_square_sum
from meshwright.executor.state.optimizer import AdamWSettings, Optimizer
from meshwright.executor.stopwatch import StepPart, Stopwatch
from meshwright.executor.train.expert_load import ExpertLoad
from meshwright.executor.train.refusals import check_runs
from meshwright.executor.train.step_tokens import StepTokens

BF16_BYTES = 2


class LossError(MeshwrightError):
    """The loss or the norm of the gradients is not a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step has shown, the same on all ranks. `expert_load`: busiest expert over mean, 0 without experts.

    `skipped`: the weights were left as they were, because loss or norm were not finite. `stop_asked`: some rank was
    asked to end the run.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    expert_load: float
    skipped: bool = False
    stop_asked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingChoices:
    """What a plan leaves open."""

    numerics: Numerics
    learning_rate: LearningRate
    optimizer: AdamWSettings = field(default_factory=AdamWSettings)
    seed: int = 0
    skip_not_finite: bool = False


class Trainer:
    """Trains a configuration on rank `rank` of its mesh; where there are several, torch.distributed must be ready."""

    def __init__(
        self, configuration: TrainingConfiguration, rank: int, choices: TrainingChoices, tokens: TokenSource
    ) -> None:
        check_runs(configuration)
        self.configuration = configuration
        self.choices = choices
        strategies = (
            end_strategy(configuration.mesh),
            *dict.fromkeys(s for stage in configuration.stages for s in stage),
        )
        self.communicators = Communicators(
            Place(mesh=configuration.mesh, rank=rank), strategies, end_devices(configuration)
        )
        self._tokens = StepTokens(tokens, self._own_sequences(), choices.numerics.device)
        self.watch = Stopwatch(choices.numerics.device)
        self._load = ExpertLoad(choices.numerics.device)
        self.model = RankModel(
            configuration,
            self.communicators,
            choices.numerics,
            seed=choices.seed,
            routed=self._load.count,
            around=self.watch.around,
        )
        self.optimizer = Optimizer(self.model.flats, choices.optimizer)
        self._device = self._pipeline_device()
        self._reads_tokens = self.communicators.place.stage in end_devices(configuration)

    def _pipeline_device(self) -> PipelineDevice:
        configuration, numerics, place = self.configuration, self.choices.numerics, self.communicators.place
        pipeline, model = configuration.pipeline, configuration.model
        num_tokens = pipeline.micro_batch * configuration.workload.seq_len // configuration.mesh.replica_gpus

        def make_mailbox() -> Mailbox:
            return Mailbox(
                self.communicators, lambda: empty_hidden(num_tokens, model.hidden, numerics.dtype, numerics.device)
            )

        schedule = build_schedule(
            pipeline.schedule, configuration.mesh.pp, configuration.num_micro_batches, pipeline.virtual_stages
        )
        return PipelineDevice(schedule, place.stage, self.model.stages, make_mailbox, self.watch)

    def step(self, number: int, *, stop: bool = False) -> StepResult:
        """Step `number`, from 0; `stop` tells all ranks that this one is asked to end the run.

        Raises `LossError` on all ranks where the loss is not finite, unless asked to skip.
        """
        loss, gradients = self._loss_and_gradients(number)
        loss_value, square_sum, load, stop_asked = self._totals(loss, gradients, stop=stop)
        norm, rate = math.sqrt(square_sum), self.choices.learning_rate.at(number)
        finite = math.isfinite(loss_value) and math.isfinite(norm)
        if finite:
            with self.watch.part(StepPart.OPTIMIZER):
                self.optimizer.step(gradients, norm, rate)
        elif not self.choices.skip_not_finite:
            raise LossError(
                f"step {number}: loss {loss_value}, gradient norm {norm}: not finite; weights are those before the step"
                " (--skip-not-finite leaves out such steps)"
            )
        self.watch.end_step()
        return StepResult(
            loss=loss_value,
            gradient_norm=norm,
            learning_rate=rate,
            expert_load=load,
            skipped=not finite,
            stop_asked=stop_asked,
        )

    def _loss_and_gradients(self, step: int) -> tuple[Tensor | None, list[Tensor]]:
        """The loss summed over this rank's tokens, where the last stage is, and the gradients of its shards."""
        self._load.restart()
        for flat in self.model.flats:
            flat.restart_gradients()
        tokens = self._tokens.of_step(step) if self._reads_tokens else torch.empty(0)
        loss = self._device.run(lambda micro_batch: self._micro_batch(tokens, micro_batch))
        with self.watch.part(StepPart.GRADIENTS):
            return loss, [reduce_gradients(flat, self._wire(flat.master.dtype)) for flat in self.model.flats]

    def _wire(self, sums: torch.dtype) -> torch.dtype:
        """The format in which gradients travel: 16 bits where the plan says so and weights have no more."""
        in_bf16 = self.configuration.runtime.gradient_reduce_bytes == BF16_BYTES
        return torch.bfloat16 if in_bf16 and self.choices.numerics.dtype is torch.bfloat16 else sums

    def _own_sequences(self) -> range:
        """The places of this rank's sequences in the global batch, those of its first micro-batch first."""
        configuration, place = self.configuration, self.communicators.place
        count = configuration.num_micro_batches * configuration.pipeline.micro_batch
        return range(place.replica * count, (place.replica + 1) * count)

    def _micro_batch(self, step_tokens: Tensor, micro_batch: int) -> MicroBatchTokens:
        size = self.configuration.pipeline.micro_batch
        tokens = step_tokens[micro_batch * size : (micro_batch + 1) * size]
        return own_tokens(tokens.to(self.choices.numerics.device, non_blocking=True), self.model.sequence)

    def _totals(self, loss: Tensor | None, gradients: list[Tensor], *, stop: bool) -> tuple[float, float, float, bool]:
        """Over all ranks: mean loss, squared norm of the gradients, greatest expert load, whether any is asked to stop.

        Waits for the device.
        """
        place, world = self.communicators.place, self.communicators.world
        at_begin = place.stage == end_devices(self.configuration)[0]
        with self.watch.part(StepPart.OPTIMIZER):
            square_sum = own_square_sum(self.model.flats, gradients, counts_tied=at_begin)
        copies_of_tokens = self.configuration.mesh.tp
        share = 1.0 / (self.configuration.workload.tokens * copies_of_tokens)
        own_loss = torch.zeros_like(square_sum) if loss is None else loss.to(square_sum.dtype) * share
        sums = all_reduce(torch.stack((own_loss, square_sum)), world)
        load = self._load.greatest(self.communicators.stage)
        greatest = torch.stack((load, torch.full_like(load, float(stop))))
        if world.size > 1:
            dist.all_reduce(greatest, op=dist.ReduceOp.MAX)
        loss_value, total, most_loaded, stop_asked = torch.cat((sums, greatest)).tolist()
        return loss_value, total, most_loaded, bool(stop_asked)
