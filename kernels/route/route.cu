// A warp for each token. Lane l has experts l V .. l V + V - 1 in registers, V a power of two, so that the lowest of
// equal experts is in the lowest lane. A lane sorts its keys, then a warp-wide maximum picks the best of all lanes' best
// K times. Sums of an expert stay with its lane over all tokens of the warp and are added up in a fixed order; only
// counts, whose order does not show, are added by atomics, in shared memory: the same bits in every run.
#include "route.h"

#include <math_constants.h>

#include "../device/dependent.cuh"
#include "../device/warp.cuh"
#include "choose.cuh"
#include "groups.cuh"
#include "scores.cuh"

namespace meshwright {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kReduceThreads = 1024;
constexpr int kReduceColumns = 8;

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
        weight = chosen ? softmax.power(logit) * softmax.inverse : 0.0f;
    }
    if (choice.normalize) weight /= warp_sum(weight);
    return weight * choice.scale;
}

// Block and expert: one row of partial results, the warps' added in order.
template <int V>
__device__ __forceinline__ void write_partial(
    const RouteForward& task, const int32_t (&counts)[kLanes * V], const uint32_t (&sums)[kWarps][kLanes * V]) {
    const int num_experts = task.choice.num_experts;
    for (int expert = threadIdx.x; expert < num_experts; expert += kThreads) {
        const int64_t place = static_cast<int64_t>(blockIdx.x) * num_experts + expert;
        task.partial_counts[place] = counts[expert];
        if (task.partial_sums == nullptr) continue;
        float total = 0.0f;
#pragma unroll
        for (int warp = 0; warp < kWarps; ++warp) total += __uint_as_float(sums[warp][expert]);
        task.partial_sums[place] = total;
    }
}

// Keys by which scores, with a bias, within the best groups, rank.
template <int V>
__device__ __forceinline__ void rank_scores(
    const RouteForward& task, float (&score)[V], int lane, int first, uint32_t (&key)[V]) {
    const RouteChoice& choice = task.choice;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        const bool exists = first + i < choice.num_experts;
        if (task.bias != nullptr && exists) score[i] += __ldg(task.bias + first + i);
        if (!exists) score[i] = -CUDART_INF_F;
        key[i] = exists ? ordered_key(score[i]) : 0u;
    }
    if (choice.groups_per_token == choice.num_groups) return;
    drop_other_groups<V>(choice, best_groups<V>(score, choice, lane, first), first, key);
}

// Adds the scores of a token, made to sum up to one, to what each lane has.
template <int V>
__device__ __forceinline__ void add_shares(const float (&score)[V], float inverse, float (&sums)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) sums[i] = fmaf(score[i], inverse, sums[i]);
}

template <int V>
__device__ __forceinline__ float inverse_sum(const float (&score)[V]) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < V; ++i) total += score[i];
    return 1.0f / warp_sum(total);
}

// Row `token` of a matrix.
template <typename Number>
__device__ __forceinline__ Number* row_of(Number* matrix, unsigned token, unsigned width) {
    return matrix + static_cast<uint64_t>(token) * width;
}

