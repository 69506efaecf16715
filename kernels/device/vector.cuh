// 16 bytes of a row at a time, and the numbers in them as float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace meshwright {

constexpr int kVectorBytes = 16;

template <typename Number>
struct Vector;

template <>
struct Vector<float> {
    static constexpr int kCount = 4;

    static __device__ __forceinline__ void widen(const uint4& raw, float (&out)[kCount]) {
        out[0] = __uint_as_float(raw.x);
        out[1] = __uint_as_float(raw.y);
        out[2] = __uint_as_float(raw.z);
        out[3] = __uint_as_float(raw.w);
    }

    static __device__ __forceinline__ uint4 narrow(const float (&in)[kCount]) {
        return make_uint4(
            __float_as_uint(in[0]), __float_as_uint(in[1]), __float_as_uint(in[2]), __float_as_uint(in[3]));
    }
};

template <>
struct Vector<__nv_bfloat16> {
    static constexpr int kCount = 8;

    // A bfloat16 is the upper half of a float32.
    static __device__ __forceinline__ void widen_pair(uint32_t pair, float& low, float& high) {
        low = __uint_as_float(pair << 16);
        high = __uint_as_float(pair & 0xffff0000u);
    }

    static __device__ __forceinline__ uint32_t narrow_pair(float low, float high) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) |
               (static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16);
    }

    static __device__ __forceinline__ void widen(const uint4& raw, float (&out)[kCount]) {
        widen_pair(raw.x, out[0], out[1]);
        widen_pair(raw.y, out[2], out[3]);
        widen_pair(raw.z, out[4], out[5]);
        widen_pair(raw.w, out[6], out[7]);
    }

    static __device__ __forceinline__ uint4 narrow(const float (&in)[kCount]) {
        return make_uint4(
            narrow_pair(in[0], in[1]), narrow_pair(in[2], in[3]), narrow_pair(in[4], in[5]), narrow_pair(in[6], in[7]));
    }
};

// Read once and not written while the kernel runs: passes the first cache by.
__device__ __forceinline__ uint4 load_once(const uint4* address) {
    uint4 raw;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
                 : "l"(address));
    return raw;
}

// Written once, more than the cache holds: leaves it first. Faster than plain stores on an H100.
__device__ __forceinline__ void store_once(uint4* address, const uint4& raw) { __stcs(address, raw); }

}  // namespace meshwright
