// Launch of SwiGLU that writes FP8 twice, for both products that read it. Pointers are on the device; shapes as in
// contract.py. Strides count 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../device/rows.cuh"

namespace meshwright {

struct SwigluFp8 {
    LiveRows live;
    int64_t num_rows;        // a multiple of 128
    int width;               // F, a multiple of 128
    int64_t gate_stride;
    int64_t up_stride;
    const uint4* gate;       // (P, F) bfloat16
    const uint4* up;         // (P, F) bfloat16
    const float* weights;    // (P) or null: 1
    uint8_t* rows;           // (P, F) e4m3
    float* row_scales;       // (P, F / 128)
    uint8_t* columns;        // (F, P) e4m3
    float* column_scales;    // (P / 128, F)
};

cudaError_t swiglu_fp8(const SwigluFp8& task, cudaStream_t stream);

}  // namespace meshwright
