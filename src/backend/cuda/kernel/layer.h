/* The layer kernel as the host calls it. */
#ifndef CF_CUDA_KERNEL_LAYER_H
#define CF_CUDA_KERNEL_LAYER_H

#include "backend/cuda/stage/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For tensors in F16 or BF16; an address for cudaLaunch…(). */
const void *cf_layer_kernel(cf_dtype dtype);

#ifdef __cplusplus
}
#endif

#endif
