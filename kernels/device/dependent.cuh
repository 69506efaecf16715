// A kernel that starts while the one before it in the stream still runs (programmatic dependent launch): what does not
// need that one's results is done meanwhile.
#pragma once

#include <cuda_runtime.h>

namespace meshwright {

// In the earlier kernel: the later one may start. What is written after this, too, is seen behind `wait_for_earlier`.
__device__ __forceinline__ void let_later_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// In the later kernel: all that the earlier one wrote is there.
__device__ __forceinline__ void wait_for_earlier() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

template <typename Task>
cudaError_t launch_dependent(
    void (*kernel)(Task), int blocks, int threads, size_t shared_bytes, cudaStream_t stream, const Task& task) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, task);
}

}  // namespace meshwright
