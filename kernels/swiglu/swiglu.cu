// 16 bytes a lane and load, float32 inside. Forward, a warp has a part of a row and loads all of it at once; backward,
// which sums over a row, a warp has a row. Rows behind the last group cost nothing, padding rows are zeroed without being
// read.
#include "swiglu.h"

#include "../device/silu.cuh"
#include "../device/vector.cuh"
#include "../device/warp.cuh"

namespace meshwright {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kBackwardVectors = 2;

__device__ __forceinline__ void zero_row(uint4* row, int vectors, int lane) {
    for (int index = lane; index < vectors; index += kLanes) row[index] = make_uint4(0, 0, 0, 0);
}

// Vectors: of a lane. num_parts: of a row.
template <typename Number, int Vectors>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const Swiglu task, unsigned num_parts) {
    constexpr int kCount = Vector<Number>::kCount;
    const unsigned part = blockIdx.x * kWarps + threadIdx.x / kLanes;
    const int64_t row = part / num_parts;
    const int first = static_cast<int>(part % num_parts) * kLanes * Vectors + static_cast<int>(threadIdx.x) % kLanes;
    if (row >= task.num_rows) return;
    const float weight = task.weights == nullptr ? 1.0f : __ldg(task.weights + row);
    const RowState state = task.live.state(row);
    if (state == RowState::kBeyond) return;
    uint4* out = task.out + row * task.row_vectors;
    if (state == RowState::kPadding) {
#pragma unroll
        for (int i = 0; i < Vectors; ++i) {
            const int index = first + i * kLanes;
            if (index < task.row_vectors) out[index] = make_uint4(0, 0, 0, 0);
        }
        return;
    }
    const uint4* gates = task.gate + row * task.gate_stride;
    const uint4* ups = task.up + row * task.up_stride;
    uint4 gate_raw[Vectors], up_raw[Vectors];
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
        const int index = first + i * kLanes;
        if (index >= task.row_vectors) continue;
        gate_raw[i] = load_once(gates + index);
        up_raw[i] = load_once(ups + index);
    }
#pragma unroll
    for (int i = 0; i < Vectors; ++i) {
        const int index = first + i * kLanes;
        if (index >= task.row_vectors) continue;
        float gate[kCount], up[kCount];
        Vector<Number>::widen(gate_raw[i], gate);
        Vector<Number>::widen(up_raw[i], up);
#pragma unroll
        for (int j = 0; j < kCount; ++j) gate[j] = silu(gate[j]) * up[j] * weight;
        store_once(out + index, Vector<Number>::narrow(gate));
    }
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) swiglu_backward_kernel(const SwigluBackward task) {
    constexpr int kCount = Vector<Number>::kCount;
    const int lane = threadIdx.x % kLanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
    if (row >= task.num_rows) return;
    const float weight = task.weights == nullptr ? 1.0f : __ldg(task.weights + row);
    const RowState state = task.live.state(row);
    if (state == RowState::kBeyond) return;
    uint4* out = task.grad_joint + row * 2 * task.row_vectors;
    if (state == RowState::kPadding) {
        zero_row(out, 2 * task.row_vectors, lane);
        if (task.grad_weights != nullptr && lane == 0) task.grad_weights[row] = 0.0f;
        return;
    }
    const uint4* gates = task.gate + row * task.gate_stride;
    const uint4* ups = task.up + row * task.up_stride;
    const uint4* grads = task.grad + row * task.row_vectors;
    float dot = 0.0f;
    for (int base = lane; base < task.row_vectors; base += kLanes * kBackwardVectors) {
        uint4 gate_raw[kBackwardVectors], up_raw[kBackwardVectors], grad_raw[kBackwardVectors];
#pragma unroll
        for (int i = 0; i < kBackwardVectors; ++i) {
            const int index = base + i * kLanes;
            if (index >= task.row_vectors) continue;
            gate_raw[i] = load_once(gates + index);
            up_raw[i] = load_once(ups + index);
            grad_raw[i] = load_once(grads + index);
        }
#pragma unroll
        for (int i = 0; i < kBackwardVectors; ++i) {
            const int index = base + i * kLanes;
            if (index >= task.row_vectors) continue;
            float gate[kCount], up[kCount], grad[kCount];
            Vector<Number>::widen(gate_raw[i], gate);
            Vector<Number>::widen(up_raw[i], up);
            Vector<Number>::widen(grad_raw[i], grad);
#pragma unroll
            for (int j = 0; j < kCount; ++j) {
                const float slope = sigmoid(gate[j]);
                const float activated = gate[j] * slope;
                dot = fmaf(grad[j] * activated, up[j], dot);
                const float upstream = grad[j] * weight;
                gate[j] = upstream * up[j] * slope * (1.0f + gate[j] * (1.0f - slope));
                up[j] = upstream * activated;
            }
            store_once(out + index, Vector<Number>::narrow(gate));
            store_once(out + task.row_vectors + index, Vector<Number>::narrow(up));
        }
    }
    if (task.grad_weights == nullptr) return;
    dot = warp_sum(dot);
    if (lane == 0) task.grad_weights[row] = dot;
}

unsigned blocks_of(int64_t num_warps) { return static_cast<unsigned>((num_warps + kWarps - 1) / kWarps); }

template <typename Number, int Vectors>
void launch_forward(const Swiglu& task, cudaStream_t stream) {
    constexpr int kPart = kLanes * Vectors;
    const int num_parts = (task.row_vectors + kPart - 1) / kPart;
    const unsigned blocks = blocks_of(task.num_rows * num_parts);
    swiglu_kernel<Number, Vectors><<<blocks, kThreads, 0, stream>>>(task, static_cast<unsigned>(num_parts));
}

// 2 vectors a lane, or 3 where fewer lanes are then idle.
template <typename Number>
void launch_forward(const Swiglu& task, cudaStream_t stream) {
    const int over_pairs = task.row_vectors % (2 * kLanes), over_triples = task.row_vectors % (3 * kLanes);
    const bool triples = over_pairs != 0 && over_triples == 0;
    if (triples) launch_forward<Number, 3>(task, stream);
    else launch_forward<Number, 2>(task, stream);
}

}  // namespace

cudaError_t swiglu(const Swiglu& task, bool bfloat16, cudaStream_t stream) {
    if (task.num_rows == 0) return cudaSuccess;
    if (bfloat16) launch_forward<__nv_bfloat16>(task, stream);
    else launch_forward<float>(task, stream);
    return cudaGetLastError();
}

cudaError_t swiglu_backward(const SwigluBackward& task, bool bfloat16, cudaStream_t stream) {
    if (task.num_rows == 0) return cudaSuccess;
    const unsigned blocks = blocks_of(task.num_rows);
    if (bfloat16) swiglu_backward_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(task);
    else swiglu_backward_kernel<float><<<blocks, kThreads, 0, stream>>>(task);
    return cudaGetLastError();
}

}  // namespace meshwright
