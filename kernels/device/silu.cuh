// SiLU, x sigmoid(x), in float32.
#pragma once

#include <cuda_runtime.h>

namespace meshwright {

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }

}  // namespace meshwright
