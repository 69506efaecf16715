// Rows between tokens and experts, always driven by tokens: each token's row is read (or written) once, and its K rows
// are found by the inverse map. No atomics; sums run over a token's choices in order, in float32.
#include "permute.h"

#include "../device/padding.cuh"
#include "../device/vector.cuh"
#include "../device/warp.cuh"

namespace meshwright {
namespace {

constexpr int kCopyThreads = 128;
constexpr int kCopyVectors = 4;
constexpr int kSumThreads = 128;
constexpr int kDotThreads = 256;
constexpr int kDotWarps = kDotThreads / kLanes;
constexpr int kDotVectors = 4;

// A block a token; further blocks zero an expert's padding.
__global__ void __launch_bounds__(kCopyThreads) permute_kernel(const Permute task) {
    if (blockIdx.x >= task.to.num_tokens) {
        const int expert = static_cast<int>(blockIdx.x - task.to.num_tokens);
        zero_padding(task.to.counts, task.to.offsets, expert, task.rows, task.row_vectors, task.gates);
        return;
    }
    const int64_t token = blockIdx.x;
    const int32_t* places = task.to.places + token * task.to.top_k;
    const uint4* source = task.tokens + token * task.row_vectors;
    for (int base = threadIdx.x; base < task.row_vectors; base += kCopyThreads * kCopyVectors) {
        uint4 part[kCopyVectors];
#pragma unroll
        for (int i = 0; i < kCopyVectors; ++i) {
            const int index = base + i * kCopyThreads;
            if (index < task.row_vectors) part[i] = load_once(source + index);
        }
        for (int k = 0; k < task.to.top_k; ++k) {
            const int place = __ldg(places + k);
            if (place < 0) continue;
            uint4* target = task.rows + static_cast<int64_t>(place) * task.row_vectors;
#pragma unroll
            for (int i = 0; i < kCopyVectors; ++i) {
                const int index = base + i * kCopyThreads;
                if (index < task.row_vectors) store_once(target + index, part[i]);
            }
        }
    }
    if (task.gates == nullptr) return;
    for (int k = threadIdx.x; k < task.to.top_k; k += kCopyThreads) {
        const int place = __ldg(places + k);
        if (place >= 0) task.gates[place] = __ldg(task.weights + token * task.to.top_k + k);
    }
}

// A block a token; `Batch` of its rows are read at a time.
template <typename Number, int Batch>
__global__ void __launch_bounds__(kSumThreads) gather_sum_kernel(const GatherSum task) {
    constexpr int kCount = Vector<Number>::kCount;
    const int64_t token = blockIdx.x;
    const int top_k = task.from.top_k;
    const int32_t* places = task.from.places + token * top_k;
    const float* weights = task.weights == nullptr ? nullptr : task.weights + token * top_k;
    for (int index = threadIdx.x; index < task.row_vectors; index += kSumThreads) {
        float sum[kCount] = {};
        for (int start = 0; start < top_k; start += Batch) {
            int place[Batch];
#pragma unroll
            for (int i = 0; i < Batch; ++i) place[i] = start + i < top_k ? __ldg(places + start + i) : -1;
            uint4 raw[Batch];
            float weight[Batch];
#pragma unroll
            for (int i = 0; i < Batch; ++i) {
                raw[i] = make_uint4(0, 0, 0, 0);
                weight[i] = 0.0f;
                if (place[i] < 0) continue;
                raw[i] = load_once(task.rows + static_cast<int64_t>(place[i]) * task.row_vectors + index);
                weight[i] = weights == nullptr ? 1.0f : __ldg(weights + start + i);
            }
#pragma unroll
            for (int i = 0; i < Batch; ++i) {
                float value[kCount];
                Vector<Number>::widen(raw[i], value);
#pragma unroll
                for (int j = 0; j < kCount; ++j) sum[j] = fmaf(weight[i], value[j], sum[j]);
            }
        }
        store_once(task.tokens + token * task.row_vectors + index, Vector<Number>::narrow(sum));
    }
    if (task.slot_gates == nullptr) return;
    for (int k = threadIdx.x; k < top_k; k += kSumThreads) {
        const int place = __ldg(places + k);
        task.slot_gates[token * top_k + k] = place < 0 ? 0.0f : __ldg(task.row_gates + place);
    }
}

// A warp a slot: the row's gradient is the token's times the gate weight, the weight's gradient their product summed.
template <typename Number>
__global__ void __launch_bounds__(kDotThreads)
    unpermute_backward_kernel(const UnpermuteBackward task, int64_t slot_blocks) {
    constexpr int kCount = Vector<Number>::kCount;
    if (blockIdx.x >= slot_blocks) {
        const int expert = static_cast<int>(blockIdx.x - slot_blocks);
        zero_padding(task.to.counts, task.to.offsets, expert, task.grad_rows, task.row_vectors, nullptr);
        return;
    }
    const int lane = threadIdx.x % kLanes;
    const int64_t slot = static_cast<int64_t>(blockIdx.x) * kDotWarps + threadIdx.x / kLanes;
    if (slot >= task.to.num_tokens * task.to.top_k) return;
    const int place = __ldg(task.to.places + slot);
    const bool weighted = task.weights != nullptr;
    if (place < 0) {
        if (weighted && lane == 0) task.grad_weights[slot] = 0.0f;
        return;
    }
    const float weight = weighted ? __ldg(task.weights + slot) : 1.0f;
    const uint4* grads = task.grad_tokens + slot / task.to.top_k * task.row_vectors;
    const int64_t start = static_cast<int64_t>(place) * task.row_vectors;
    float dot = 0.0f;
    for (int base = lane; base < task.row_vectors; base += kLanes * kDotVectors) {
        uint4 grad_raw[kDotVectors], row_raw[kDotVectors];
#pragma unroll
        for (int i = 0; i < kDotVectors; ++i) {
            const int index = base + i * kLanes;
            if (index >= task.row_vectors) continue;
            grad_raw[i] = __ldg(grads + index);
            if (weighted) row_raw[i] = load_once(task.rows + start + index);
        }
#pragma unroll
        for (int i = 0; i < kDotVectors; ++i) {
            const int index = base + i * kLanes;
            if (index >= task.row_vectors) continue;
            if (!weighted) {
                store_once(task.grad_rows + start + index, grad_raw[i]);
                continue;
            }
            float grad[kCount], row[kCount];
            Vector<Number>::widen(grad_raw[i], grad);
            Vector<Number>::widen(row_raw[i], row);
#pragma unroll
            for (int j = 0; j < kCount; ++j) {
                dot = fmaf(grad[j], row[j], dot);
                grad[j] *= weight;
            }
            store_once(task.grad_rows + start + index, Vector<Number>::narrow(grad));
        }
    }
    if (!weighted) return;
    dot = warp_sum(dot);
    if (lane == 0) task.grad_weights[slot] = dot;
}

template <typename Number>
void launch_gather_sum(const GatherSum& task, cudaStream_t stream) {
    const unsigned blocks = static_cast<unsigned>(task.from.num_tokens);
    if (task.from.top_k <= 2) gather_sum_kernel<Number, 2><<<blocks, kSumThreads, 0, stream>>>(task);
    else if (task.from.top_k <= 4) gather_sum_kernel<Number, 4><<<blocks, kSumThreads, 0, stream>>>(task);
    else gather_sum_kernel<Number, 8><<<blocks, kSumThreads, 0, stream>>>(task);
}

}  // namespace

cudaError_t permute(const Permute& task, cudaStream_t stream) {
    const int64_t blocks = task.to.num_tokens + task.to.num_padded;
    if (blocks == 0) return cudaSuccess;
    permute_kernel<<<static_cast<unsigned>(blocks), kCopyThreads, 0, stream>>>(task);
    return cudaGetLastError();
}

cudaError_t gather_sum(const GatherSum& task, bool bfloat16, cudaStream_t stream) {
    if (task.from.num_tokens == 0) return cudaSuccess;
    if (bfloat16) launch_gather_sum<__nv_bfloat16>(task, stream);
    else launch_gather_sum<float>(task, stream);
    return cudaGetLastError();
}

cudaError_t unpermute_backward(const UnpermuteBackward& task, bool bfloat16, cudaStream_t stream) {
    const int64_t num_slots = task.to.num_tokens * task.to.top_k;
    const int64_t slot_blocks = (num_slots + kDotWarps - 1) / kDotWarps;
    const int64_t blocks = slot_blocks + task.to.num_padded;
    if (blocks == 0) return cudaSuccess;
    const unsigned grid = static_cast<unsigned>(blocks);
    if (bfloat16) unpermute_backward_kernel<__nv_bfloat16><<<grid, kDotThreads, 0, stream>>>(task, slot_blocks);
    else unpermute_backward_kernel<float><<<grid, kDotThreads, 0, stream>>>(task, slot_blocks);
    return cudaGetLastError();
}

}  // namespace meshwright
