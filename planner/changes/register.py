"""All keys of `--set` and `--sweep` in the order in which changes are made, and how keys are written."""

from __future__ import annotations

from difflib import SequenceMatcher

from meshwright.costmodel.errors import InputError
from meshwright.planner.change import OPTION, Change
from meshwright.planner.changes.cluster import CLUSTER_CHANGES
from meshwright.planner.changes.model import MODEL_CHANGES
from meshwright.planner.changes.runtime import RUNTIME_CHANGES
from meshwright.planner.changes.strategy import STRATEGY_CHANGES
from meshwright.planner.changes.workload import WORKLOAD_CHANGES
from meshwright.planner.circumstance_changes import CIRCUMSTANCE_CHANGES

CHANGES: dict[str, Change] = (
    CLUSTER_CHANGES | MODEL_CHANGES | WORKLOAD_CHANGES | STRATEGY_CHANGES | RUNTIME_CHANGES | CIRCUMSTANCE_CHANGES
)
"""Every key, in the order in which changes are made: a GPU or a runtime first, then what differs from it."""

SHORT = {key.rpartition(".")[2]: key for key in CHANGES}
"""Keys without their section; each stands for one key only."""

ALIKE, NEARLY, MAX_SUGGESTED = 0.5, 0.12, 3

SYNONYMS = {
    "nics": "nics_per_node",
    "num_nics": "nics_per_node",
    "nic": "nics_per_node",
    "adapters": "nics_per_node",
    "hcas": "nics_per_node",
    "network": "network_bytes_per_s",
    "network_bandwidth": "network_bytes_per_s",
    "bandwidth": "network_bytes_per_s",
    "infiniband": "network_bytes_per_s",
    "ib": "network_bytes_per_s",
    "nvlink": "nvlink_bytes_per_s",
    "latency": "network_latency_s",
    "pcie": "pcie_bytes_per_s",
    "memory": "memory_bytes",
    "hbm": "memory_bytes",
    "hbm_bandwidth": "memory_bytes_per_s",
    "flops": "bf16_flops_per_s",
    "tflops": "bf16_flops_per_s",
    "gpus": "num_gpus",
    "gpu_type": "gpu",
    "nodes": "num_gpus",
    "num_nodes": "num_gpus",
    "node_size": "gpus_per_node",
    "price": "price_per_gpu_hour",
    "cost": "price_per_gpu_hour",
    "mtbf": "mean_time_between_failures_s",
    "failures": "mean_time_between_failures_s",
    "checkpoint": "checkpoint_interval_s",
    "layers": "num_layers",
    "heads": "num_heads",
    "experts": "num_experts",
    "d_model": "hidden",
    "hidden_size": "hidden",
    "vocab_size": "vocab",
    "topk": "top_k",
    "expert_size": "expert_intermediate",
    "gbs": "global_batch",
    "batch": "global_batch",
    "batch_size": "global_batch",
    "mbs": "micro_batch_size",
    "micro_batch": "micro_batch_size",
    "sequence": "seq_len",
    "sequence_length": "seq_len",
    "context": "seq_len",
    "context_length": "seq_len",
    "dtype": "precision",
    "vp": "virtual_stages",
    "recomputation": "recompute",
    "activation_checkpointing": "recompute",
    "zipf": "expert_load",
}
"""Words that people use for a key whose name looks otherwise."""

assert len(SHORT) == len(CHANGES)  # a new key needs a name of its own, whatever its section


def parse_changes(texts: tuple[str, ...], option: str = OPTION) -> dict[str, str]:
    """Full keys to values as typed. A key may leave out its section, as in seq_len."""
    values: dict[str, str] = {}
    for text in texts:
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not value:
            raise InputError(option, text, "expected key=value, for example workload.seq_len=16384")
        full = full_key(key, option)
        if full in values:
            raise InputError(option, key, "is given twice")
        values[full] = value
    return values


def full_key(key: str, option: str = OPTION) -> str:
    """A key with its section; an `InputError` names the nearest key."""
    if key in CHANGES:
        return key
    if key in SHORT:
        return SHORT[key]
    near = _nearest(key)
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(CHANGES)}"
    raise InputError(option, key, f"unknown key; {hint}")


def _nearest(key: str) -> tuple[str, ...]:
    """The key that a word stands for; or what looks most like this one, and what looks nearly as much like it."""
    word = key.lower().rpartition(".")[2].replace("-", "_")
    if word in SYNONYMS:
        return (SHORT[SYNONYMS[word]],)
    alike = {name: SequenceMatcher(None, key.lower(), name).ratio() for name in (*CHANGES, *SHORT)}
    best = max(alike.values())
    if best < ALIKE:
        return ()
    near = sorted((name for name in alike if alike[name] >= best - NEARLY), key=lambda name: -alike[name])
    return tuple(dict.fromkeys(SHORT.get(name, name) for name in near))[:MAX_SUGGESTED]
