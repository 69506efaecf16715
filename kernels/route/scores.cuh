// A token's scores in the registers of a warp: lane l has experts l V .. l V + V - 1.
#pragma once

#include <cuda_runtime.h>

#include "../device/warp.cuh"

namespace meshwright {

template <int V>
__device__ __forceinline__ void load_row(const float* row, int first, int num_experts, float fill, float (&out)[V]) {
    constexpr int kWidth = V < 4 ? V : 4;
    if constexpr (kWidth == 4) {
        if (num_experts == kLanes * V) {  // no expert is missing
#pragma unroll
            for (int i = 0; i < V; i += kWidth) {
                const float4 raw = __ldg(reinterpret_cast<const float4*>(row + first + i));
                out[i] = raw.x;
                out[i + 1] = raw.y;
                out[i + 2] = raw.z;
                out[i + 3] = raw.w;
            }
            return;
        }
    }
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

constexpr float kLog2E = 1.4426950408889634f;

// 2 to the power of x by the special function unit; 0 where that is below 2^-126.
__device__ __forceinline__ float fast_exp2(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

// 1 / x by the special function unit.
__device__ __forceinline__ float fast_inverse(float x) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
}

__device__ __forceinline__ float fast_sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float exact_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// What turns a logit into its probability. `shift` is -log2(e) times the largest logit: its rounding is common to all
// experts of a token and so cancels.
struct Softmax {
    float shift;
    float inverse;

    __device__ __forceinline__ float power(float logit) const { return fast_exp2(fmaf(logit, kLog2E, shift)); }
};

// Turns logits into powers in place, those that do not exist, which are -inf, into 0; `inverse` makes probabilities of
// them. `largest`: of the logits.
template <int V>
__device__ __forceinline__ Softmax softmax_powers(float (&logit)[V], float largest) {
    Softmax softmax{-kLog2E * largest, 1.0f};
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < V; ++i) {
        logit[i] = softmax.power(logit[i]);
        total += logit[i];
    }
    softmax.inverse = fast_inverse(warp_sum(total));
    return softmax;
}

template <int V>
__device__ __forceinline__ float largest_of(const float (&logit)[V]) {
    float largest = logit[0];
#pragma unroll
    for (int i = 1; i < V; ++i) largest = fmaxf(largest, logit[i]);
    return warp_max(largest);
}

// Turns logits into probabilities (softmax over all experts) or sigmoid scores in place. Experts that do not exist,
// whose logits are -inf, get 0.
template <int V>
__device__ __forceinline__ Softmax all_scores(float (&logit)[V], bool sigmoid) {
    Softmax softmax{0.0f, 1.0f};
    if (!sigmoid) softmax = softmax_powers<V>(logit, largest_of<V>(logit));
#pragma unroll
    for (int i = 0; i < V; ++i) logit[i] = sigmoid ? fast_sigmoid(logit[i]) : logit[i] * softmax.inverse;
    return softmax;
}

}  // namespace meshwright
