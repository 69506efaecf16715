// A stable counting sort in two launches. The first counts each chunk's slots by expert. In the second every block adds
// up those counts itself (there are few blocks), ranks the slots of its chunk and writes both maps. Integer counts do
// not depend on the order of additions, so that every run gives the same bits.
#include "index.h"

#include "../device/dependent.cuh"
#include "../device/limits.h"
#include "../device/scan.cuh"

namespace meshwright {
namespace {

constexpr int kThreads = kScanThreads;
constexpr int kWarps = kThreads / kLanes;
constexpr size_t kUnaskedSharedBytes = 40 * 1024;  // of 48 KiB; the rest is static

// The number among the experts here, or -1.
__device__ __forceinline__ int local_expert(const IndexRows& task, int64_t slot, int64_t end) {
    if (slot >= end) return -1;
    const int expert = __ldg(task.experts + slot) - task.first_expert;
    return expert >= 0 && expert < task.num_experts ? expert : -1;
}

__device__ __forceinline__ int64_t chunk_end(const IndexRows& task) {
    const int64_t end = (static_cast<int64_t>(blockIdx.x) + 1) * task.chunk;
    return end < task.num_slots ? end : task.num_slots;
}

__global__ void __launch_bounds__(kThreads) count_kernel(const IndexRows task) {
    __shared__ int32_t counts[kMostExperts];
    let_later_start();
    for (int expert = threadIdx.x; expert < task.num_experts; expert += kThreads) counts[expert] = 0;
    __syncthreads();
    const int64_t end = chunk_end(task);
    for (int64_t slot = static_cast<int64_t>(blockIdx.x) * task.chunk + threadIdx.x; slot < end; slot += kThreads) {
        const int expert = local_expert(task, slot, end);
        if (expert >= 0) atomicAdd(&counts[expert], 1);
    }
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; row < task.capacity; row += step) {
        task.slots[row] = -1;
    }
    __syncthreads();
    for (int expert = threadIdx.x; expert < task.num_experts; expert += kThreads) {
        task.histograms[static_cast<int64_t>(blockIdx.x) * task.num_experts + expert] = counts[expert];
    }
}

// The row where the first of this chunk's slots of each expert goes, and the row that its slots end before. `limits`
// serves as the counts of all chunks before. Block 0 writes counts and offsets.
__device__ __forceinline__ void first_rows(
    const IndexRows& task, int32_t* first_row, int32_t* limits, int32_t* begins, int* warp_sums) {
    int32_t* const totals = limits;
    const int num_experts = task.num_experts;
    for (int expert = threadIdx.x; expert < num_experts; expert += kThreads) {
        first_row[expert] = 0;
        totals[expert] = 0;
    }
    __syncthreads();
    // Threads side by side read counts side by side; `teams` rows of the histograms at a time.
    const int teams = num_experts < kThreads ? kThreads / num_experts : 1;
    const int team = threadIdx.x / num_experts, expert_of = threadIdx.x % num_experts;
    if (team < teams) {
        int before = 0, total = 0;
#pragma unroll 8
        for (int block = team; block < task.num_blocks; block += teams) {
            const int count = task.histograms[static_cast<int64_t>(block) * num_experts + expert_of];
            total += count;
            before += block < static_cast<int>(blockIdx.x) ? count : 0;
        }
        atomicAdd(&totals[expert_of], total);
        atomicAdd(&first_row[expert_of], before);
    }
    __syncthreads();
    const int expert = static_cast<int>(threadIdx.x);
    const int count = expert < num_experts ? totals[expert] : 0;
    const int padded = (count + task.tile - 1) / task.tile * task.tile;
    int start = sum_before(padded, warp_sums), limit = INT32_MAX;
    if (task.num_parts > 0) {  // the same for all threads
        if (expert < num_experts) begins[expert] = start;
        __syncthreads();
        if (expert < num_experts) {
            const int in_part = num_experts / task.num_parts, part = expert / in_part;
            start += (part > 0 ? __ldg(task.part_ends + part - 1) : 0) - begins[part * in_part];
            limit = __ldg(task.part_ends + part);
        }
    }
    if (expert < num_experts) {
        first_row[expert] += start;
        limits[expert] = limit;
        if (blockIdx.x == 0) {
            task.counts[expert] = count;
            task.offsets[expert] = min(start + padded, limit);
        }
    }
    __syncthreads();
}

// Counts its own slots while the counts of all chunks are still on their way.
__global__ void __launch_bounds__(kThreads) place_kernel(const IndexRows task) {
    extern __shared__ int32_t warp_rows[];  // (kWarps, num_experts): the next row of each expert, by warp
    __shared__ int32_t first_row[kMostExperts];
    __shared__ int32_t limits[kMostExperts];
    __shared__ int32_t begins[kMostExperts];
    __shared__ int warp_sums[kWarps];
    const int num_experts = task.num_experts;
    const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
    for (int index = threadIdx.x; index < kWarps * num_experts; index += kThreads) warp_rows[index] = 0;
    __syncthreads();

    // Each warp has consecutive slots: warps in order are slots in order.
    int32_t* const rows = warp_rows + warp * num_experts;
    const int64_t end = chunk_end(task);
    const int share = task.chunk / kWarps;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * task.chunk + static_cast<int64_t>(warp) * share;
    for (int step = 0; step < share; step += kLanes) {
        const int expert = local_expert(task, first + step + lane, end);
        const unsigned equal = __match_any_sync(kAllLanes, expert);
        if (expert >= 0 && __ffs(static_cast<int>(equal)) - 1 == lane) rows[expert] += __popc(equal);
        __syncwarp();
    }
    wait_for_earlier();
    first_rows(task, first_row, limits, begins, warp_sums);
    for (int expert = threadIdx.x; expert < num_experts; expert += kThreads) {
        int row = first_row[expert];
#pragma unroll 8
        for (int other = 0; other < kWarps; ++other) {
            const int count = warp_rows[other * num_experts + expert];
            warp_rows[other * num_experts + expert] = row;
            row += count;
        }
    }
    __syncthreads();
    for (int step = 0; step < share; step += kLanes) {
        const int64_t slot = first + step + lane;
        const int expert = local_expert(task, slot, end);
        const unsigned equal = __match_any_sync(kAllLanes, expert);
        const int rank = __popc(equal & ((1u << lane) - 1u));
        int row = expert >= 0 ? rows[expert] + rank : -1;
        if (expert >= 0 && row >= limits[expert]) row = -1;
        __syncwarp();
        if (expert >= 0 && rank == 0) rows[expert] += __popc(equal);
        __syncwarp();
        if (slot < end) task.places[slot] = row;
        if (row >= 0) task.slots[row] = static_cast<int32_t>(slot);
    }
}

}  // namespace

cudaError_t index_rows(const IndexRows& task, cudaStream_t stream) {
    count_kernel<<<task.num_blocks, kThreads, 0, stream>>>(task);
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess) return status;
    const size_t shared_bytes = sizeof(int32_t) * kWarps * static_cast<size_t>(task.num_experts);
    if (shared_bytes > kUnaskedSharedBytes) {
        status = cudaFuncSetAttribute(
            place_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (status != cudaSuccess) return status;
    }
    return launch_dependent(place_kernel, task.num_blocks, kThreads, shared_bytes, stream, task);
}

}  // namespace meshwright
