// Launches of the router's kernels. Pointers are on the device; shapes as in contract.py.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

struct RouteChoice {
    int num_experts;
    int top_k;
    int num_groups;
    int groups_per_token;
    bool sigmoid;
    bool normalize;
    float scale;
};

struct RouteForward {
    RouteChoice choice;
    int64_t num_tokens;
    int num_blocks;
    const float* logits;        // (T, E)
    const float* bias;          // (E) or null
    int32_t* experts;           // (T, K)
    float* weights;             // (T, K)
    int32_t* counts;            // (E)
    float* sums;                // (E) or null
    int32_t* partial_counts;    // (num_blocks, E)
    float* partial_sums;        // (num_blocks, E) or null
};

struct RouteBackward {
    RouteChoice choice;
    int64_t num_tokens;
    int num_blocks;
    const float* logits;        // (T, E)
    const int32_t* experts;     // (T, K)
    const float* weights;       // (T, K)
    const float* grad_weights;  // (T, K)
    const float* grad_sums;     // (E) or null
    float* grad_logits;         // (T, E)
};

cudaError_t route_forward(const RouteForward& task, cudaStream_t stream);
cudaError_t route_backward(const RouteBackward& task, cudaStream_t stream);

}  // namespace meshwright
