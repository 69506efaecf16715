// Sums over the threads of a block of 1,024.
#pragma once

#include <cuda_runtime.h>

#include "warp.cuh"

namespace meshwright {

constexpr int kScanThreads = kLanes * kLanes;

// The sum of `value` over the threads before this one. All threads of the block take part. `warp_sums` has a number for
// each warp; between two uses of it the block must wait.
__device__ __forceinline__ int sum_before(int value, int* warp_sums) {
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    int inclusive = value;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
        const int lower = __shfl_up_sync(kAllLanes, inclusive, distance);
        if (lane >= distance) inclusive += lower;
    }
    if (lane == kLanes - 1) warp_sums[warp] = inclusive;
    __syncthreads();
    if (warp == 0) {
        const int own = warp_sums[lane];
        int total = own;
#pragma unroll
        for (int distance = 1; distance < kLanes; distance *= 2) {
            const int lower = __shfl_up_sync(kAllLanes, total, distance);
            if (lane >= distance) total += lower;
        }
        warp_sums[lane] = total - own;
    }
    __syncthreads();
    return inclusive - value + warp_sums[warp];
}

}  // namespace meshwright