// K: 0, or the number of experts a token. ByLogit: a softmax with neither bias nor limited groups, whose experts rank
// by their logits. A token's logits are loaded while the one before is sorted out.
template <int V, int K, bool ByLogit>
__global__ void __launch_bounds__(kThreads, V <= 8 ? 4 : 2) route_forward_kernel(const RouteForward task) {
    __shared__ __align__(16) uint32_t shared[kWarps][kLanes * V];  // keys of a token, at the end sums
    __shared__ Choice shared_choices[kWarps][kLanes];
    __shared__ int32_t shared_counts[kLanes * V];
    const RouteChoice& choice = task.choice;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int first = lane * V;
    const bool chosen = lane < (K == 0 ? choice.top_k : K);
    const bool needs_scores = !ByLogit || !choice.normalize || task.partial_sums != nullptr;
    for (int expert = threadIdx.x; expert < kLanes * V; expert += kThreads) shared_counts[expert] = 0;
    __syncthreads();
    float sums[V] = {};
    float logit[V];
    const SharedAddress choices = shared_address(shared_choices[warp]);
    const unsigned step = gridDim.x * kWarps, num_tokens = static_cast<unsigned>(task.num_tokens);
    unsigned token = blockIdx.x * kWarps + warp;
    if (token < num_tokens) {
        const float* logits = row_of(task.logits, token, choice.num_experts);
        load_row<V>(logits, first, choice.num_experts, -CUDART_INF_F, logit);
    }
    for (; token < num_tokens; token += step) {
        uint32_t key[V], sorted[V];
        Softmax softmax{0.0f, 1.0f};
        if constexpr (ByLogit) {
#pragma unroll
            for (int i = 0; i < V; ++i) key[i] = ordered_key(logit[i]);
        } else {
            softmax = all_scores<V>(logit, choice.sigmoid);
            if (task.partial_sums != nullptr) {
                add_shares<V>(logit, choice.sigmoid ? inverse_sum<V>(logit) : 1.0f, sums);
            }
            rank_scores<V>(task, logit, lane, first, key);
        }
        put_keys<V>(shared[warp], lane, key);
#pragma unroll
        for (int i = 0; i < V; ++i) sorted[i] = key[i];
        sort_descending<V>(sorted);
        const uint32_t top = __reduce_max_sync(kAllLanes, sorted[0]);
        if constexpr (ByLogit) {
            softmax.shift = -kLog2E * number_of_key(top);
            if (needs_scores) softmax = softmax_powers<V>(logit, number_of_key(top));
            if (task.partial_sums != nullptr) add_shares<V>(logit, softmax.inverse, sums);
        }
        if (token + step < num_tokens) {
            const float* logits = row_of(task.logits, token + step, choice.num_experts);
            load_row<V>(logits, first, choice.num_experts, -CUDART_INF_F, logit);
        }
        take_best<V, K>(sorted, top, choice.top_k, lane, choices);
        __syncwarp();
        const Choice own = chosen ? shared_choices[warp][lane] : Choice{0u, lane};
        const int expert = expert_of<V>(own, shared[warp], lane, chosen);
        float weight = 0.0f;
        if constexpr (ByLogit) {
            const float power = chosen ? softmax.power(number_of_key(own.key)) : 0.0f;
            if (choice.normalize) softmax.inverse = fast_inverse(warp_sum<K == 0 ? kLanes : K>(power));
            weight = power * softmax.inverse * choice.scale;
        } else {
            const float* logits = row_of(task.logits, token, choice.num_experts);
            weight = gate_weight(chosen ? __ldg(logits + expert) : 0.0f, softmax, choice, lane);
        }
        if (chosen) {
            atomicAdd(&shared_counts[expert], 1);
            row_of(task.experts + lane, token, choice.top_k)[0] = expert;
            row_of(task.weights + lane, token, choice.top_k)[0] = weight;
        }
        __syncwarp();
    }
    let_later_start();
#pragma unroll
    for (int i = 0; i < V; ++i) shared[warp][first + i] = __float_as_uint(sums[i]);
    __syncthreads();
    write_partial<V>(task, shared_counts, shared);
}

// Sums the blocks' partial results in a fixed order: 8 experts a block, each by 128 threads.
__global__ void __launch_bounds__(kReduceThreads) route_reduce_kernel(const RouteForward task) {
    constexpr int kRows = kReduceThreads / kReduceColumns;
    constexpr int kReduceWarps = kReduceThreads / kLanes;
    __shared__ int32_t counts[kReduceWarps][kReduceColumns];
    __shared__ float sums[kReduceWarps][kReduceColumns];
    const int num_experts = task.choice.num_experts;
    const int column = threadIdx.x % kReduceColumns, row = threadIdx.x / kReduceColumns;
    const int warp = threadIdx.x / kLanes;
    const int expert = blockIdx.x * kReduceColumns + column;
    int32_t count = 0;
    float sum = 0.0f;
    wait_for_earlier();
    if (expert < num_experts) {
#pragma unroll 4
        for (int block = row; block < task.num_blocks; block += kRows) {
            const int64_t place = static_cast<int64_t>(block) * num_experts + expert;
            count += task.partial_counts[place];
            if (task.partial_sums != nullptr) sum += task.partial_sums[place];
        }
    }
#pragma unroll
    for (int distance = kReduceColumns; distance < kLanes; distance *= 2) {
        count += __shfl_xor_sync(kAllLanes, count, distance);
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
    }
    counts[warp][column] = count;  // the same from all lanes of a column
    sums[warp][column] = sum;
    __syncthreads();
    if (row != 0 || expert >= num_experts) return;
#pragma unroll 8
    for (int other = 1; other < kReduceWarps; ++other) {
        count += counts[other][column];
        sum += sums[other][column];
    }
    task.counts[expert] = count;
    if (task.sums != nullptr) task.sums[expert] = sum;
}

