// Launches of SwiGLU with gate weights. Pointers are on the device; shapes as in contract.py. Strides and `row_vectors`
// count 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../device/rows.cuh"

namespace meshwright {

struct Swiglu {
    LiveRows live;
    int64_t num_rows;
    int row_vectors;
    int64_t gate_stride;
    int64_t up_stride;
    const uint4* gate;     // (P, F)
    const uint4* up;       // (P, F)
    const float* weights;  // (P) or null: 1
    uint4* out;            // (P, F)
};

struct SwigluBackward {
    LiveRows live;
    int64_t num_rows;
    int row_vectors;
    int64_t gate_stride;
    int64_t up_stride;
    const uint4* gate;     // (P, F)
    const uint4* up;       // (P, F)
    const float* weights;  // (P) or null: 1
    const uint4* grad;     // (P, F)
    uint4* grad_joint;     // (P, 2 F): of the gate, of the other
    float* grad_weights;   // (P), or null with weights
};

cudaError_t swiglu(const Swiglu& task, bool bfloat16, cudaStream_t stream);
cudaError_t swiglu_backward(const SwigluBackward& task, bool bfloat16, cudaStream_t stream);

}  // namespace meshwright
