"""What a runner-up chose, and why it lost: the terms that grew most."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.program.operators import Precision
from meshwright.costmodel.step import predict
from meshwright.costmodel.strategy import LayerStrategy
from meshwright.planner.layer_splits import layers_mesh, strategies_of
from meshwright.planner.plan import Alternative


def describe_alternative(best: TrainingConfiguration, other: TrainingConfiguration) -> Alternative:
    """The runner-up as a record, with the two terms of its breakdown that exceed the best plan's most."""
    reference, prediction = predict(best), predict(other)
    growth = {name: seconds - reference.breakdown_s[name] for name, seconds in prediction.breakdown_s.items()}
    worst = sorted(growth, key=lambda name: growth[name], reverse=True)[:2]
    return Alternative(
        mesh=layers_mesh(other.mesh, strategies_of(other)),
        schedule=other.pipeline.schedule,
        virtual_stages=other.pipeline.virtual_stages,
        micro_batch_size=other.pipeline.micro_batch,
        zero=other.sharding.zero.value,
        strategies=_strategies(other),
        step_time_s=prediction.step_time_s,
        peak_memory_bytes=max(prediction.peak_memory_bytes),
        reason=", ".join(
            f"{name.replace('_', ' ')} +{growth[name] * 1e3:.1f} ms" for name in worst if growth[name] > 0
        ),
    )


def _strategies(configuration: TrainingConfiguration) -> tuple[str, ...]:
    counted = Counter(chain.from_iterable(configuration.stages))
    return tuple(f"{count} x {strategy_text(strategy)}" for strategy, count in counted.most_common())


def strategy_text(strategy: LayerStrategy) -> str:
    """A layer's strategy in a few words.

    >>> strategy_text(LayerStrategy(sp=8, ep=8))
    'sp8 / ep8 alltoall / none'
    """
    degrees = ((name, getattr(strategy, name)) for name in ("tp", "sp", "cp"))
    attention = " ".join(f"{name}{degree}" for name, degree in degrees if degree > 1) or "dp"
    if strategy.ep * strategy.etp > 1:
        slices = f" etp{strategy.etp}" if strategy.etp > 1 else ""
        ffn = f"ep{strategy.ep}{slices} {strategy.dispatch}"
    else:
        ffn = f"ffn tp{strategy.ffn_tp}"
    travels = " / fp8 on the wire" if strategy.communication is Precision.FP8 else ""
    waits = " / offload" if strategy.offload else ""
    return f"{attention} / {ffn} / {strategy.recompute}{travels}{waits}"
