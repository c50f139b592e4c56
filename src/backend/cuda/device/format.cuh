/* The 16-bit formats that weights are stored in; two values in a word, the lower one first. */
#ifndef CF_CUDA_DEVICE_FORMAT_CUH
#define CF_CUDA_DEVICE_FORMAT_CUH

#include <cuda_fp16.h>
#include <stdint.h>

struct format_f16 {
    static __device__ __forceinline__ float2 unpack(uint32_t pair)
    {
        return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
    }
};

struct format_bf16 {
    static __device__ __forceinline__ float2 unpack(uint32_t pair)
    {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
    }
};

static __device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

#endif
