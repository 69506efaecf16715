// Launch of the counting sort of slots by expert. Pointers are on the device; shapes as in contract.py.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

struct IndexRows {
    int64_t num_slots;
    int64_t capacity;          // rows of the sorted layout, at worst
    int num_experts;           // here
    int first_expert;          // number of the first expert here
    int tile;                  // groups are filled up to whole tiles
    int num_parts;             // parts of the capacity, each for as many experts; 0: groups lie side by side
    const int32_t* part_ends;  // (num_parts)
    int chunk;                 // slots a block, a multiple of 1,024
    int num_blocks;
    const int32_t* experts;    // (num_slots)
    int32_t* slots;            // (capacity)
    int32_t* places;           // (num_slots)
    int32_t* counts;           // (num_experts)
    int32_t* offsets;          // (num_experts)
    int32_t* histograms;       // (num_blocks, num_experts), written by the first launch
};

cudaError_t index_rows(const IndexRows& task, cudaStream_t stream);

}  // namespace meshwright
