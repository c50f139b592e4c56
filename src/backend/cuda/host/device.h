/* A GPU: what it allows, its memory, its errors. */
#ifndef CF_CUDA_HOST_DEVICE_H
#define CF_CUDA_HOST_DEVICE_H

#include "schedule/schedule.h"

#include <cuda_runtime_api.h>

/* Passes on a failure of the runtime as OUT_OF_MEMORY, NO_DEVICE or DEVICE, with `what` before it.
 */
cf_status cf_cuda_fail(cf_error *error, cudaError_t code, const char *what);

#define CF_CUDA_TRY(expression, what, error)                                                       \
    do {                                                                                           \
        cudaError_t cf_cuda_code = (expression);                                                   \
        if (cf_cuda_code != cudaSuccess)                                                           \
            return cf_cuda_fail(error, cf_cuda_code, what);                                        \
    } while (0)

typedef struct cf_cuda_device {
    int32_t index;
    int32_t capability; /* 90 for 9.0 */
    char name[128];
    cf_gpu_limits limits;
} cf_cuda_device;

/* Makes GPU `index` the calling thread's. NO_DEVICE, UNSUPPORTED where it cannot run the kernel. */
cf_status cf_cuda_device_open(int32_t index, cf_cuda_device *device, cf_error *error);

/* One allocation, handed out in pieces of 256-byte alignment: measure first, then allocate. */
typedef struct cf_cuda_arena {
    char *memory; /* NULL while measuring */
    size_t n_bytes;
} cf_cuda_arena;

/* The next piece; NULL while measuring. */
void *cf_cuda_arena_take(cf_cuda_arena *arena, size_t n_bytes);

/* Allocates what was measured and starts anew. OUT_OF_MEMORY names both numbers. */
cf_status cf_cuda_arena_allocate(cf_cuda_arena *arena, const char *what, cf_error *error);
void cf_cuda_arena_free(cf_cuda_arena *arena);

#endif
