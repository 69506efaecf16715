// Rows that fill an expert's group up to a whole tile. They must be zero: products of groups read them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

// The padding rows [first, end) of an expert: behind its counted rows, before its group's end.
struct RowRange {
    int first;
    int end;
};

__device__ __forceinline__ RowRange padding_rows(const int32_t* counts, const int32_t* offsets, int expert) {
    const int start = expert == 0 ? 0 : offsets[expert - 1];
    return {start + counts[expert], offsets[expert]};
}

// Zero the expert's padding rows with all threads of a block. `gates` may be null.
__device__ __forceinline__ void zero_padding(
    const int32_t* counts, const int32_t* offsets, int expert, uint4* rows, int row_vectors, float* gates) {
    const RowRange range = padding_rows(counts, offsets, expert);
    const int64_t end = static_cast<int64_t>(range.end) * row_vectors;
    const int64_t first = static_cast<int64_t>(range.first) * row_vectors;
    for (int64_t index = first + threadIdx.x; index < end; index += blockDim.x) rows[index] = make_uint4(0, 0, 0, 0);
    if (gates == nullptr) return;
    for (int row = range.first + static_cast<int>(threadIdx.x); row < range.end; row += blockDim.x) gates[row] = 0.0f;
}

}  // namespace meshwright
