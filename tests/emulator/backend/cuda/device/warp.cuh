/* What the lanes of an emulated warp do together. */
#ifndef CF_CUDA_DEVICE_WARP_CUH
#define CF_CUDA_DEVICE_WARP_CUH

#include <stdint.h>

#define WARP_ALL 0xFFFFFFFFu

static inline float warp_sum(float value)
{
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, offset);
    return value;
}

static inline int fresh(int value)
{
    return value;
}

#endif
