"""Tiny models and the choices under which they are planned, for the tests that train them on a few processes."""

from __future__ import annotations

import json
from pathlib import Path

from meshwright.costmodel.presets import load_model
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.search import search
from meshwright.planner.space import Problem

GLOBAL_BATCH, SEQ_LEN = 8, 16

_ATTENTION = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 4,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}
MODELS: dict[str, dict[str, object]] = {
    "dense": {
        **_ATTENTION,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": 48,
        "tie_word_embeddings": True,
    },
    "three layers": {
        **_ATTENTION,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "tie_word_embeddings": False,
    },
    "moe": {
        **_ATTENTION,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "tie_word_embeddings": False,
    },
    "latent": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_hidden_layers": 4,
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "hidden_act": "silu",
        "q_lora_rank": 12,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": False,
    },
}

ONE = {"dense": "mbs=2", "moe": "mbs=2", "latent": "mbs=4", "moe: recompute": "mbs=2,recompute=full"}
TWO = {
    "dense: dp": "dp=2,mbs=2",
    "dense: dp, zero 0": "dp=2,mbs=2,zero=0",
    "dense: tp": "tp=2,mbs=2",
    "dense: sp": "sp=2,mbs=2",
    "dense: 1f1b": "pp=2,mbs=1,schedule=1f1b",
    "three layers: 1f1b": "pp=2,mbs=1,schedule=1f1b",
    "dense: gpipe": "pp=2,mbs=2,schedule=gpipe",
    "dense: interleaved": "pp=2,vp=2,mbs=1,schedule=interleaved",
    "dense: zb-h1": "pp=2,mbs=1,schedule=zb-h1",
    "dense: zb-v": "pp=2,mbs=1,schedule=zb-v",
    "dense: dualpipe-v": "pp=2,mbs=1,schedule=dualpipe-v",
    "moe: dp": "dp=2,mbs=2,ep=1",
    "moe: ep": "dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: ep, allgather": "dp=2,ep=2,mbs=2,dispatch=allgather",
    "moe: tp": "tp=2,ep=1,mbs=2",
    "moe: tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: sp, ep": "sp=2,ep=2,mbs=2,dispatch=allgather",
    "moe: zb-v": "pp=2,mbs=1,schedule=zb-v",
    "moe: sar": "dp=2,ep=2,mbs=2,dispatch=alltoall,recompute=sar",
    "latent: tp, ep": "tp=2,ep=2,mbs=2,dispatch=alltoall",
    "latent: sp, ep": "sp=2,ep=2,mbs=2,dispatch=allgather",
    "latent: interleaved": "pp=2,vp=2,mbs=1,schedule=interleaved",
}
FOUR = {
    "moe: folded, ep over sp and dp": "sp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "moe: folded, allgather": "sp=2,dp=2,ep=4,mbs=2,dispatch=allgather",
    "moe: ep, edp": "dp=4,ep=2,mbs=1,dispatch=alltoall",
    "moe: ep, edp, zero 0": "dp=4,ep=2,mbs=1,dispatch=alltoall,zero=0",
    "moe: tp, edp": "tp=2,dp=2,ep=2,mbs=2,dispatch=alltoall",
    "moe: tp, ep wider": "tp=2,dp=2,ep=4,mbs=2,dispatch=alltoall",
    "moe: tp and sp": "tp=2,sp=2,ep=4,mbs=2,dispatch=allgather",
    "moe: 1f1b, ep": "pp=2,dp=2,ep=2,mbs=1,schedule=1f1b,dispatch=alltoall",
    "moe: dualpipe-v, ep": "pp=2,dp=2,ep=2,mbs=1,schedule=dualpipe-v,dispatch=alltoall",
    "moe: zb-v, sp": "pp=2,sp=2,ep=2,mbs=1,schedule=zb-v,dispatch=allgather",
    "dense: four stages": "pp=4,mbs=1,schedule=1f1b",
    "dense: tied ends, dp": "pp=2,dp=2,mbs=1,schedule=1f1b",
    "latent: tp, dp": "tp=2,dp=2,ep=2,mbs=2,dispatch=allgather",
}
EIGHT = {
    "moe: everything": "pp=2,dp=2,sp=2,ep=4,mbs=1,schedule=1f1b,dispatch=alltoall",
    "moe: tp, dp, pp": "pp=2,dp=2,tp=2,ep=2,mbs=1,schedule=interleaved,vp=2,dispatch=allgather",
}
CASES = {1: ONE, 2: TWO, 4: FOUR, 8: EIGHT}


def make_plan(folder: Path, case: str, num_ranks: int) -> Plan:
    """The plan of a case, found by the planner with the case's choices pinned."""
    model = case.partition(":")[0]
    path = folder / f"{model.replace(' ', '-')}.json"
    path.write_text(json.dumps(MODELS[model]))
    fixes = CASES[num_ranks][case]
    if "zero" not in fixes:
        fixes += ",zero=1"
    problem = Problem(
        model=load_model(str(path)),
        cluster=load_cluster("h100").with_gpus(num_ranks),
        workload=Workload(global_batch=GLOBAL_BATCH, seq_len=SEQ_LEN),
        fixes=parse_fixes((fixes,)),
    )
    found = search(problem, top=0)
    return build_plan(found.configuration, found.prediction, found.certificate)
