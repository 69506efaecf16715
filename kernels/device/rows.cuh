// Which rows of a worst-case buffer are there: known on the device only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

// slots: (P), -1 for padding. end: one past the last row of the last group. Both null: all rows are there.
struct LiveRows {
    const int32_t* slots;
    const int32_t* end;

#ifdef __CUDACC__  // the host only fills in the pointers
    // Whether a row lies behind all groups; nothing is written there.
    __device__ __forceinline__ bool beyond(int64_t row) const { return end != nullptr && row >= __ldg(end); }

    // Whether a row fills up its group; it is zero.
    __device__ __forceinline__ bool padding(int64_t row) const { return slots != nullptr && __ldg(slots + row) < 0; }
#endif
};

}  // namespace meshwright
