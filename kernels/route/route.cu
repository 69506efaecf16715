// A warp for each token. Lane l has experts l V .. l V + V - 1 in registers, V a power of two, so that the lowest of
// equal experts is in the lowest lane. Counts and sums of an expert stay with its lane over all tokens of the warp and
// are added up in a fixed order: no atomics, the same bits in every run.
#include "route.h"

#include <math_constants.h>

#include "../device/dependent.cuh"
#include "../device/warp.cuh"
#include "groups.cuh"
#include "scores.cuh"

namespace meshwright {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kReduceRows = 32;

// The weight of the expert that this lane (number below K) has chosen. All lanes take part.
__device__ __forceinline__ float gate_weight(float logit, const Softmax& softmax, const RouteChoice& choice, int lane) {
    const bool chosen = lane < choice.top_k;
    float weight = 0.0f;
    if (choice.sigmoid) {
        weight = chosen ? exact_sigmoid(logit) : 0.0f;
    } else if (choice.normalize) {
        const float largest = warp_max(chosen ? logit : -CUDART_INF_F);
        weight = chosen ? expf(logit - largest) : 0.0f;
    } else {
        weight = chosen ? expf(logit - softmax.largest) * softmax.inverse : 0.0f;
    }
    if (choice.normalize) weight /= warp_sum(weight);
    return weight * choice.scale;
}

// Adds up over the warps of a block and writes one row of partial results.
template <int V, typename Number>
__device__ __forceinline__ void write_partial(const Number (*shared)[kLanes * V], Number* partial, int num_experts) {
    for (int expert = threadIdx.x; expert < num_experts; expert += kThreads) {
        Number total = shared[0][expert];
#pragma unroll
        for (int warp = 1; warp < kWarps; ++warp) total += shared[warp][expert];
        partial[static_cast<int64_t>(blockIdx.x) * num_experts + expert] = total;
    }
}

// Chooses the experts of a token, best first, and counts them. Returns the one that this lane (number below K) takes.
template <int V>
__device__ __forceinline__ int choose(uint32_t (&key)[V], int top_k, int lane, int first, int32_t* counts) {
    int chosen = 0;
    for (int j = 0; j < top_k; ++j) {
        uint32_t best = key[0];
#pragma unroll
        for (int i = 1; i < V; ++i) best = max(best, key[i]);
        const uint32_t top = __reduce_max_sync(kAllLanes, best);
        const int owner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, best == top))) - 1;
        int place = 0;
#pragma unroll
        for (int i = V - 1; i >= 0; --i) place = key[i] == top ? i : place;
#pragma unroll
        for (int i = 0; i < V; ++i) key[i] = lane == owner && i == place ? 0u : key[i];
        const int expert = __shfl_sync(kAllLanes, first + place, owner);
        if (lane == owner) ++counts[expert];
        if (lane == j) chosen = expert;
    }
    return chosen;
}

