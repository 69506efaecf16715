// A warp a row, 16 bytes a lane and load, float32 inside. Rows behind the last group cost nothing, padding rows are
// zeroed without being read.
#include "swiglu.h"

#include "../device/silu.cuh"
#include "../device/vector.cuh"
#include "../device/warp.cuh"

namespace meshwright {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kForwardVectors = 4;
constexpr int kBackwardVectors = 2;

__device__ __forceinline__ void zero_row(uint4* row, int vectors, int lane) {
    for (int index = lane; index < vectors; index += kLanes) row[index] = make_uint4(0, 0, 0, 0);
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const Swiglu task) {
    constexpr int kCount = Vector<Number>::kCount;
    const int lane = threadIdx.x % kLanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
    if (row >= task.num_rows || task.live.beyond(row)) return;
    uint4* out = task.out + row * task.row_vectors;
    if (task.live.padding(row)) {
        zero_row(out, task.row_vectors, lane);
        return;
    }
    const uint4* gates = task.gate + row * task.gate_stride;
    const uint4* ups = task.up + row * task.up_stride;
    const float weight = task.weights == nullptr ? 1.0f : __ldg(task.weights + row);
    for (int base = lane; base < task.row_vectors; base += kLanes * kForwardVectors) {
        uint4 gate_raw[kForwardVectors], up_raw[kForwardVectors];
#pragma unroll
        for (int i = 0; i < kForwardVectors; ++i) {
            const int index = base + i * kLanes;
            if (index >= task.row_vectors) continue;
            gate_raw[i] = load_once(gates + index);
            up_raw[i] = load_once(ups + index);
        }
#pragma unroll
        for (int i = 0; i < kForwardVectors; ++i) {
            const int index = base + i * kLanes;
            if (index >= task.row_vectors) continue;
            float gate[kCount], up[kCount];
            Vector<Number>::widen(gate_raw[i], gate);
            Vector<Number>::widen(up_raw[i], up);
#pragma unroll
            for (int j = 0; j < kCount; ++j) gate[j] = silu(gate[j]) * up[j] * weight;
            out[index] = Vector<Number>::narrow(gate);
        }
    }
}

template <typename Number>
__global__ void __launch_bounds__(kThreads) swiglu_backward_kernel(const SwigluBackward task) {
    constexpr int kCount = Vector<Number>::kCount;
    const int lane = threadIdx.x % kLanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
    if (row >= task.num_rows || task.live.beyond(row)) return;
    uint4* out = task.grad_joint + row * 2 * task.row_vectors;
    if (task.live.padding(row)) {
        zero_row(out, 2 * task.row_vectors, lane);
        if (task.grad_weights != nullptr && lane == 0) task.grad_weights[row] = 0.0f;
        return;
    }
    const uint4* gates = task.gate + row * task.gate_stride;
    const uint4* ups = task.up + row * task.up_stride;
    const uint4* grads = task.grad + row * task.row_vectors;
    const float weight = task.weights == nullptr ? 1.0f : __ldg(task.weights + row);
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
            out[index] = Vector<Number>::narrow(gate);
            out[task.row_vectors + index] = Vector<Number>::narrow(up);
        }
    }
    if (task.grad_weights == nullptr) return;
    dot = warp_sum(dot);
    if (lane == 0) task.grad_weights[row] = dot;
}

unsigned blocks_of(int64_t num_rows) { return static_cast<unsigned>((num_rows + kWarps - 1) / kWarps); }

}  // namespace

cudaError_t swiglu(const Swiglu& task, bool bfloat16, cudaStream_t stream) {
    if (task.num_rows == 0) return cudaSuccess;
    const unsigned blocks = blocks_of(task.num_rows);
    if (bfloat16) swiglu_kernel<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(task);
    else swiglu_kernel<float><<<blocks, kThreads, 0, stream>>>(task);
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
