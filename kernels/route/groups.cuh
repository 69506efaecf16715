// Group-limited choice: which groups of experts a token may choose from.
#pragma once

#include <math_constants.h>

#include "../device/warp.cuh"
#include "route.h"

namespace meshwright {

struct BestTwo {
    float first;
    float second;

    __device__ __forceinline__ void add(float value) {
        second = fmaxf(second, fminf(first, value));
        first = fmaxf(first, value);
    }

    __device__ __forceinline__ void merge_from(int distance) {
        const float other_first = __shfl_xor_sync(kAllLanes, first, distance);
        const float other_second = __shfl_xor_sync(kAllLanes, second, distance);
        second = fmaxf(fminf(first, other_first), fmaxf(second, other_second));
        first = fmaxf(first, other_first);
    }

    // A group is as good as its best expert, or (sigmoid scores) its two best together.
    __device__ __forceinline__ float worth(bool both) const { return both ? first + second : first; }
};

// Whether each group is a whole number of lanes, a power of two.
template <int V>
__device__ __forceinline__ bool lanes_divide_groups(int group_size) {
    const int lanes = group_size / V;
    return group_size % V == 0 && (lanes & (lanes - 1)) == 0;
}

// Bit g: group g is among the best of the token. Of equal groups the first is taken.
template <int V>
__device__ unsigned best_groups(const float (&score)[V], const RouteChoice& choice, int lane, int first) {
    const int group_size = choice.num_experts / choice.num_groups;
    const bool both = choice.sigmoid && group_size > 1;
    float worth = -CUDART_INF_F;  // of group number `lane`
    if (lanes_divide_groups<V>(group_size)) {
        const int lanes = group_size / V;
        BestTwo best{-CUDART_INF_F, -CUDART_INF_F};
#pragma unroll
        for (int i = 0; i < V; ++i) best.add(score[i]);
        for (int distance = 1; distance < lanes; distance *= 2) best.merge_from(distance);
        const float own = best.worth(both);
        const int source = lane < choice.num_groups ? lane * lanes : 0;
        const float moved = __shfl_sync(kAllLanes, own, source);
        if (lane < choice.num_groups) worth = moved;
    } else {
        for (int group = 0; group < choice.num_groups; ++group) {
            BestTwo best{-CUDART_INF_F, -CUDART_INF_F};
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const int expert = first + i;
                if (expert < choice.num_experts && expert / group_size == group) best.add(score[i]);
            }
            for (int distance = 1; distance < kLanes; distance *= 2) best.merge_from(distance);
            if (lane == group) worth = best.worth(both);
        }
    }
    int better = 0;
    for (int group = 0; group < choice.num_groups; ++group) {
        const float other = __shfl_sync(kAllLanes, worth, group);
        better += other > worth || (other == worth && group < lane);
    }
    return __ballot_sync(kAllLanes, lane < choice.num_groups && better < choice.groups_per_token);
}

template <int V>
__device__ __forceinline__ void drop_other_groups(
    const RouteChoice& choice, unsigned groups, int first, uint32_t (&key)[V]) {
    const int group_size = choice.num_experts / choice.num_groups;
    if (group_size % V == 0) {
        const int group = first / group_size;
        const bool stays = group < kLanes && ((groups >> group) & 1u);
#pragma unroll
        for (int i = 0; i < V; ++i) key[i] = stays ? key[i] : 0u;
        return;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
        const int group = (first + i) / group_size;
        const bool stays = group < kLanes && ((groups >> group) & 1u);
        key[i] = stays ? key[i] : 0u;
    }
}

}  // namespace meshwright
