"""The same runs described twice: as options of a framework, and as rows of the table of published measurements.

Both ways must come to the same prediction; how far that is from the measurement is checked as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.hardware_profiles import load_cluster
from meshwright.planner.foreign import FRAMEWORKS, Source
from meshwright.planner.validation.rows import packaged_path, parse_row, read_table
from meshwright.planner.validation.validation import predict_row, predicted_step_s

CONFIGURATIONS = Path(__file__).parents[1] / "unit" / "planner" / "foreign" / "configurations"
ROWS = {text.id: text for text in read_table(packaged_path())}
COMMON = (
    "--disable-bias-linear --normalization RMSNorm --position-embedding-type rope --swiglu --bf16 --micro-batch-size 1"
    " --untie-embeddings-and-output-weights --group-query-attention --hidden-dropout 0 --attention-dropout 0"
    " --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather --cross-entropy-loss-fusion"
)
MIXTRAL_8X22B = (
    f"{COMMON} --num-layers 56 --hidden-size 6144 --ffn-hidden-size 16384 --num-attention-heads 48 --num-query-groups 8"
    " --seq-length 4096 --max-position-embeddings 65536 --vocab-size 32768 --num-experts 8 --moe-router-topk 2"
    " --moe-grouped-gemm --moe-permute-fusion --moe-token-dispatcher-type alltoall --sequence-parallel"
    " --tensor-model-parallel-size 2 --pipeline-model-parallel-size 8 --expert-model-parallel-size 8"
    " --expert-tensor-parallel-size 1 --moe-expert-capacity-factor 1.0 --moe-pad-expert-input-to-capacity"
)
LLAMA_70B = (
    f"{COMMON} --num-layers 80 --hidden-size 8192 --ffn-hidden-size 28672 --num-attention-heads 64 --num-query-groups 8"
    " --seq-length 8192 --max-position-embeddings 8192 --vocab-size 128256 --grad-reduce-in-bf16"
    " --tensor-model-parallel-size 4 --sequence-parallel --tp-comm-overlap --context-parallel-size 2"
    " --pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 4"
)
LLAMA_8B = (
    f"{COMMON} --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --num-query-groups 8"
    " --seq-length 8192 --max-position-embeddings 8192 --vocab-size 128256 --grad-reduce-in-bf16"
    " --context-parallel-size 2 --fp8-format hybrid"
)
QWEN3_235B = (
    f"{COMMON} --num-layers 94 --hidden-size 4096 --ffn-hidden-size 12288 --num-attention-heads 64 --kv-channels 128"
    " --num-query-groups 4 --qk-layernorm --seq-length 4096 --max-position-embeddings 40960 --vocab-size 151936"
    " --num-experts 128 --moe-ffn-hidden-size 1536 --moe-router-topk 8 --moe-grouped-gemm --moe-permute-fusion"
    " --moe-token-dispatcher-type flex --overlap-moe-expert-parallel-comm --moe-router-force-load-balancing"
    " --sequence-parallel --tensor-model-parallel-size 2 --pipeline-model-parallel-size 8"
    " --num-virtual-stages-per-pipeline-rank 4 --expert-model-parallel-size 32 --expert-tensor-parallel-size 1"
    " --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split"
    " --recompute-granularity selective --recompute-modules layernorm moe_act"
)
ONE_LAYER_A_CHUNK = "--num-virtual-stages-per-pipeline-rank 7"
"""What the rows of MoE Parallel Folding do not print (printed_settings.json)."""
MEGATRON = [
    ("T0661", f"{MIXTRAL_8X22B} {ONE_LAYER_A_CHUNK} --global-batch-size 256", "h100", 128),
    ("T0679", f"{MIXTRAL_8X22B} {ONE_LAYER_A_CHUNK} --global-batch-size 1024", "h100", 128),
    ("T0091", f"{LLAMA_70B} --global-batch-size 128", "h100", 64),
    ("T0108", f"{LLAMA_8B} --global-batch-size 128", "h100", 8),
    ("T0639", f"{QWEN3_235B} --global-batch-size 2048", "h100", 256),
]
TORCHTITAN = [
    ("T0927", "llama3_8b.toml", "--compile.enable", "h100", 8),
    ("T0931", "llama3_8b.toml", "--compile.enable --training.local_batch_size 2", "h100-hbm2e", 8),
    ("T0942", "llama3_70b.toml", "--compile.enable --training.local_batch_size 16", "h100-hbm2e", 256),
    (
        "T0943",
        "llama3_70b.toml",
        "--compile.enable --training.local_batch_size 16 --parallelism.enable_async_tensor_parallel",
        "h100-hbm2e",
        256,
    ),
]
SAME = 2e-4
"""The vocabulary is padded by Megatron-LM and not in the rows."""
MAX_ERROR = 0.35
"""Wide: how good predictions are is the validation's to say; this finds options that are read wrongly."""


def compare(framework: str, source: Source, cluster: str, num_gpus: int, row: str) -> None:
    """Legal, nothing unknown, and the same speed as the row, near what was measured."""
    reader = FRAMEWORKS[framework]
    reading = reader.read(source)
    assert reading.unknown == ()
    assert reader.broken_rules(reading.settings, num_gpus) == ()
    configuration = reader.configuration_of(reading.settings, load_cluster(cluster, num_gpus=num_gpus), 1.0)
    predicted = configuration.workload.tokens / num_gpus / predicted_step_s(configuration)
    assert predicted == pytest.approx(predict_row(parse_row(ROWS[row])), rel=SAME)
    measured = float(ROWS[row].cells["measured_tokens_per_s_per_gpu"])
    assert predicted == pytest.approx(measured, rel=MAX_ERROR)


@pytest.mark.parametrize(("row", "text", "cluster", "num_gpus"), MEGATRON, ids=[case[0] for case in MEGATRON])
def test_megatron_arguments_predict_what_the_row_predicts(row: str, text: str, cluster: str, num_gpus: int) -> None:
    compare("megatron", Source(where="arguments", text=text), cluster, num_gpus, row)


@pytest.mark.parametrize(
    ("row", "name", "added", "cluster", "num_gpus"), TORCHTITAN, ids=[case[0] for case in TORCHTITAN]
)
def test_torchtitan_files_predict_what_the_row_predicts(
    row: str, name: str, added: str, cluster: str, num_gpus: int
) -> None:
    text = (CONFIGURATIONS / name).read_text(encoding="utf-8")
    source = Source(where=name, text=text, suffix=".toml", added=added)
    compare("torchtitan", source, cluster, num_gpus, row)