// Gradient of the logit of the expert that this lane (number below K) has chosen, from that of its weight, where weights
// depend on the chosen logits alone. A normalized softmax is its own derivative: the weights say all, and nothing is
// read from places all over the logits. All lanes take part.
__device__ __forceinline__ float chosen_gradient(const RouteBackward& task, int64_t slot, int64_t row, bool chosen) {
    const RouteChoice& choice = task.choice;
    const float grad = chosen ? __ldg(task.grad_weights + slot) : 0.0f;
    if (!choice.sigmoid) {
        const float weight = chosen ? __ldg(task.weights + slot) : 0.0f;
        const float inner = warp_sum(grad * weight);
        return weight * (grad - (choice.scale == 0.0f ? 0.0f : inner / choice.scale));
    }
    const float logit = chosen ? __ldg(task.logits + row + __ldg(task.experts + slot)) : 0.0f;
    const float score = chosen ? exact_sigmoid(logit) : 0.0f;
    float upstream = grad * choice.scale;
    if (choice.normalize) {
        const float total = warp_sum(score);
        upstream = (upstream - warp_sum(upstream * score) / total) / total;
    }
    return upstream * score * (1.0f - score);
}

// Dense: the gradient goes through the scores of all experts, not of the chosen ones alone.
template <int V, bool Dense>
__global__ void __launch_bounds__(kThreads, (V <= 8 ? 4 : 2) * (Dense ? 1 : 2)) route_backward_kernel(
    const RouteBackward task) {
    __shared__ __align__(16) float shared[kWarps][kLanes * V];
    const RouteChoice& choice = task.choice;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int first = lane * V;
    const bool over_all = !choice.sigmoid && !choice.normalize;
    float* const row = shared[warp];
    const bool chosen = lane < choice.top_k;
    const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
    for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < task.num_tokens; token += step) {
        const int64_t slot = token * choice.top_k + lane, start = token * choice.num_experts;
        const int expert = chosen ? __ldg(task.experts + slot) : 0;
        float out[V] = {};
        store_row<V>(row, first, kLanes * V, out);
        const float grad = !Dense || !over_all ? chosen_gradient(task, slot, start, chosen)
                           : chosen            ? __ldg(task.grad_weights + slot) * choice.scale
                                               : 0.0f;
        __syncwarp();
        if (chosen) row[expert] = grad;
        __syncwarp();
        read_row<V>(row, first, out);
        if constexpr (Dense) {
            float score[V], upstream[V];
            load_row<V>(task.logits + start, first, choice.num_experts, -CUDART_INF_F, score);
            all_scores<V>(score, choice.sigmoid);
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
        store_row<V>(task.grad_logits + start, first, choice.num_experts, out);
        __syncwarp();
    }
}

template <int V, bool ByLogit>
void launch_ranked(const RouteForward& task, cudaStream_t stream) {
    constexpr int kUsual = V < 4 ? 0 : 8;  // experts a token that have a kernel of their own
    const auto kernel =
        task.choice.top_k == kUsual ? route_forward_kernel<V, kUsual, ByLogit> : route_forward_kernel<V, 0, ByLogit>;
    kernel<<<task.num_blocks, kThreads, 0, stream>>>(task);
}

template <int V>
void launch_forward(const RouteForward& task, cudaStream_t stream) {
    const RouteChoice& choice = task.choice;
    const bool limited = choice.groups_per_token < choice.num_groups;
    if (choice.sigmoid || task.bias != nullptr || limited) launch_ranked<V, false>(task, stream);
    else launch_ranked<V, true>(task, stream);
}

template <int V>
void launch_backward(const RouteBackward& task, cudaStream_t stream) {
    const bool over_all = !task.choice.sigmoid && !task.choice.normalize;
    const bool dense = over_all || task.grad_sums != nullptr;
    const auto kernel = dense ? route_backward_kernel<V, true> : route_backward_kernel<V, false>;
    kernel<<<task.num_blocks, kThreads, 0, stream>>>(task);
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
    const int blocks = (num_experts + kReduceColumns - 1) / kReduceColumns;
    return launch_dependent(route_reduce_kernel, blocks, kReduceThreads, 0, stream, task);
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
