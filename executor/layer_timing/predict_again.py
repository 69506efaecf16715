"""Measured layers beside what the cost model says now: the measurement stays, the prediction is made anew."""

from __future__ import annotations

import msgspec

from meshwright.costmodel.errors import InputError
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.program.operators import Operator
from meshwright.executor.layer.context import AttentionKernel
from meshwright.executor.layer_timing.cases import Case, make_case, strategies_for, timed_layer
from meshwright.executor.layer_timing.prediction import LayerPrediction, host_cluster, overlapping, plain_runtime
from meshwright.executor.layer_timing.record import LayerTimes, LayerTimesRecord, OperatorTimes
from meshwright.kernels.dispatch import Implementation

UNLIMITED_BYTES = 1e15


def predicted_again(record: LayerTimesRecord, profile: str) -> LayerTimesRecord:
    """The record with predictions of `profile`, a name or a path, by the cost model as it is."""
    on_kernels = any(choice.implementation is Implementation.CUDA for choice in record.kernels)
    layers = tuple(_layer_again(layer, profile, on_kernels=on_kernels) for layer in record.layers)
    return msgspec.structs.replace(record, profile=profile, layers=layers)


def _layer_again(layer: LayerTimes, profile: str, *, on_kernels: bool) -> LayerTimes:
    num_gpus = max(layer.tp, layer.sp, layer.ffn_tp, layer.ep)
    case = _case(layer, num_gpus)
    runtime = plain_runtime(
        AttentionKernel(layer.attention_kernel), fused_kernels=layer.fused_kernels, custom_kernels=on_kernels
    )
    cluster = host_cluster(profile, num_gpus)
    prediction = LayerPrediction(case.program, cluster, runtime)
    operators = {operator.name: operator for operator in (*case.program.forward, *case.program.backward)}
    again = msgspec.structs.replace(
        layer,
        forward=msgspec.structs.replace(
            layer.forward, predicted_s=prediction.forward.total_s, predicted_host_s=prediction.forward.host_s
        ),
        backward=msgspec.structs.replace(
            layer.backward, predicted_s=prediction.backward.total_s, predicted_host_s=prediction.backward.host_s
        ),
        operators=tuple(_operator_again(times, operators, prediction) for times in layer.operators),
    )
    if layer.overlapped_forward is None or layer.overlapped_backward is None:
        return again
    # In the order that list scheduling finds: the one that was timed is not in the record.
    beside = LayerPrediction(case.program, cluster, overlapping(runtime))
    return msgspec.structs.replace(
        again,
        overlapped_forward=msgspec.structs.replace(layer.overlapped_forward, predicted_s=beside.forward.total_s),
        overlapped_backward=msgspec.structs.replace(layer.overlapped_backward, predicted_s=beside.backward.total_s),
    )


def _case(layer: LayerTimes, num_gpus: int) -> Case:
    """The case that was timed; an `InputError` where presets have changed since, or experts were cut."""
    strategies = strategies_for(timed_layer(load_model(layer.model)), num_gpus)
    if layer.strategy not in strategies or layer.num_experts != layer.num_experts_of_model:
        raise InputError("record", layer.model, f"{layer.strategy} with {layer.num_experts} experts cannot be rebuilt")
    return make_case(
        layer.model,
        layer.strategy,
        strategies[layer.strategy],
        seq_len=layer.seq_len,
        micro_batch=layer.micro_batch,
        num_gpus=num_gpus,
        memory_bytes=UNLIMITED_BYTES,
    )


def _operator_again(times: OperatorTimes, operators: dict[str, Operator], prediction: LayerPrediction) -> OperatorTimes:
    operator = operators[times.name.removesuffix(" (again)")]
    predicted = prediction.timing_of(operator)
    return msgspec.structs.replace(
        times,
        predicted_s=predicted.time_s,
        basis=predicted.basis,
        host_predicted_s=prediction.host_s_of(operator),
    )
