/* The MLP's activation functions. */
#ifndef CF_CUDA_STAGE_ACTIVATION_CUH
#define CF_CUDA_STAGE_ACTIVATION_CUH

#include "clusterfusion.h"

static __device__ __forceinline__ float activate(cf_activation activation, float x)
{
    switch (activation) {
    case CF_ACTIVATION_GELU_TANH: /* sqrt(2 / π) (x + 0.044715 x³) */
        return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case CF_ACTIVATION_RELU:
        return fmaxf(x, 0);
    case CF_ACTIVATION_SILU:
        return x / (1 + __expf(-x));
    case CF_ACTIVATION_GELU_ERF:
        break;
    }
    return 0.5f * x * (1 + erff(0.70710678f * x));
}

#endif
