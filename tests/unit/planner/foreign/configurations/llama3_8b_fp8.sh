#!/bin/bash
# The settings of Megatron-LM's examples/llama/train_llama3_8b_h100_fp8.sh.
TOKENIZER=${1:-"MOCK"}
TP_SIZE=1
DTYPE="fp8"
SEQ=8192
ARGS=(
    --use-mcore-models --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336
    --num-attention-heads 32 --group-query-attention --num-query-groups 8 --kv-channels 128
    --seq-length $SEQ --max-position-embeddings $SEQ --position-embedding-type rope --rotary-base 1000000
    --attention-dropout 0.0 --hidden-dropout 0.0 --swiglu --normalization RMSNorm --attention-backend fused
    --apply-layernorm-1p --untie-embeddings-and-output-weights --disable-bias-linear
    --micro-batch-size 1 --global-batch-size 128 --lr 0.00015 --bf16 --grad-reduce-in-bf16
    --cross-entropy-loss-fusion --calculate-per-token-loss --manual-gc
)
if [[ "$DTYPE" == "fp8" ]]; then
    ARGS+=("--fp8-format hybrid" "--fp8-amax-history-len 1024" "--fp8-param-gather")
else
    ARGS+=(--no-such-option)
fi
if [[ "$TOKENIZER" == "MOCK" ]] || [[ -z "$TOKENIZER" ]]; then
    ARGS+=("--mock-data" "--tokenizer-type NullTokenizer" "--vocab-size 128256")
fi
ARGS+=(--tensor-model-parallel-size $TP_SIZE --sequence-parallel)
ARGS+=(--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather)
if [ ! -f "pretrain_gpt.py" ]; then
    exit 1
fi
torchrun --nproc_per_node 8 --nnodes $((1 * 1)) pretrain_gpt.py ${ARGS[@]}
