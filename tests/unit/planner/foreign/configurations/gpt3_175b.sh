#!/bin/bash
# The settings of Megatron-LM's examples/gpt3/train_gpt3_175b_distributed.sh.
GPUS_PER_NODE=8
NUM_NODES=1
DATA_PATH=$1

LAUNCH=(--nproc_per_node $GPUS_PER_NODE --nnodes $NUM_NODES)
MODEL=(
    --num-layers 96
    --hidden-size 12288   # as in the paper
    --num-attention-heads 96
    --seq-length 2048 --max-position-embeddings 2048
    --attention-backend auto
)
TRAINING=(
    --micro-batch-size 1
    --global-batch-size 1536
    --step-batch-size-schedule "0:16 2.4B:320 4.8B:624 7.2B:928 9.6B:1232 12B:1536"
    --fp16 --lr 6.0e-5 --clip-grad 1.0 --train-iters 500000
)
PARALLEL=(--tensor-model-parallel-size 8 --pipeline-model-parallel-size 16)

torchrun ${LAUNCH[@]} pretrain_gpt.py ${MODEL[@]} ${TRAINING[@]} ${PARALLEL[@]} --data-path $DATA_PATH --split 949,50,1
