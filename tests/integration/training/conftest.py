"""Tiny models, planned with choices pinned, for the tests that train them on a few processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from meshwright.costmodel.configuration import TrainingConfiguration
from meshwright.costmodel.presets import load_model
from meshwright.costmodel.workload import Workload
from meshwright.hardware_profiles import load_cluster
from meshwright.planner.fixes import parse_fixes
from meshwright.planner.plan import Plan
from meshwright.planner.plan_conversion import build_plan
from meshwright.planner.search import search
from meshwright.planner.space import Problem

GLOBAL_BATCH, SEQ_LEN = 8, 16
LONGEST_S = 180

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
MODELS["empty experts"] = {**MODELS["moe"], "num_experts": 32}
MODELS["groups of experts"] = {
    **MODELS["latent"],
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "num_nextn_predict_layers": 0,
}
MODELS["gated shared experts"] = {
    **MODELS["moe"],
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "shared_expert_intermediate_size": 40,
}


MODELS["odd vocabulary"] = {**MODELS["dense"], "vocab_size": 61, "num_key_value_heads": 1}

MakePlan = Callable[..., Plan]
Change = Callable[[TrainingConfiguration], TrainingConfiguration]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Plans a model by name for so many ranks, eight a node unless told; ZeRO-1 unless pinned otherwise.

    The plan may be changed before it is written. `num_layers` None: as many as the model has.
    """

    def make(
        model: str,
        num_ranks: int,
        fixes: str,
        gpus_per_node: int = 8,
        num_layers: int | None = None,
        change: Change = lambda found: found,
    ) -> Plan:
        config = MODELS[model] | ({} if num_layers is None else {"num_hidden_layers": num_layers})
        path = tmp_path / f"{model.replace(' ', '-')}.json"
        path.write_text(json.dumps(config))
        problem = Problem(
            model=load_model(str(path)),
            cluster=replace(load_cluster("h100"), gpus_per_node=gpus_per_node).with_gpus(num_ranks),
            workload=Workload(global_batch=GLOBAL_BATCH, seq_len=SEQ_LEN),
            fixes=parse_fixes((fixes if "zero" in fixes else f"{fixes},zero=1",)),
        )
        found = search(problem, top=0)
        return build_plan(change(found.configuration), found.prediction, found.certificate)

    return make


@pytest.fixture
def process_environment(repository: Path) -> dict[str, str]:
    """The environment of processes that talk to each other on this machine."""
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(repository / "src"), os.environ.get("PYTHONPATH")))),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def run(process_environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in an empty folder."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "meshwright", "run", *arguments],
            env={**process_environment, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_S,
        )

    return start
