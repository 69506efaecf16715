// The K best of a token's experts by a warp. Lane l has the keys of experts l V .. l V + V - 1.
#pragma once

#include <cuda_runtime.h>

#include "../device/sort.cuh"
#include "../device/warp.cuh"

namespace meshwright {

// A choice: its key, and the lane that has it.
struct __align__(8) Choice {
    uint32_t key;
    int lane;
};

// Keys of a warp in shared memory, the first four of every lane, then the next four: no bank conflicts.
template <int V>
__device__ __forceinline__ void put_keys(uint32_t* shared, int lane, const uint32_t (&key)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const uint4 raw = make_uint4(key[i], key[i + 1], key[i + 2], key[i + 3]);
            reinterpret_cast<uint4*>(shared)[i / 4 * kLanes + lane] = raw;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) shared[i * kLanes + lane] = key[i];
    }
}

template <int V>
__device__ __forceinline__ void get_keys(const uint32_t* shared, int lane, uint32_t (&key)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const uint4 raw = reinterpret_cast<const uint4*>(shared)[i / 4 * kLanes + lane];
            key[i] = raw.x;
            key[i + 1] = raw.y;
            key[i + 2] = raw.z;
            key[i + 3] = raw.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; ++i) key[i] = shared[i * kLanes + lane];
    }
}

template <int V>
__device__ __forceinline__ uint32_t one_key(const uint32_t* shared, int lane, int place) {
    constexpr int kWidth = V % 4 == 0 ? 4 : 1;
    return shared[(place / kWidth * kLanes + lane) * kWidth + place % kWidth];
}

__device__ __forceinline__ unsigned lanes_up_to(int lane) { return kAllLanes >> (kLanes - 1 - lane); }

// An address in shared memory that stays in a register instead of being worked out anew at every use.
using SharedAddress = unsigned;

__device__ __forceinline__ SharedAddress shared_address(const void* pointer) {
    SharedAddress address = static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
    asm volatile("" : "+r"(address));
    return address;
}

// A store to shared memory under a predicate: written as an `if` it becomes a branch of a dozen instructions.
__device__ __forceinline__ void put_choice_if(bool holds, SharedAddress target, const Choice& choice) {
    asm volatile(
        "{\n.reg .pred holds;\nsetp.ne.u32 holds, %0, 0;\n@holds st.shared.v2.u32 [%1], {%2, %3};\n}"
        :
        : "r"(static_cast<unsigned>(holds)), "r"(target), "r"(choice.key), "r"(choice.lane)
        : "memory");
}

// Takes the best key of all lanes' sorted keys K times and writes down whose it was; `top` is the first. Of equal keys
// the lowest lane's goes first. K is 0 where it is known at run time only; else nothing is moved that is not needed.
template <int V, int K>
__device__ __forceinline__ void take_best(
    uint32_t (&sorted)[V], uint32_t top, int top_k, int lane, SharedAddress choices) {
    const unsigned own_bit = 1u << lane;
    const unsigned lanes_up_to_this = lanes_up_to(lane);
    const int rounds = K == 0 ? top_k : K;
#pragma unroll(K == 0 ? 1 : K)
    for (int j = 0; j < rounds; ++j) {
        const unsigned holders = __ballot_sync(kAllLanes, sorted[0] == top);
        const bool gives = (holders & lanes_up_to_this) == own_bit;
        put_choice_if(gives, choices + j * static_cast<int>(sizeof(Choice)), Choice{sorted[0], lane});
        if (j + 1 == rounds) break;
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if (K != 0 && j + i + 1 >= K) continue;  // nobody will ask for it
            const uint32_t next = i + 1 < V ? sorted[i + 1 < V ? i + 1 : i] : 0u;
            sorted[i] = gives ? next : sorted[i];
        }
        top = __reduce_max_sync(kAllLanes, sorted[0]);
    }
}

// The expert of a choice, in the lane of its number. All lanes take part, those without a choice with their own lane's.
template <int V>
__device__ __forceinline__ int expert_of(const Choice& choice, const uint32_t* shared, int lane, bool chosen) {
    uint32_t key[V];
    get_keys<V>(shared, choice.lane, key);
    int place = 0;
#pragma unroll
    for (int i = V - 1; i >= 0; --i) place = key[i] == choice.key ? i : place;
    // Equal keys of a lane were taken one after another: the second of a run is the second in the lane, and so on.
    const uint32_t key_before = __shfl_up_sync(kAllLanes, choice.key, 1);
    const int lane_before = __shfl_up_sync(kAllLanes, choice.lane, 1);
    const bool again = chosen && lane > 0 && key_before == choice.key && lane_before == choice.lane;
    const unsigned repeats = __ballot_sync(kAllLanes, again);
    if (repeats != 0) {
        const unsigned starts = ~repeats & lanes_up_to(lane);
        int skip = lane - (kLanes - 1 - __clz(static_cast<int>(starts)));
#pragma unroll 1
        for (place = 0; place < V; ++place) {
            if (one_key<V>(shared, choice.lane, place) == choice.key && skip-- == 0) break;
        }
    }
    return choice.lane * V + place;
}

}  // namespace meshwright
