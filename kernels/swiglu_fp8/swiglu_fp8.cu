// A block computes a tile of 128 rows and 128 columns once, in registers, and writes it twice as e4m3: by rows with a
// scale for 128 columns, and turned by columns with a scale for 128 rows. A thread has 4 rows of 8 columns and loads all
// of them at once; 16 threads side by side have a row of the tile.
#include "swiglu_fp8.h"

#include <cuda_fp8.h>

#include "../device/silu.cuh"
#include "../device/vector.cuh"
#include "../device/warp.cuh"

namespace meshwright {
namespace {

constexpr int kTile = 128;
constexpr int kPart = 8;                  // columns of a thread
constexpr int kRows = 4;                  // rows of a thread
constexpr int kTeams = kTile / kPart;     // threads along a row
constexpr int kThreads = kTeams * kTile / kRows;
constexpr int kWarps = kThreads / kLanes;
constexpr float kLargest = 448.0f;        // of e4m3
constexpr float kLeastAmax = 1e-30f;      // keeps scales above zero; as in reference.py

__device__ __forceinline__ uint32_t pack_four(float a, float b, float c, float d) {
    const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
    const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
    return low | (high << 16);
}

__device__ __forceinline__ float scale_of(float amax) { return fmaxf(amax, kLeastAmax) / kLargest; }

// Bit i: row + i is padding. All loads are under way together.
__device__ __forceinline__ unsigned padding_of(const SwigluFp8& task, int64_t row) {
    unsigned padding = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) padding |= static_cast<unsigned>(task.live.padding(row + i)) << i;
    return padding;
}

// All loads first, so that they are under way together: by way of the first cache, faster here. Padding
// rows are zero and not read.
__device__ __forceinline__ void load_values(
    const SwigluFp8& task, int64_t row, unsigned padding, int column_vector, float (&value)[kRows][kPart]) {
    uint4 gate_raw[kRows], up_raw[kRows];
    float weight[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        gate_raw[i] = up_raw[i] = make_uint4(0, 0, 0, 0);
        weight[i] = 0.0f;
        if ((padding >> i) & 1u) continue;
        gate_raw[i] = __ldcs(task.gate + (row + i) * task.gate_stride + column_vector);
        up_raw[i] = __ldcs(task.up + (row + i) * task.up_stride + column_vector);
        weight[i] = task.weights == nullptr ? 1.0f : __ldg(task.weights + row + i);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        float up[kPart];
        Vector<__nv_bfloat16>::widen(gate_raw[i], value[i]);
        Vector<__nv_bfloat16>::widen(up_raw[i], up);
#pragma unroll
        for (int j = 0; j < kPart; ++j) value[i][j] = silu(value[i][j]) * up[j] * weight[i];
    }
}

__global__ void __launch_bounds__(kThreads, 2) swiglu_fp8_kernel(const SwigluFp8 task) {
    __shared__ __align__(16) uint32_t turned[kTile][kTile / kRows];  // [column][4 rows], places permuted: no conflicts
    __shared__ float warp_amax[kWarps][kTile];
    const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    const int across = threadIdx.x % kTeams, down = threadIdx.x / kTeams;
    const int64_t row = first_row + down * kRows;
    const int column = static_cast<int>(blockIdx.x) * kTile + across * kPart;
    const unsigned padding = padding_of(task, row);  // under way together with the next
    if (task.live.beyond(first_row)) return;
    float value[kRows][kPart];
    load_values(task, row, padding, column / kPart, value);

    float column_amax[kPart] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        float amax = 0.0f;
#pragma unroll
        for (int j = 0; j < kPart; ++j) {
            const float size = fabsf(value[i][j]);
            amax = fmaxf(amax, size);
            column_amax[j] = fmaxf(column_amax[j], size);
        }
#pragma unroll
        for (int distance = 1; distance < kTeams; distance *= 2) {
            amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, distance));
        }
        const float scale = scale_of(amax);
        const float inverse = 1.0f / scale;
        const float* v = value[i];
        const uint2 packed = make_uint2(
            pack_four(v[0] * inverse, v[1] * inverse, v[2] * inverse, v[3] * inverse),
            pack_four(v[4] * inverse, v[5] * inverse, v[6] * inverse, v[7] * inverse));
        *reinterpret_cast<uint2*>(task.rows + (row + i) * task.width + column) = packed;
        if (across == 0) task.row_scales[(row + i) * (task.width / kTile) + blockIdx.x] = scale;
    }

    // Columns: the two teams of a warp first, then the warps.
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
        column_amax[j] = fmaxf(column_amax[j], __shfl_xor_sync(kAllLanes, column_amax[j], kTeams));
        if (lane < kTeams) warp_amax[warp][across * kPart + j] = column_amax[j];
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
        float amax = warp_amax[0][threadIdx.x];
#pragma unroll
        for (int other = 1; other < kWarps; ++other) amax = fmaxf(amax, warp_amax[other][threadIdx.x]);
        const float scale = scale_of(amax);
        warp_amax[0][threadIdx.x] = 1.0f / scale;
        const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile;
        task.column_scales[static_cast<int64_t>(blockIdx.y) * task.width + first_column + threadIdx.x] = scale;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
        const float inverse = warp_amax[0][across * kPart + j];
        turned[across * kPart + j][down ^ (2 * across)] =
            pack_four(value[0][j] * inverse, value[1][j] * inverse, value[2][j] * inverse, value[3][j] * inverse);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
        const int own = i * (kThreads / kTeams) + down;  // column of the tile; this thread writes 8 rows of it
        const int64_t target = (static_cast<int64_t>(blockIdx.x) * kTile + own) * task.num_rows + first_row;
        reinterpret_cast<uint2*>(task.columns + target)[across] =
            reinterpret_cast<const uint2*>(turned[own])[across ^ (own / kPart)];
    }
}

}  // namespace

cudaError_t swiglu_fp8(const SwigluFp8& task, cudaStream_t stream) {
    if (task.num_rows == 0) return cudaSuccess;
    const dim3 grid(static_cast<unsigned>(task.width / kTile), static_cast<unsigned>(task.num_rows / kTile));
    swiglu_fp8_kernel<<<grid, kThreads, 0, stream>>>(task);
    return cudaGetLastError();
}

}  // namespace meshwright
