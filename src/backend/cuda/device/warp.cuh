/* What the lanes of a warp do together. */
#ifndef CF_CUDA_DEVICE_WARP_CUH
#define CF_CUDA_DEVICE_WARP_CUH

#include <stdint.h>

#define WARP_ALL 0xFFFFFFFFu

/* The sum over the lanes, the same bits in each. */
static __device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, offset);
    return value;
}

/* The address that another lane has. */
static __device__ __forceinline__ const char *address_of_lane(const char *address, int lane)
{
    unsigned long long bits = reinterpret_cast<uintptr_t>(address);
    return reinterpret_cast<const char *>(__shfl_sync(WARP_ALL, bits, lane));
}

/* The largest of four lanes' values, in each of them. */
static __device__ __forceinline__ float quad_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync(WARP_ALL, value, 1));
    return fmaxf(value, __shfl_xor_sync(WARP_ALL, value, 2));
}

/*
 * The same value, which the compiler takes for a new one: in a loop over layers it then works out
 * again what depends on it, rather than keep more than there are registers for.
 */
static __device__ __forceinline__ int fresh(int value)
{
    asm volatile("" : "+r"(value));
    return value;
}

#endif
