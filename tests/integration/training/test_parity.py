"""What planned training computes on several processes is what autograd computes on one, whatever the plan."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec import UnsetType
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.strategy import AxisOrder
from meshwright.executor.layer.router_losses import LossScope
from meshwright.executor.train.balancing import Balancing
from meshwright.planner.plan import Plan
from meshwright.planner.serialise import write_plan

Results = dict[str, dict[str, Any]]

SCRIPT = Path(__file__).with_name("parity_ranks.py")
TOLERANCE = 1e-10
BFLOAT16_BUDGET = {
    "loss": 5e-3,
    "gradient norm": 1e-1,
    "aux loss": 2e-2,  # of 16 choices an expert has in a step, rounding turns one or another
    "z loss": 5e-2,
    **{f"layers.{index}.router.correction": 2.0 for index in range(4)},  # moved by signs, which rounding turns
    **{f"layers.{index}.router.load": 1.0 for index in range(4)},  # of the last step alone
}
FP8_BUDGET = BFLOAT16_BUDGET | {"loss": 1e-2, "gradient norm": 2e-1}
OTHER_BUDGET = 0.5
"""Of parameters: in six steps AdamW moves small weights by more than their size, and rounding changes whither."""

MOE_KERNELS = {"route", "index", "permute", "unpermute", "swiglu"}

SECONDS = 600
NUM_STEPS = 6
"""Of which the first has room for everything."""

ONE = {
    "dense": "mbs=2",
    "moe": "mbs=2",
    "latent": "mbs=4",
    "moe: recompute": "mbs=2,recompute=full",
    "three layers": "mbs=1",
    "moe: recompute, losses": "mbs=4,recompute=full",
    "groups of experts: losses of groups": "mbs=1",
    "moe: bounded": "mbs=2,recompute=sar",
    "dense: activations in host memory": "mbs=2",
    "moe: activations in host memory": "mbs=2",
    "moe: sar, activations in host memory": "mbs=2,recompute=sar",
    "latent: every second layer, activations in host memory": "mbs=4",
}
TWO = {
    "dense: dp": "dp=2,mbs=2",
    "dense: dp, zero 0": "dp=2,mbs=2,zero=0",
    "dense: tp": "tp=2,mbs=2",
    "dense: sp": "sp=2,mbs=2",
    "dense: sp, ffn tp": "sp=2,ffn=tp,mbs=2",
    "dense: 1f1b": "pp=2,mbs=1,schedule=1f1b",
    "three layers: 1f1b": "pp=2,mbs=1,schedule=1f1b",
    "dense: gpipe": "pp=2,mbs=2,schedule=gpipe",
    "dense: interleaved": "pp=2,vp=2,mbs=1,schedule=interleaved",
    "dense: zb-h1": "pp=2,mbs=1,schedule=zb-h1",
    "dense: zb-v": "pp=2,mbs=1,schedule=zb-v",
    "dense: dualpipe-v": "pp=2,mbs=1,schedule=dualpipe-v",
    "moe: dualpipe-v": "pp=2,mbs=1,schedule=dualpipe-v,recompute=sar",
    "moe: dp": "dp=2,mbs=2,ep=1",
    "moe: ep": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: ep, allgather": "dp=2,ep=2,mbs=2,dispatch=allgather",
    "moe: tp": "tp=2,ep=1,mbs=2",
    "moe: tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: sp, ep": "sp=2,ep=2,mbs=2,dispatch=allgather",
    "moe: zb-v": "pp=2,mbs=1,schedule=zb-v",
    "moe: ep, once more": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: ep, sar": "dp=2,ep=2,mbs=2,dispatch=alltoall,recompute=sar",
    "moe: ep, full recomputation": "dp=2,ep=2,mbs=2,dispatch=alltoall,recompute=full",
    "dense: zero 2": "dp=2,mbs=1,zero=2",
    "dense: zero 3": "dp=2,mbs=1,zero=3",
    "dense: zero 2, optimizer in host memory": "dp=2,mbs=1,zero=2",
    "dense: dp, in line": "dp=2,mbs=2",
    "dense: zero 2, in line": "dp=2,mbs=1,zero=2",
    "dense: zero 3, in line": "dp=2,mbs=1,zero=3",
    "moe: zero 2, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall,zero=2",
    "moe: zero 3, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall,zero=3",
    "moe: zero 3": "dp=2,ep=1,mbs=2,zero=3",
    "moe: zero 3, once more": "dp=2,ep=1,mbs=2,zero=3",
    "moe: zero 3, sar": "dp=2,ep=1,mbs=2,zero=3,recompute=sar",
    "moe: zero 3, full recomputation": "dp=2,ep=1,mbs=2,zero=3,recompute=full",
    "dense: tp, fp8": "tp=2,mbs=2,wire=fp8",
    "moe: ep, fp8": "dp=2,ep=2,mbs=2,dispatch=alltoall,wire=fp8",
    "moe: ep, fp8, full recomputation": "dp=2,ep=2,mbs=2,dispatch=alltoall,wire=fp8,recompute=full",
    "moe: tp, ep, allgather, fp8": "tp=2,ep=2,mbs=2,dispatch=allgather,wire=fp8",
    "moe: ep, dedup, fp8": "dp=2,ep=2,mbs=2,dispatch=alltoall-dedup,wire=fp8,recompute=sar",
    "moe: etp, fp8": "tp=2,ep=1,etp=2,mbs=2,dispatch=alltoall,wire=fp8",
    "moe: etp, dedup": "dp=2,ep=1,etp=2,mbs=2,dispatch=alltoall-dedup",
    "moe: dedup, a rank a node, fp8": "dp=2,ep=2,mbs=2,dispatch=alltoall-dedup,wire=fp8",
    "latent: tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "latent: sp, ep": "sp=2,ep=2,mbs=2,dispatch=allgather",
    "latent: interleaved": "pp=2,vp=2,mbs=1,schedule=interleaved",
    "moe: per batch, zb-v": "pp=2,mbs=1,schedule=zb-v",
    "moe: per sequence, tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall,recompute=sar",
    "moe: per device, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "groups of experts: skewed, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "groups of experts: per batch, dp": "dp=2,ep=1,mbs=1",
    "moe: ep, dedup": "dp=2,ep=2,mbs=2,dispatch=alltoall-dedup",
    "moe: tp, ep, dedup, recomputed": "tp=2,ep=2,mbs=2,dispatch=alltoall-dedup,recompute=full",
    "groups of experts: skewed, dedup": "dp=2,ep=2,mbs=1,dispatch=alltoall-dedup,recompute=sar",
    "moe: dedup, a rank a node": "dp=2,ep=2,mbs=2,dispatch=alltoall-dedup",
    "moe: bounded, ep": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: bounded, tp, ep": "tp=2,ep=2,mbs=2,dispatch=allgather",
    "groups of experts: bounded, sp": "sp=2,ep=2,mbs=2,dispatch=alltoall,recompute=full",
    "dense: tp and sp by turns": "tp=2,mbs=2",
    "moe: sp and tp by turns": "sp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: sp and tp by turns, bounded": "sp=2,ep=2,mbs=2,dispatch=alltoall",
    "odd vocabulary: tp": "tp=2,mbs=2",
    "moe: etp": "tp=2,ep=1,etp=2,mbs=2,dispatch=alltoall",
    "moe: etp, allgather": "sp=2,ep=1,etp=2,mbs=2,dispatch=allgather",
    "moe: etp over dp": "dp=2,ep=1,etp=2,mbs=2,dispatch=alltoall",
    "moe: etp over dp, allgather": "dp=2,ep=1,etp=2,mbs=2,dispatch=allgather",
    "dense: 1f1b, activations in host memory": "pp=2,mbs=1,schedule=1f1b",
    "dense: gpipe, activations in host memory": "pp=2,mbs=2,schedule=gpipe",
    "dense: interleaved, activations in host memory": "pp=2,vp=2,mbs=1,schedule=interleaved",
    "dense: zero 3, activations in host memory": "dp=2,mbs=1,zero=3",
    "moe: zb-v, activations in host memory": "pp=2,mbs=1,schedule=zb-v",
    "moe: ep, activations in host memory": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: ep, sar, activations in host memory": "dp=2,ep=2,mbs=2,dispatch=alltoall,recompute=sar",
    "latent: tp, ep, activations in host memory": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "dense: cp": "cp=2,attention=cp-allgather,mbs=2",
    "dense: cp ring": "cp=2,attention=cp-ring,mbs=2",
    "moe: cp, ep": "cp=2,ep=2,mbs=2,attention=cp-allgather,dispatch=alltoall",
    "moe: cp, ep, bounded": "cp=2,ep=2,mbs=2,attention=cp-allgather,dispatch=alltoall",
    "moe: cp ring, full recomputation": "cp=2,ep=2,mbs=2,attention=cp-ring,dispatch=allgather,recompute=full",
    "latent: cp ring": "cp=2,ep=1,mbs=2,attention=cp-ring",
    "moe: per sequence, cp, ep": "cp=2,ep=2,mbs=2,attention=cp-allgather,dispatch=alltoall",
    "groups of experts: skewed, cp ring, dedup": "cp=2,ep=2,mbs=2,attention=cp-ring,dispatch=alltoall-dedup",
    "groups of experts: bounded, skewed, etp": "tp=2,ep=1,etp=2,mbs=2,dispatch=alltoall",
    "groups of experts: bounded, etp, allgather": "sp=2,ep=1,etp=2,mbs=2,dispatch=allgather,recompute=full",
}
FOUR = {
    "moe: folded, ep over sp and dp": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "gated shared experts: tp, edp, fp8": "tp=2,dp=2,ep=2,mbs=2,dispatch=alltoall,wire=fp8",
    "moe: folded, allgather": "sp=2,dp=2,ep=4,mbs=2,dispatch=allgather",
    "moe: ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall",
    "moe: ep, edp, activations in host memory": "dp=4,ep=2,mbs=1,dispatch=alltoall",
    "moe: ep, edp, zero 0": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=0",
    "moe: tp, edp": "tp=2,dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "moe: tp and sp": "tp=2,sp=2,ep=4,mbs=4,dispatch=allgather",
    "moe: 1f1b, ep": "pp=2,dp=2,ep=2,mbs=1,schedule=1f1b,dispatch=alltoall",
    "moe: 1f1b, ep, dp outermost": "pp=2,dp=2,ep=2,mbs=1,schedule=1f1b,dispatch=alltoall",
    "empty experts: ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall",
    "groups of experts: tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=allgather",
    "gated shared experts: tp, edp": "tp=2,dp=2,ep=2,mbs=2,dispatch=alltoall",
    "dense: more sp ranks than key heads": "sp=4,mbs=4",
    "moe: dualpipe-v, ep": "pp=2,dp=2,ep=2,mbs=1,schedule=dualpipe-v,dispatch=alltoall",
    "moe: zb-v, sp": "pp=2,sp=2,ep=2,mbs=2,schedule=zb-v,dispatch=allgather",
    "dense: four stages": "pp=4,mbs=1,schedule=1f1b",
    "dense: tied ends, dp": "pp=2,dp=2,mbs=1,schedule=1f1b",
    "latent: tp, dp": "tp=2,dp=2,ep=2,mbs=2,dispatch=allgather",
    "groups of experts: per sequence, 1f1b": "pp=2,dp=2,ep=2,mbs=1,schedule=1f1b,dispatch=alltoall",
    "groups of experts: everything skewed": "tp=2,sp=2,ep=4,mbs=4,dispatch=allgather",
    "moe: dedup, folded": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall-dedup",
    "moe: dedup over two nodes": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall-dedup",
    "groups of experts: dedup over two nodes, everything skewed": "tp=2,dp=2,ep=4,mbs=2,dispatch=alltoall-dedup",
    "empty experts: dedup over two nodes": "dp=4,ep=4,mbs=1,dispatch=alltoall-dedup,recompute=sar",
    "latent: dedup over two nodes, recomputed": "dp=4,ep=4,mbs=2,dispatch=alltoall-dedup,recompute=full",
    "moe: bounded, folded": "tp=2,sp=2,ep=4,mbs=4,dispatch=alltoall",
    "groups of experts: bounded, 1f1b": "pp=2,sp=2,ep=2,mbs=2,schedule=1f1b,dispatch=alltoall",
    "empty experts: per batch, sp": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "dense: more tp ranks than key heads": "tp=4,mbs=4",
    "moe: more tp ranks than key heads": "tp=4,ep=4,mbs=4,dispatch=alltoall",
    "odd vocabulary: tp, dp": "tp=2,dp=2,mbs=2",
    "odd vocabulary: tp, dp, zero 0": "tp=2,dp=2,mbs=2,zero=0",
    "odd vocabulary: tied ends": "pp=2,tp=2,mbs=2,schedule=1f1b",
    "gated shared experts: tp and sp by turns": "tp=4,ep=2,mbs=4,dispatch=allgather",
    "moe: etp inside ep": "sp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall",
    "moe: etp inside ep, allgather": "tp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=allgather",
    "empty experts: etp inside ep": "tp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall,recompute=full",
    "moe: etp inside ep, fp8": "sp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall,wire=fp8,recompute=full",
    "moe: etp inside ep, dedup": "sp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall-dedup",
    "groups of experts: etp inside ep, dedup, everything skewed": (
        "tp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall-dedup,recompute=sar"
    ),
    "moe: etp inside ep, dedup over two nodes": "sp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall-dedup",
    "moe: etp inside ep, dedup, fp8": "sp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall-dedup,wire=fp8",
    "moe: dedup over two nodes, fp8": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall-dedup,wire=fp8,recompute=sar",
    "gated shared experts: etp, edp": "tp=2,dp=2,ep=1,etp=2,mbs=2,dispatch=alltoall",
    "latent: etp, 1f1b": "pp=2,sp=2,ep=1,etp=2,mbs=2,schedule=1f1b,dispatch=alltoall",
    "dense: ring of four": "cp=4,attention=cp-ring,mbs=4",
    "dense: cp over four": "cp=4,attention=cp-allgather,mbs=4,recompute=core-attention",
    "dense: cp ring, dp": "cp=2,dp=2,attention=cp-ring,mbs=1",
    "moe: cp ring, sp, ep": "cp=2,sp=2,ep=4,mbs=4,attention=cp-ring,dispatch=alltoall",
    "moe: cp, tp, ep, bounded": "cp=2,tp=2,ep=4,mbs=4,attention=cp-allgather,dispatch=alltoall-dedup",
    "groups of experts: ring of four, bounded": "cp=4,ep=2,mbs=2,attention=cp-ring,dispatch=alltoall",
    "gated shared experts: cp, sp": "cp=2,sp=2,ep=2,mbs=4,attention=cp-allgather,dispatch=allgather",
    "latent: cp, tp, ep": "cp=2,tp=2,ep=4,mbs=4,attention=cp-allgather,dispatch=alltoall",
    "moe: cp ring, 1f1b": "pp=2,cp=2,ep=2,mbs=2,attention=cp-ring,schedule=1f1b,dispatch=alltoall",
    "groups of experts: etp inside ep, everything skewed": "tp=2,dp=2,ep=2,etp=2,mbs=2,dispatch=alltoall",
    "moe: per device, etp inside ep, allgather": "tp=2,sp=2,ep=2,etp=2,mbs=4,dispatch=allgather",
    "groups of experts: cp, dedup over two nodes": "cp=2,dp=2,ep=4,mbs=2,attention=cp-ring,dispatch=alltoall-dedup",
    "moe: per batch, cp, 1f1b": "pp=2,cp=2,ep=2,mbs=2,attention=cp-allgather,schedule=1f1b,dispatch=allgather",
    "dense: zero 1, sharded over 2": "dp=4,mbs=1,zero=1",
    "dense: zero 2, sharded over 2": "dp=4,mbs=1,zero=2",
    "dense: zero 3, sharded over 2": "dp=4,mbs=1,zero=3",
    "moe: zero 3, ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=3",
    "moe: zero 3, ep, edp, sharded over 2": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=3",
    "moe: zero 3, tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=alltoall,zero=3",
    "moe: zero 2, sp, ep": "sp=2,dp=2,ep=2,mbs=2,dispatch=allgather,zero=2",
    "dense: zero 2, tied ends": "pp=2,dp=2,mbs=1,schedule=1f1b,zero=2",
    "dense: zero 3, tied ends": "pp=2,dp=2,mbs=1,schedule=1f1b,zero=3",
    "moe: zero 2, zb-v": "pp=2,dp=2,ep=2,mbs=1,schedule=zb-v,dispatch=alltoall,zero=2",
    "moe: zero 3, zb-v": "pp=2,dp=2,ep=2,mbs=1,schedule=zb-v,dispatch=alltoall,zero=3",
    "moe: zero 3, dualpipe-v": "pp=2,dp=2,ep=2,mbs=1,schedule=dualpipe-v,dispatch=alltoall,zero=3",
    "moe: zero 3, interleaved": "pp=2,dp=2,ep=1,mbs=1,vp=2,schedule=interleaved,zero=3",
}
EIGHT = {
    "moe: everything": "pp=2,dp=2,sp=2,ep=4,mbs=1,schedule=1f1b,dispatch=alltoall",
    "moe: etp, ep, cp": "tp=2,cp=2,dp=2,ep=4,etp=2,mbs=1,dispatch=alltoall",
    "moe: cp, tp, dp": "cp=2,tp=2,dp=2,ep=4,mbs=1,attention=cp-ring,dispatch=alltoall",
    "latent: ring of four, sp": "cp=4,sp=2,ep=4,mbs=2,attention=cp-ring,dispatch=allgather",
    "moe: zero 3, sharded over 2": "dp=4,sp=2,ep=4,mbs=1,dispatch=alltoall,zero=3",
    "moe: tp, dp, pp": "pp=2,dp=2,tp=2,ep=2,mbs=1,schedule=interleaved,vp=2,dispatch=allgather",
}
CASES = {1: ONE, 2: TWO, 4: FOUR, 8: EIGHT}
STREAMED = (
    "moe: tp, edp",
    "moe: zb-v, sp",
    "moe: dualpipe-v, ep",
    "latent: tp, dp",
    "moe: ep, edp",
    "moe: ep, edp, activations in host memory",
)
"""What runs on several streams at once, too, and must come out the same."""
ROOMY = (
    "moe: ep",
    "moe: ep, allgather",
    "moe: ep, fp8",
    "moe: etp",
    "moe: bounded, ep",
    "groups of experts: skewed, dedup",
    "empty experts: ep, edp",
    "moe: etp inside ep, fp8",
    "moe: dedup over two nodes, fp8",
    "groups of experts: etp inside ep, dedup, everything skewed",
    "moe: dualpipe-v, ep",
    "groups of experts: per sequence, 1f1b",
    "moe: ep, edp, activations in host memory",
)
"""What runs with little room for the rows that ranks exchange, too, and must come out the same."""
BALANCED: dict[str, Balancing] = {
    "moe: recompute, losses": Balancing(aux_loss=0.1, z_loss=0.02),
    "groups of experts: losses of groups": Balancing(aux_loss=0.1, bias_speed=0.05),
    "moe: per batch, zb-v": Balancing(aux_loss=0.1, aux_scope=LossScope.PER_BATCH, z_loss=0.02),
    "moe: per sequence, tp, ep": Balancing(aux_loss=0.1, z_loss=0.02),
    "moe: per device, ep": Balancing(aux_loss=0.1, aux_scope=LossScope.PER_DEVICE),
    "groups of experts: per sequence, 1f1b": Balancing(aux_loss=0.1, z_loss=0.02, bias_speed=0.05),
    "groups of experts: everything skewed": Balancing(aux_loss=0.1, z_loss=0.02, bias_speed=0.05, capacity_factor=1.25),
    "groups of experts: dedup over two nodes, everything skewed": Balancing(
        aux_loss=0.1, z_loss=0.02, bias_speed=0.05, capacity_factor=1.25
    ),
    "moe: bounded": Balancing(capacity_factor=1.0),
    "moe: sp and tp by turns, bounded": Balancing(aux_loss=0.1, capacity_factor=1.0),
    "moe: bounded, ep": Balancing(capacity_factor=1.0),
    "moe: bounded, tp, ep": Balancing(aux_loss=0.1, capacity_factor=0.75),
    "groups of experts: bounded, sp": Balancing(capacity_factor=1.0),
    "moe: bounded, folded": Balancing(capacity_factor=1.0, z_loss=0.02),
    "groups of experts: bounded, 1f1b": Balancing(capacity_factor=1.25, bias_speed=0.05),
    "empty experts: per batch, sp": Balancing(aux_loss=0.1, aux_scope=LossScope.PER_BATCH),
    "groups of experts: per batch, dp": Balancing(aux_loss=0.1, aux_scope=LossScope.PER_BATCH, bias_speed=0.05),
    "moe: per sequence, cp, ep": Balancing(aux_loss=0.1, z_loss=0.02),
    "groups of experts: skewed, cp ring, dedup": Balancing(aux_loss=0.1, z_loss=0.02, bias_speed=0.05),
    "groups of experts: bounded, skewed, etp": Balancing(
        aux_loss=0.1, z_loss=0.02, bias_speed=0.05, capacity_factor=1.25
    ),
    "groups of experts: bounded, etp, allgather": Balancing(aux_loss=0.1, bias_speed=0.05, capacity_factor=1.0),
    "groups of experts: etp inside ep, everything skewed": Balancing(
        aux_loss=0.1, z_loss=0.02, bias_speed=0.05, capacity_factor=1.25
    ),
    "groups of experts: etp inside ep, dedup, everything skewed": Balancing(
        aux_loss=0.1, z_loss=0.02, bias_speed=0.05, capacity_factor=1.25
    ),
    "moe: per device, etp inside ep, allgather": Balancing(
        aux_loss=0.1, aux_scope=LossScope.PER_DEVICE, capacity_factor=1.0
    ),
    "groups of experts: cp, dedup over two nodes": Balancing(aux_loss=0.1, z_loss=0.02, bias_speed=0.05),
    "moe: cp, ep, bounded": Balancing(capacity_factor=1.0),
    "moe: cp, tp, ep, bounded": Balancing(capacity_factor=1.0, aux_loss=0.1),
    "groups of experts: ring of four, bounded": Balancing(capacity_factor=1.0, bias_speed=0.05),
    "moe: per batch, cp, 1f1b": Balancing(aux_loss=0.1, aux_scope=LossScope.PER_BATCH),
}
"""Cases that are trained for balanced experts; all others are not."""

SKEWED = (
    "groups of experts: skewed, ep",
    "groups of experts: skewed, dedup",
    "groups of experts: everything skewed",
    "groups of experts: dedup over two nodes, everything skewed",
    "groups of experts: skewed, cp ring, dedup",
    "groups of experts: bounded, skewed, etp",
    "groups of experts: etp inside ep, everything skewed",
    "groups of experts: etp inside ep, dedup, everything skewed",
)
"""Cases whose routers begin with favourites, so that the rows of most ranks go to one of them."""

LEAST_DROPPED = 0.02
SKEWED_LOAD = 2.5
"""Of the busiest expert over the mean, at least: a favourite of all tokens has E / K = 4."""
DP_OUTERMOST = ("moe: 1f1b, ep, dp outermost",)
"""Cases whose ranks are numbered so; the planner does that only where nodes are several."""

GPUS_PER_NODE = {
    "moe: dedup, a rank a node": 1,
    "moe: dedup, a rank a node, fp8": 1,
    "moe: dedup over two nodes, fp8": 2,
    "moe: etp inside ep, dedup over two nodes": 2,
    "moe: dedup over two nodes": 2,
    "groups of experts: cp, dedup over two nodes": 2,
    "groups of experts: dedup over two nodes, everything skewed": 2,
    "empty experts: dedup over two nodes": 2,
    "latent: dedup over two nodes, recomputed": 2,
}
"""Of cases whose ranks are spread over nodes."""
BY_TURNS = (
    "dense: tp and sp by turns",
    "moe: sp and tp by turns",
    "moe: sp and tp by turns, bounded",
    "gated shared experts: tp and sp by turns",
)
"""Cases whose every second layer cuts its heads by sp instead of tp, or the other way round."""

EVERY_SECOND_LAYER = "every second layer"
ACTIVATIONS_IN_HOST_MEMORY = "activations in host memory"
"""Cases whose layers, or every second one, keep their widest tensors there: with recomputation pinned, the planner has
no such layers."""

IN_HOST_MEMORY = "optimizer in host memory"
"""Cases whose masters and moments are there, as the planner does only where GPUs have no room for them."""

FP8 = "fp8"
"""Cases whose activations travel in 8 bits."""

IN_LINE = "in line"
"""Cases whose gradients are reduced and weights gathered beside nothing."""

SHARDED_OVER_TWO = "sharded over 2"
"""Cases whose state is sharded over two replicas and copied over the others, which the planner cannot be told to do."""

OVERLAPPED = (
    ("dense: dp", "dense: dp, in line"),
    ("dense: zero 2", "dense: zero 2, in line"),
    ("dense: zero 3", "dense: zero 3, in line"),
)
ALIKE = (
    *OVERLAPPED,
    ("dense: zero 2", "dense: zero 3", "dense: zero 2, optimizer in host memory"),
    ("moe: zero 3", "moe: zero 3, once more", "moe: zero 3, sar", "moe: zero 3, full recomputation"),
    (
        "moe: ep",
        "moe: ep, once more",
        "moe: ep, sar",
        "moe: ep, full recomputation",
        "moe: ep, activations in host memory",
        "moe: ep, sar, activations in host memory",
    ),
    ("moe: ep, fp8", "moe: ep, fp8, full recomputation"),
    ("moe", "moe: recompute", "moe: activations in host memory", "moe: sar, activations in host memory"),
    ("dense: 1f1b", "dense: 1f1b, activations in host memory"),
    ("dense: gpipe", "dense: gpipe, activations in host memory"),
    ("dense: interleaved", "dense: interleaved, activations in host memory"),
    ("dense: zero 3", "dense: zero 3, activations in host memory"),
    ("dense", "dense: activations in host memory"),
    ("moe: zb-v", "moe: zb-v, activations in host memory"),
    ("moe: ep, edp", "moe: ep, edp, activations in host memory"),
    ("latent: tp, ep", "latent: tp, ep, activations in host memory"),
    ("latent", "latent: every second layer, activations in host memory"),
)
"""Plans whose weights are the same to the last bit."""

ACROSS_LAYERS = ("pp=", "zero=2", "zero=3")
"""Choices by which one layer has to do with others."""

FEW_LAYERS = 2
"""Of other cases, which so train in half of the time."""


@pytest.fixture
def train_all(
    make_plan: Callable[..., Plan], tmp_path: Path, process_environment: dict[str, str]
) -> Callable[..., Results]:
    """Plans and trains cases of so many ranks, all unless some are named, on a kind of device in a format."""

    def train(num_ranks: int, device: str, dtype: str, cases: Iterable[str] = (), *options: str) -> Results:
        plans = tmp_path / "plans"
        shutil.rmtree(plans, ignore_errors=True)
        plans.mkdir()
        chosen = {case: fixes for case, fixes in CASES[num_ranks].items() if not cases or case in cases}
        for case, fixes in chosen.items():
            plan = make_plan(
                case.partition(":")[0],
                num_ranks,
                fixes,
                GPUS_PER_NODE.get(case, 8),
                num_layers=None if _has_all_layers(case, fixes) else FEW_LAYERS,
                change=_change_of(case),
            )
            if case in DP_OUTERMOST:
                plan = replace(plan, mesh=replace(plan.mesh, order=AxisOrder.DP_OUTERMOST))
            if IN_HOST_MEMORY in case:
                plan = replace(plan, sharding=replace(plan.sharding, offload_optimizer=True))
            if IN_LINE in case:
                plan = replace(
                    plan, runtime=replace(plan.runtime, overlap_gradient_reduce=False, overlap_parameter_gather=False)
                )
            if SHARDED_OVER_TWO in case:
                plan = replace(plan, sharding=replace(plan.sharding, shard_degree=2))
            write_plan(plan, plans / f"{case}.plan.json")
            trained = {"balancing": BALANCED.get(case, Balancing()), "skewed": case in SKEWED}
            (plans / f"{case}.options.json").write_bytes(msgspec.json.encode(trained))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(plans), str(num_ranks), device, dtype, *options],
            env=process_environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: Results = json.loads(done.stdout)
        assert found.keys() == chosen.keys()
        return found

    return train


def _has_all_layers(case: str, fixes: str) -> bool:
    """Whether layers have to do with each other, in the case or in one that it is compared with, or are counted."""
    compared = next((group for group in ALIKE if case in group), (case,))
    waits = any(ACTIVATIONS_IN_HOST_MEMORY in one for one in compared)
    return case.startswith("three layers") or waits or any(choice in fixes for choice in ACROSS_LAYERS)


def _change_of(case: str) -> Callable[[TrainingConfiguration], TrainingConfiguration]:
    if case in BY_TURNS:
        return by_turns
    if ACTIVATIONS_IN_HOST_MEMORY in case:
        return partial(offloaded, step=2 if EVERY_SECOND_LAYER in case else 1)
    return lambda found: found


def offloaded(configuration: TrainingConfiguration, step: int) -> TrainingConfiguration:
    """Every `step`-th layer with its widest tensors in host memory, in the orders that list scheduling finds."""
    numbers = count()
    stages = tuple(
        tuple(replace(one, offload=next(numbers) % step == 0) for one in stage) for stage in configuration.stages
    )
    return replace(configuration, stages=stages)


def by_turns(configuration: TrainingConfiguration) -> TrainingConfiguration:
    """Every second layer with tp and sp exchanged."""
    numbers = count()
    stages = tuple(
        tuple(replace(one, tp=one.sp, sp=one.tp) if next(numbers) % 2 else one for one in stage)
        for stage in configuration.stages
    )
    return replace(configuration, stages=stages)


def wrong(found: Results, tolerances: dict[str, float], otherwise: float) -> list[str]:
    """The errors above their tolerances, a line each. What travels in 8 bits has a budget of its own."""
    lines = []
    for case, result in found.items():
        limits, other = (FP8_BUDGET, OTHER_BUDGET) if FP8 in case else (tolerances, otherwise)
        errors = result["errors"].items()
        lines += [f"{case}: {name} {error:.1e}" for name, error in errors if not error <= limits.get(name, other)]
    return lines


@pytest.mark.parametrize("num_ranks", CASES)
def test_planned_training_agrees_with_one_process(num_ranks: int, train_all: Callable[..., Results]) -> None:
    found = train_all(num_ranks, "cpu", "float64")
    assert wrong(found, {}, TOLERANCE) == []
    for case, result in found.items():
        bounded = not isinstance(BALANCED.get(case, Balancing()).capacity_factor, UnsetType)
        assert (result["dropped"] > LEAST_DROPPED) == bounded, case
    assert [case for case, result in found.items() if FP8 in case and result["errors"]["loss"] <= TOLERANCE] == []
    for case in SKEWED:
        assert case not in found or found[case]["expert load"] > SKEWED_LOAD, case
    for group in ALIKE:
        assert len({found[case]["digest"] for case in group if case in found}) <= 1, group
    streamed = {case: found[case]["digest"] for case in STREAMED if case in found}
    if streamed:
        on_streams = train_all(num_ranks, "cpu", "float64", tuple(streamed), "host-streams")
        assert {case: result["digest"] for case, result in on_streams.items()} == streamed
    in_bytes = tuple(case for case in found if FP8 in case)
    if in_bytes:
        lossless = train_all(num_ranks, "cpu", "float64", in_bytes, "wide-wire")
        assert [case for case, one in lossless.items() if not max(one["errors"].values()) <= TOLERANCE] == []
    roomy = {case: found[case]["digest"] for case in ROOMY if case in found}
    if roomy:
        with_room = train_all(num_ranks, "cpu", "float64", tuple(roomy), "room")
        assert {case: result["digest"] for case, result in with_room.items()} == roomy
        repeated = {case: result["repeated"] for case, result in with_room.items()}
        assert any(repeated.values()), repeated  # steps that needed more
        assert all(number < NUM_STEPS - 1 for number in repeated.values()), repeated  # and others that had room


def test_sixteen_bits_stay_within_their_budget(train_all: Callable[..., Results]) -> None:
    found = train_all(
        2,
        "cpu",
        "bfloat16",
        ("dense: dp", "dense: tp", "dense: zero 3", "moe: ep", "moe: zb-v", "moe: per device, ep", "moe: ep, dedup"),
    )
    assert wrong(found, BFLOAT16_BUDGET, OTHER_BUDGET) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_beside_the_layers_or_in_line_on_gpus(dtype: str, train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    found = train_all(2, "cuda", dtype, [case for pair in OVERLAPPED for case in pair])
    assert [pair for pair in OVERLAPPED if len({found[case]["digest"] for case in pair}) > 1] == []


@pytest.mark.gpu
def test_activations_in_host_memory_change_nothing_on_gpus(train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    pairs = [group for group in ALIKE if len(group) == 2 and ACTIVATIONS_IN_HOST_MEMORY in group[1] and group[0] in TWO]
    found = train_all(2, "cuda", "bfloat16", [case for pair in pairs for case in pair])
    assert [pair for pair in pairs if len({found[case]["digest"] for case in pair}) > 1] == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_same_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    _need_gpus(num_ranks)
    found = train_all(num_ranks, "cuda", "float64")
    assert wrong(found, {}, TOLERANCE) == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_room_changes_nothing_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    _need_gpus(num_ranks)
    cases = [case for case in CASES[num_ranks] if case in ROOMY]
    exact = train_all(num_ranks, "cuda", "bfloat16", cases)
    ample, little = (train_all(num_ranks, "cuda", "bfloat16", cases, how) for how in ("ample-room", "room"))
    digests = [{case: one["digest"] for case, one in found.items()} for found in (exact, ample, little)]
    assert digests[0] == digests[1] == digests[2]
    assert any(result["repeated"] for result in little.values())
    assert {case: waits for case, result in ample.items() if (waits := _waits(case, result["waits"]))} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_sixteen_bits_on_gpus(num_ranks: int, train_all: Callable[..., Results]) -> None:
    """With CUDA kernels wherever experts are."""
    _need_gpus(num_ranks)
    found = train_all(num_ranks, "cuda", "bfloat16")
    assert wrong(found, BFLOAT16_BUDGET, OTHER_BUDGET) == []
    without_experts = ("dense", "odd vocabulary", "three layers")
    missing = {
        case: MOE_KERNELS - set(result["kernels"]) - ({"swiglu"} if "etp" in case else set())  # whose rows are 24 bytes
        for case, result in found.items()
        if not case.startswith(without_experts)
    }
    assert {case: sorted(names) for case, names in missing.items() if names} == {}


@pytest.mark.gpu
def test_overlap_changes_nothing_on_gpus(train_all: Callable[..., Results]) -> None:
    _need_gpus(2)
    cases = (
        "dense: tp",
        "dense: sp, ffn tp",
        "moe: ep",
        "moe: tp, ep",
        "moe: ep, sar",
        "latent: tp, ep",
        "moe: zb-v",
        "moe: dualpipe-v",
        *(case for case in TWO if ACTIVATIONS_IN_HOST_MEMORY in case),
    )
    overlapped = train_all(2, "cuda", "bfloat16", cases)
    alone = train_all(2, "cuda", "bfloat16", cases, "one-stream")
    assert {case: result["digest"] for case, result in overlapped.items()} == {
        case: result["digest"] for case, result in alone.items()
    }


def _waits(case: str, waits: list[str]) -> list[str]:
    """Those that are not of products whose slices of experts are too narrow for a kernel, as no model's are."""
    return [wait for wait in waits if not ("etp" in case and wait.startswith(("experts_fc1", "experts_fc2")))]


def _need_gpus(num_ranks: int) -> None:
    """Two ranks may share a GPU; more would take too long."""
    if torch.cuda.device_count() < max(1, num_ranks // 2):
        pytest.skip(f"needs {max(1, num_ranks // 2)} CUDA devices")
