#!/bin/bash
# The settings of Megatron-LM's examples/megatron_fsdp/sbatch_mfsdp_deepseek_v3.sh.
#SBATCH --nodes=32
#SBATCH --ntasks-per-node=8
TP=${TP:-1}
EP=${EP:-8}
MBS=${MBS:-4}
USE_MEGATRON_FSDP=${USE_MEGATRON_FSDP:-1}
PRETRAIN_ARGS=(
    --tensor-model-parallel-size ${TP} --expert-model-parallel-size ${EP} --expert-tensor-parallel-size 1
    --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather --sequence-parallel --use-flash-attn
    --disable-bias-linear --micro-batch-size ${MBS} --global-batch-size 2048
    --recompute-granularity selective --recompute-modules mlp moe mla_up_proj layernorm --seq-length 4096
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model deepseek-ai/DeepSeek-V3
    --num-layers 61 --hidden-size 7168 --ffn-hidden-size 18432 --num-attention-heads 128 --kv-channels 128
    --max-position-embeddings 4096 --position-embedding-type rope --make-vocab-size-divisible-by 3232
    --normalization RMSNorm --swiglu --untie-embeddings-and-output-weights --multi-latent-attention
    --attention-dropout 0.0 --hidden-dropout 0.0 --qk-layernorm --num-experts 256 --moe-layer-freq [0]*3+[1]*58
    --moe-ffn-hidden-size 2048 --moe-shared-expert-intermediate-size 2048 --moe-router-topk 8
    --moe-token-dispatcher-type flex --moe-flex-dispatcher-backend hybridep --moe-router-pre-softmax
    --moe-grouped-gemm --moe-router-group-topk 4 --moe-router-num-groups 8 --moe-router-score-function sigmoid
    --moe-router-enable-expert-bias --moe-router-dtype fp32 --moe-permute-fusion --moe-router-force-load-balancing
    --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 --qk-pos-emb-head-dim 64 --v-head-dim 128
    --mtp-num-layers 1 --bf16
)
if [ "${USE_MEGATRON_FSDP}" = 1 ]; then
    unset CUDA_DEVICE_MAX_CONNECTIONS
    PRETRAIN_ARGS=("${PRETRAIN_ARGS[@]}" --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params)
fi
TRAINING_CMD="
cd megatron;
python megatron/pretrain_gpt.py ${PRETRAIN_ARGS[@]}"
sbatch <<EOF
srun bash -c "${TRAINING_CMD}"
EOF
