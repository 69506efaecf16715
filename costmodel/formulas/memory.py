"""Bytes of model state on one rank under ZeRO, and what is set aside."""

from __future__ import annotations

BF16_BYTES = 2
FP32_BYTES = 4
ADAM_STATE_BYTES = 12
CPU_ADAM_PARAMETERS_PER_S = 3.9e9
COMMUNICATION_BUFFER_BYTES = 1.5 * 2**30
FRAGMENTATION_FRACTION = 0.03


def parameter_bytes(num_parameters: float, zero_stage: int, num_shards: int) -> float:
    """Bytes of BF16 parameters: 2 N, and 2 N / shards under ZeRO-3.

    Source: Rajbhandari et al., ZeRO, arXiv 1910.02054, section 3.

    >>> parameter_bytes(1e9, 1, 8)
    2000000000.0
    >>> parameter_bytes(1e9, 3, 8)
    250000000.0
    """
    return BF16_BYTES * num_parameters / (num_shards if zero_stage >= 3 else 1)


def host_copy_s(num_bytes: float, pcie_bytes_per_s: float) -> float:
    """Seconds of a copy between a GPU and pinned memory of its host: S / rate, the rate that copies reach.

    Source: definition; profiles hold the measured rate, or the share of the data sheet's that others measured.

    >>> host_copy_s(110.0, 55.0)
    2.0
    """
    return num_bytes / pcie_bytes_per_s


def gradient_bytes(num_parameters: float, zero_stage: int, num_shards: int, *, fp32: bool) -> float:
    """Bytes of accumulated gradients: 4 N in FP32 (2 N in BF16), divided by the shards from ZeRO-2 on.

    Source: ZeRO, arXiv 1910.02054, section 3; FP32 accumulation over micro-batches as in Megatron-LM.

    >>> gradient_bytes(1e9, 1, 8, fp32=True)
    4000000000.0
    >>> gradient_bytes(1e9, 2, 8, fp32=True)
    500000000.0
    """
    size = FP32_BYTES if fp32 else BF16_BYTES
    return size * num_parameters / (num_shards if zero_stage >= 2 else 1)


def optimizer_bytes(
    num_parameters: float, zero_stage: int, num_shards: int, bytes_each: int = ADAM_STATE_BYTES
) -> float:
    """Bytes of Adam in mixed precision: FP32 master weight and two moments, 12 N, divided from ZeRO-1 on.

    `bytes_each`: 12, or what the framework holds for a parameter (4: two BF16 moments and no master weight).
    Source: ZeRO, arXiv 1910.02054, section 3.1 (K = 12).

    >>> optimizer_bytes(1e9, 0, 8)
    12000000000.0
    >>> optimizer_bytes(1e9, 1, 8)
    1500000000.0
    """
    return bytes_each * num_parameters / (num_shards if zero_stage >= 1 else 1)


def optimizer_traffic_bytes(num_parameters: float, zero_stage: int, num_shards: int) -> tuple[float, float]:
    """Bytes (read, written) by one Adam update of this rank's shard: reads 16, writes 14 a parameter.

    Reads the FP32 gradient, master weight and two moments; writes the last three and the BF16 parameter.

    Source: derived from the mixed-precision Adam update of ZeRO, arXiv 1910.02054, section 3.1.

    >>> optimizer_traffic_bytes(8e9, 1, 8)
    (16000000000.0, 14000000000.0)
    """
    owned = num_parameters / (num_shards if zero_stage >= 1 else 1)
    return 16.0 * owned, 14.0 * owned


def norm_traffic_bytes(num_parameters: float, zero_stage: int, num_shards: int) -> float:
    """Bytes that the norm of this rank's shard of the reduced FP32 gradients reads: 4 a parameter.

    Source: definition; clipping needs the norm of all gradients before the first update.

    >>> norm_traffic_bytes(8e9, 1, 8)
    4000000000.0
    """
    return FP32_BYTES * num_parameters / (num_shards if zero_stage >= 1 else 1)


def exchange_traffic_bytes(num_parameters: float, num_shards: int, *, fp32: bool) -> tuple[float, float]:
    """Bytes (read, written) beside an all-to-all of 16-bit gradients: rounding before it, the FP32 sum behind it.

    Equation: reads 4 N (0 where the buffers are BF16) and 2 N, writes 2 N (0) and 4 N / shards.
    Source: derived from MegaScale-MoE's reduction by all-to-all and local sum, arXiv 2505.11432, section 5.

    >>> exchange_traffic_bytes(8e9, 2, fp32=True)
    (48000000000.0, 32000000000.0)
    """
    rounded_read, rounded_written = (FP32_BYTES, BF16_BYTES) if fp32 else (0, 0)
    summed = FP32_BYTES / num_shards
    return (rounded_read + BF16_BYTES) * num_parameters, (rounded_written + summed) * num_parameters


def exchange_back_traffic_bytes(num_parameters: float, num_copies: int, *, fp32: bool) -> tuple[float, float]:
    """Bytes (read, written) where the sums of an exchange travel back: rounded, gathered, and put where gradients are.

    Equation: reads 4 N / copies and 2 N, writes 2 N / copies and 4 N (2 N where the buffers are BF16).
    Source: derived; an all-reduce as an all-to-all with a local sum and an all-gather.

    >>> exchange_back_traffic_bytes(8e9, 2, fp32=True)
    (32000000000.0, 40000000000.0)
    """
    kept = FP32_BYTES if fp32 else BF16_BYTES
    rounded = num_parameters / num_copies
    return FP32_BYTES * rounded + BF16_BYTES * num_parameters, BF16_BYTES * rounded + kept * num_parameters


def host_update_s(
    num_parameters: float, *, gpus_per_node: int, pcie_bytes_per_s: float, gradient_bytes_each: float
) -> float:
    """Seconds of an Adam update in host memory: gradients down, update by the CPU, BF16 parameters up, in turn.

        N (g + 2) / PCIe  +  N G / R

    N parameters of each of the G GPUs of a node, g bytes a gradient, R = 3.9e9 parameters/s that a node's CPUs update.

    Source: Ren et al., ZeRO-Offload, arXiv 2101.06840, table 4 (CPU-Adam, 10 B parameters in 2.57 s on two Xeon 8168).

    >>> round(host_update_s(8e9, gpus_per_node=1, pcie_bytes_per_s=54e9, gradient_bytes_each=2), 2)
    2.64
    """
    transfer_s = num_parameters * (gradient_bytes_each + BF16_BYTES) / pcie_bytes_per_s
    return transfer_s + num_parameters * gpus_per_node / CPU_ADAM_PARAMETERS_PER_S


def memory_limit_bytes(usable_bytes: float) -> float:
    """Bytes that a plan may fill: what a process can allocate, less 1.5 GiB and 3 %.

    The 1.5 GiB hold communicator buffers (NCCL takes about 10 to 25 MiB a channel and peer set) and cuBLAS workspaces;
    the 3 % are fragmentation of the caching allocator with expandable segments.

    Source: assumption of ours, stated with every plan; compare NCCL's NCCL_BUFFSIZE of 4 MiB a channel and direction.

    >>> round(memory_limit_bytes(80 * 2**30) / 2**30, 2)
    76.1
    """
    return usable_bytes * (1.0 - FRAGMENTATION_FRACTION) - COMMUNICATION_BUFFER_BYTES
