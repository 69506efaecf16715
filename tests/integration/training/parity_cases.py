"""The plans of the parity tests: for 1, 2, 4 and 8 ranks, by name, with their pinned choices, and what is special.

The name of a case begins with that of a model of `conftest.py`.
"""

from __future__ import annotations

from meshwright.executor.layer.router_losses import LossScope
from meshwright.executor.train.balancing import Balancing

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