template <int V>
__global__ void __launch_bounds__(kThreads, V <= 8 ? 4 : 2) route_forward_kernel(const RouteForward task) {
    __shared__ int32_t shared_counts[kWarps][kLanes * V];
    __shared__ float shared_sums[kWarps][kLanes * V];
    const RouteChoice& choice = task.choice;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int first = lane * V;
    const bool limited = choice.groups_per_token < choice.num_groups;
    const bool by_logit = !choice.sigmoid && task.bias == nullptr && !limited;
    const bool needs_scores = !by_logit || !choice.normalize || task.partial_sums != nullptr;
    float sums[V] = {};
#pragma unroll
    for (int i = 0; i < V; ++i) shared_counts[warp][first + i] = 0;
    __syncwarp();
    const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
    for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < task.num_tokens; token += step) {
        const float* logits = task.logits + token * choice.num_experts;
        float ranked[V];
        Softmax softmax{0.0f, 1.0f};
        load_row<V>(logits, first, choice.num_experts, -CUDART_INF_F, ranked);
        if (needs_scores) {
            float score[V];
            softmax = all_scores<V>(ranked, choice.sigmoid, first, choice.num_experts, score);
            if (task.partial_sums != nullptr) {
                float total = 0.0f;
#pragma unroll
                for (int i = 0; i < V; ++i) total += score[i];
                const float inverse = choice.sigmoid ? 1.0f / warp_sum(total) : 1.0f;
#pragma unroll
                for (int i = 0; i < V; ++i) sums[i] += score[i] * inverse;
            }
#pragma unroll
            for (int i = 0; i < V; ++i) ranked[i] = by_logit ? ranked[i] : score[i];
        }
        uint32_t key[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
            const bool exists = first + i < choice.num_experts;
            if (task.bias != nullptr && exists) ranked[i] += __ldg(task.bias + first + i);
            if (!exists) ranked[i] = -CUDART_INF_F;
            key[i] = exists ? ordered_key(ranked[i]) : 0u;
        }
        if (limited) drop_other_groups<V>(choice, best_groups<V>(ranked, choice, lane, first), first, key);
        const int expert = choose<V>(key, choice.top_k, lane, first, shared_counts[warp]);
        const float logit = lane < choice.top_k ? __ldg(logits + expert) : 0.0f;
        const float weight = gate_weight(logit, softmax, choice, lane);
        if (lane < choice.top_k) {
            task.experts[token * choice.top_k + lane] = expert;
            task.weights[token * choice.top_k + lane] = weight;
        }
    }
    let_later_start();
#pragma unroll
    for (int i = 0; i < V; ++i) shared_sums[warp][first + i] = sums[i];
    __syncthreads();
    write_partial<V, int32_t>(shared_counts, task.partial_counts, choice.num_experts);
    if (task.partial_sums != nullptr) write_partial<V, float>(shared_sums, task.partial_sums, choice.num_experts);
}

// Sums the blocks' partial results: 32 experts a block, 32 partial sums each, added in order.
__global__ void __launch_bounds__(kLanes * kReduceRows) route_reduce_kernel(const RouteForward task) {
    __shared__ int32_t counts[kReduceRows][kLanes];
    __shared__ float sums[kReduceRows][kLanes];
    const int num_experts = task.choice.num_experts;
    const int column = threadIdx.x % kLanes, row = threadIdx.x / kLanes;
    const int expert = blockIdx.x * kLanes + column;
    int32_t count = 0;
    float sum = 0.0f;
    wait_for_earlier();
    if (expert < num_experts) {
#pragma unroll 4
        for (int block = row; block < task.num_blocks; block += kReduceRows) {
            const int64_t place = static_cast<int64_t>(block) * num_experts + expert;
            count += task.partial_counts[place];
            if (task.partial_sums != nullptr) sum += task.partial_sums[place];
        }
    }
    counts[row][column] = count;
    sums[row][column] = sum;
    __syncthreads();
    if (row != 0 || expert >= num_experts) return;
    for (int other = 1; other < kReduceRows; ++other) {
        count += counts[other][column];
        sum += sums[other][column];
    }
    task.counts[expert] = count;
    if (task.sums != nullptr) task.sums[expert] = sum;
}

// Gradient of the logit of the expert that this lane (number below K) has chosen, through its weight, where that
// depends on the chosen logits alone. All lanes take part.
__device__ __forceinline__ float chosen_gradient(float logit, float grad, const RouteChoice& choice, bool chosen) {
    if (choice.sigmoid) {
        const float score = chosen ? exact_sigmoid(logit) : 0.0f;
        float upstream = grad;
        if (choice.normalize) {
            const float total = warp_sum(score);
            upstream = (grad - warp_sum(grad * score) / total) / total;
        }
        return upstream * score * (1.0f - score);
    }
    const float largest = warp_max(chosen ? logit : -CUDART_INF_F);
    const float power = chosen ? expf(logit - largest) : 0.0f;
    const float weight = power / warp_sum(power);
    return weight * (grad - warp_sum(grad * weight));
}

