// A token's scores in the registers of a warp: lane l has experts l V .. l V + V - 1.
#pragma once

#include <cuda_runtime.h>

#include "../device/warp.cuh"

namespace meshwright {

template <int V>
__device__ __forceinline__ void load_row(const float* row, int first, int num_experts, float fill, float (&out)[V]) {
    constexpr int kWidth = V < 4 ? V : 4;
    if (num_experts % kWidth == 0) {
#pragma unroll
        for (int i = 0; i < V; i += kWidth) {
            const bool inside = first + i < num_experts;
            if constexpr (kWidth == 4) {
                const float4 raw = inside ? __ldg(reinterpret_cast<const float4*>(row + first + i))
                                          : make_float4(fill, fill, fill, fill);
                out[i] = raw.x;
                out[i + 1] = raw.y;
                out[i + 2] = raw.z;
                out[i + 3] = raw.w;
            } else if constexpr (kWidth == 2) {
                const float2 raw =
                    inside ? __ldg(reinterpret_cast<const float2*>(row + first + i)) : make_float2(fill, fill);
                out[i] = raw.x;
                out[i + 1] = raw.y;
            } else {
                out[i] = inside ? __ldg(row + first + i) : fill;
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = first + i < num_experts ? __ldg(row + first + i) : fill;
    }
}

template <int V>
__device__ __forceinline__ void store_row(float* row, int first, int num_experts, const float (&in)[V]) {
    constexpr int kWidth = V < 4 ? V : 4;
    if (num_experts % kWidth == 0) {
#pragma unroll
        for (int i = 0; i < V; i += kWidth) {
            if (first + i >= num_experts) continue;
            if constexpr (kWidth == 4) {
                *reinterpret_cast<float4*>(row + first + i) = make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]);
            } else if constexpr (kWidth == 2) {
                *reinterpret_cast<float2*>(row + first + i) = make_float2(in[i], in[i + 1]);
            } else {
                row[first + i] = in[i];
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if (first + i < num_experts) row[first + i] = in[i];
        }
    }
}

// From shared memory, whose rows are whole.
template <int V>
__device__ __forceinline__ void read_row(const float* row, int first, float (&out)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 raw = *reinterpret_cast<const float4*>(row + first + i);
            out[i] = raw.x;
            out[i + 1] = raw.y;
            out[i + 2] = raw.z;
            out[i + 3] = raw.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = row[first + i];
    }
}

__device__ __forceinline__ float fast_sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float exact_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// What turns a logit into its probability: exp(logit - largest) * inverse.
struct Softmax {
    float largest;
    float inverse;
};

// Probabilities (softmax over all experts) or sigmoid scores of a token. Experts that do not exist get 0.
template <int V>
__device__ __forceinline__ Softmax all_scores(
    const float (&logit)[V], bool sigmoid, int first, int num_experts, float (&score)[V]) {
    if (sigmoid) {
#pragma unroll
        for (int i = 0; i < V; ++i) score[i] = first + i < num_experts ? fast_sigmoid(logit[i]) : 0.0f;
        return {0.0f, 1.0f};
    }
    float largest = logit[0];
#pragma unroll
    for (int i = 1; i < V; ++i) largest = fmaxf(largest, logit[i]);
    largest = warp_max(largest);
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        score[i] = first + i < num_experts ? __expf(logit[i] - largest) : 0.0f;
        total += score[i];
    }
    const float inverse = 1.0f / warp_sum(total);
#pragma unroll
    for (int i = 0; i < V; ++i) score[i] *= inverse;
    return {largest, inverse};
}

}  // namespace meshwright
