// Launch of the kernel that groups rows of several sources by expert. Pointers are on the device; shapes as in
// contract.py.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

struct RegroupRows {
    int64_t num_rows;          // that arrived
    int64_t capacity;          // rows of the grouped layout, at worst
    int num_sources;
    int num_experts;           // here
    int tile;                  // groups are filled up to whole tiles
    bool in_parts;             // a source's rows stand at the begin of an equal part of the rows
    int num_blocks;
    const int32_t* arriving;   // (num_sources, num_experts)
    int32_t* slots;            // (capacity)
    int32_t* places;           // (num_rows)
    int32_t* counts;           // (num_experts)
    int32_t* offsets;          // (num_experts)
};

cudaError_t regroup_rows(const RegroupRows& task, cudaStream_t stream);

}  // namespace meshwright