template <int V>
__global__ void __launch_bounds__(kThreads, V <= 8 ? 4 : 2) route_backward_kernel(const RouteBackward task) {
    __shared__ __align__(16) float shared[kWarps][kLanes * V];
    const RouteChoice& choice = task.choice;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int first = lane * V;
    const bool over_all = !choice.sigmoid && !choice.normalize;
    const bool needs_scores = over_all || task.grad_sums != nullptr;
    float* const row = shared[warp];
    const bool chosen = lane < choice.top_k;
    const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
    for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < task.num_tokens; token += step) {
        const float* logits = task.logits + token * choice.num_experts;
        const int expert = chosen ? __ldg(task.experts + token * choice.top_k + lane) : 0;
        float grad = chosen ? __ldg(task.grad_weights + token * choice.top_k + lane) * choice.scale : 0.0f;
        if (!over_all) grad = chosen_gradient(chosen ? __ldg(logits + expert) : 0.0f, grad, choice, chosen);
        float out[V] = {};
        store_row<V>(row, first, kLanes * V, out);
        __syncwarp();
        if (chosen) row[expert] = grad;
        __syncwarp();
        read_row<V>(row, first, out);
        if (needs_scores) {
            float logit[V], score[V], upstream[V];
            load_row<V>(logits, first, choice.num_experts, -CUDART_INF_F, logit);
            all_scores<V>(logit, choice.sigmoid, first, choice.num_experts, score);
            float total = 0.0f, inner = 0.0f;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const bool has_sum = task.grad_sums != nullptr && first + i < choice.num_experts;
                upstream[i] = has_sum ? __ldg(task.grad_sums + first + i) : 0.0f;
                if (over_all) upstream[i] += out[i];
                total += score[i];
                inner += upstream[i] * score[i];
            }
            total = choice.sigmoid ? warp_sum(total) : 1.0f;
            inner = warp_sum(inner) / total;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float slope = choice.sigmoid ? score[i] * (1.0f - score[i]) / total : score[i];
                const float dense = slope * (upstream[i] - inner);
                out[i] = over_all ? dense : out[i] + dense;
            }
        }
        store_row<V>(task.grad_logits + token * choice.num_experts, first, choice.num_experts, out);
        __syncwarp();
    }
}

template <int V>
void launch_forward(const RouteForward& task, cudaStream_t stream) {
    route_forward_kernel<V><<<task.num_blocks, kThreads, 0, stream>>>(task);
}

template <int V>
void launch_backward(const RouteBackward& task, cudaStream_t stream) {
    route_backward_kernel<V><<<task.num_blocks, kThreads, 0, stream>>>(task);
}

}  // namespace

cudaError_t route_forward(const RouteForward& task, cudaStream_t stream) {
    const int num_experts = task.choice.num_experts;
    if (num_experts <= 32) launch_forward<1>(task, stream);
    else if (num_experts <= 64) launch_forward<2>(task, stream);
    else if (num_experts <= 128) launch_forward<4>(task, stream);
    else if (num_experts <= 256) launch_forward<8>(task, stream);
    else launch_forward<16>(task, stream);
    const cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) return status;
    const int blocks = (num_experts + kLanes - 1) / kLanes;
    return launch_dependent(route_reduce_kernel, blocks, kLanes * kReduceRows, 0, stream, task);
}

cudaError_t route_backward(const RouteBackward& task, cudaStream_t stream) {
    if (task.num_tokens == 0) return cudaSuccess;
    const int num_experts = task.choice.num_experts;
    if (num_experts <= 32) launch_backward<1>(task, stream);
    else if (num_experts <= 64) launch_backward<2>(task, stream);
    else if (num_experts <= 128) launch_backward<4>(task, stream);
    else if (num_experts <= 256) launch_backward<8>(task, stream);
    else launch_backward<16>(task, stream);
    return cudaGetLastError();
}

}  // namespace meshwright
