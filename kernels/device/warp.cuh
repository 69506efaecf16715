// Reductions over the 32 lanes of a warp; every lane gets the result, always added in the same order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// `Lanes`, a power of two: each group of so many lanes for itself.
template <int Lanes = kLanes>
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = Lanes / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(kAllLanes, value, distance);
    }
    return value;
}

// Unsigned integers in the order of the numbers: NaN last, -0 equal to +0. A sum with +0 makes -0 +0 and every NaN the
// one that is 0x7fffffff (PTX ISA, add.f32).
__device__ __forceinline__ uint32_t ordered_key(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

__device__ __forceinline__ float number_of_key(uint32_t key) {
    return __uint_as_float((key & 0x80000000u) ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float warp_max(float value) {
    return number_of_key(__reduce_max_sync(kAllLanes, ordered_key(value)));
}

}  // namespace meshwright
