/* The 16-bit formats that weights are stored in; two values in a word, the lower one first. */
#ifndef CF_CUDA_DEVICE_FORMAT_CUH
#define CF_CUDA_DEVICE_FORMAT_CUH

#include <cuda_fp16.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

struct format_f16 {
    static __device__ __forceinline__ float2 unpack(uint32_t pair)
    {
        return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
    }

    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        return pack_f16(low, high);
    }
};

struct format_bf16 {
    static __device__ __forceinline__ float2 unpack(uint32_t pair)
    {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
    }

    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        return pack_bf16(low, high);
    }
};

#endif
