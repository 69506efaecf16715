// Which rows of a worst-case buffer are there: known on the device only.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

namespace meshwright {

// Beyond: behind all groups; nothing is written there. Padding: fills up its group; it is zero.
enum class RowState { kLive, kPadding, kBeyond };

// slots: (P), -1 for padding. end: one past the last row of the last group. Both null: all rows are there.
struct LiveRows {
    const int32_t* slots;
    const int32_t* end;

#ifdef __CUDACC__  // the host only fills in the pointers
    // Both numbers are read before either is looked at, so that what follows waits for memory once.
    __device__ __forceinline__ RowState state(int64_t row) const {
        const int last = end == nullptr ? INT_MAX : __ldg(end);
        const int slot = slots == nullptr ? 0 : __ldg(slots + row);
        if (row >= last) return RowState::kBeyond;
        return slot < 0 ? RowState::kPadding : RowState::kLive;
    }

    __device__ __forceinline__ bool beyond(int64_t row) const { return end != nullptr && row >= __ldg(end); }
    __device__ __forceinline__ bool padding(int64_t row) const { return slots != nullptr && __ldg(slots + row) < 0; }
#endif
};

}  // namespace meshwright
