// One launch. Rows of one source and one expert, a segment, lie side by side before and after: three sums over the few
// segments, which every block takes for itself, say where each begins, and a search among the beginnings tells a row its
// segment. Both maps are written in their own order, so that neither needs clearing, and nothing is counted twice.
#include "regroup.h"

#include "../device/limits.h"
#include "../device/scan.cuh"

namespace meshwright {
namespace {

constexpr int kThreads = kScanThreads;
static_assert(kMostSegments <= kThreads, "a thread has a segment");

// The last of `count` ascending numbers that is not above `value`; the first number is 0, `value` at least that.
__device__ __forceinline__ int segment_of(const int* starts, int count, int64_t value) {
    int low = 0;
    for (int high = count; high - low > 1;) {
        const int middle = (low + high) / 2;
        if (starts[middle] <= value) low = middle;
        else high = middle;
    }
    return low;
}

__global__ void __launch_bounds__(kThreads) regroup_kernel(const RegroupRows task) {
    __shared__ int arrived[kMostSegments];        // first row of segment (source, expert), as they came
    __shared__ int grouped[kMostSegments + 1];    // first row of segment (expert, source), before padding
    __shared__ int filled[kMostSegments];         // the same with the groups before it filled up
    __shared__ int warp_sums[kThreads / kLanes];
    const int num_sources = task.num_sources, num_experts = task.num_experts;
    const int num_segments = num_sources * num_experts, thread = static_cast<int>(threadIdx.x);
    const bool has_segment = thread < num_segments;

    // Thread i has segment i of either order.
    const int source = thread % num_sources, expert = thread / num_sources;
    const int came = has_segment ? __ldg(task.arriving + thread) : 0;
    const int goes = has_segment ? __ldg(task.arriving + source * num_experts + expert) : 0;
    const int came_before = sum_before(came, warp_sums);
    __syncthreads();
    const int goes_before = sum_before(goes, warp_sums);
    if (has_segment) {
        arrived[thread] = came_before;
        grouped[thread] = goes_before;
    }
    if (thread == num_segments - 1) grouped[num_segments] = goes_before + goes;
    __syncthreads();
    if (task.in_parts) {  // the same for all threads
        const int from = thread / num_experts, part_rows = static_cast<int>(task.num_rows / num_sources);
        const int before_source = has_segment ? arrived[from * num_experts] : 0;
        __syncthreads();
        if (has_segment) arrived[thread] = came_before - before_source + from * part_rows;
        __syncthreads();
    }

    // Thread i has expert i.
    const bool has_expert = thread < num_experts;
    const int begin = has_expert ? grouped[thread * num_sources] : 0;
    const int count = has_expert ? grouped[(thread + 1) * num_sources] - begin : 0;
    const int padded = (count + task.tile - 1) / task.tile * task.tile;
    const int start = sum_before(padded, warp_sums);
    if (has_expert) {
        for (int other = 0; other < num_sources; ++other) {
            const int segment = thread * num_sources + other;
            filled[segment] = start + grouped[segment] - begin;
        }
        if (blockIdx.x == 0) {
            task.counts[thread] = count;
            task.offsets[thread] = start + padded;
        }
    }
    __syncthreads();

    const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + thread;
    const int64_t step = static_cast<int64_t>(task.num_blocks) * kThreads;
    for (int64_t row = first; row < task.capacity; row += step) {
        const int segment = segment_of(filled, num_segments, row);
        const int64_t within = row - filled[segment];
        const int size = grouped[segment + 1] - grouped[segment];
        const int arrival = arrived[segment % num_sources * num_experts + segment / num_sources];
        task.slots[row] = within < size ? static_cast<int32_t>(arrival + within) : -1;
    }
    for (int64_t row = first; row < task.num_rows; row += step) {
        const int segment = segment_of(arrived, num_segments, row);
        const int target = segment % num_experts * num_sources + segment / num_experts;
        const int64_t within = row - arrived[segment];
        const int size = grouped[target + 1] - grouped[target];
        task.places[row] = within < size ? static_cast<int32_t>(filled[target] + within) : -1;
    }
}

}  // namespace

cudaError_t regroup_rows(const RegroupRows& task, cudaStream_t stream) {
    regroup_kernel<<<task.num_blocks, kThreads, 0, stream>>>(task);
    return cudaGetLastError();
}

}  // namespace meshwright
