// Keys sorted in the registers of one thread.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

// The exchanges of one round: keys `Apart` places apart, within merges of twice `Width` keys.
template <int N, int Width, int Apart>
__device__ __forceinline__ void exchange_keys(uint32_t (&key)[N]) {
    constexpr int kStart = Apart % Width;  // 0 in the first round of a merge
#pragma unroll
    for (int i = kStart; i < N - Apart; ++i) {
        if ((i - kStart) / Apart % 2 != 0 || i / (2 * Width) != (i + Apart) / (2 * Width)) continue;
        const uint32_t larger = max(key[i], key[i + Apart]);
        key[i + Apart] = min(key[i], key[i + Apart]);
        key[i] = larger;
    }
    if constexpr (Apart > 1) exchange_keys<N, Width, Apart / 2>(key);
}

// Largest first, N a power of two. Batcher's odd-even merge sort (Knuth, The Art of Computer Programming, volume 3,
// section 5.2.2): 5 exchanges for 4 keys, 19 for 8, 63 for 16, each a maximum and a minimum.
template <int N, int Width = 1>
__device__ __forceinline__ void sort_descending(uint32_t (&key)[N]) {
    if constexpr (Width < N) {
        exchange_keys<N, Width, Width>(key);
        sort_descending<N, 2 * Width>(key);
    }
}

}  // namespace meshwright
