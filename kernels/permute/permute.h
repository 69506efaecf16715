// Launches of the kernels that move rows between tokens and experts. Pointers are on the device; shapes as in
// contract.py. A row is `row_vectors` times 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

// Where each slot's row is, and where the padding between the groups is. Without padding `num_padded` is 0.
struct RowPlaces {
    int64_t num_tokens;
    int top_k;
    int num_padded;            // experts whose groups are filled up
    const int32_t* places;     // (T, K), -1: not here
    const int32_t* counts;     // (E)
    const int32_t* offsets;    // (E)
};

struct Permute {
    RowPlaces to;
    int row_vectors;
    const uint4* tokens;       // (T, H)
    const float* weights;      // (T, K) or null
    uint4* rows;               // (P, H)
    float* gates;              // (P) or null
};

struct GatherSum {
    RowPlaces from;
    int row_vectors;
    const uint4* rows;         // (P, H)
    const float* weights;      // (T, K) or null: 1
    const float* row_gates;    // (P) or null
    uint4* tokens;             // (T, H)
    float* slot_gates;         // (T, K) or null
};

struct UnpermuteBackward {
    RowPlaces to;
    int row_vectors;
    const uint4* grad_tokens;  // (T, H)
    const uint4* rows;         // (P, H), or null with weights
    const float* weights;      // (T, K) or null: 1
    uint4* grad_rows;          // (P, H)
    float* grad_weights;       // (T, K), or null with weights
};

cudaError_t permute(const Permute& task, cudaStream_t stream);
cudaError_t gather_sum(const GatherSum& task, bool bfloat16, cudaStream_t stream);
cudaError_t unpermute_backward(const UnpermuteBackward& task, bool bfloat16, cudaStream_t stream);

}  // namespace meshwright
