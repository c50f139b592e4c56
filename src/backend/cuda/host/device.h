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

/* A kernel whose blocks wait for each other, so that all of them must run at once. */
typedef struct cf_cuda_grid {
    const void *kernel;
    uint32_t n_blocks, n_threads; /* of a block */
    size_t shared_bytes;
    bool has_bulk_copies; /* the kernel's code: else cp.async */
    bool can_pair; /* blocks 2 i and 2 i + 1 can reach each other's shared memory: a cluster */
} cf_cuda_grid;

/*
 * Allows the kernel its shared memory, and sees what it can: pairs need clusters in the GPU and in
 * the code, and places for all of them at once.
 */
cf_status cf_cuda_grid_prepare(cf_cuda_grid *grid, const char *what, cf_error *error);

/*
 * A launch: `arguments` is the kernel's one parameter. With `is_programmatic` it is set up while
 * the kernel before runs, and its code, for sm_90 and later, waits for that one's end.
 */
cudaError_t cf_cuda_grid_launch(const cf_cuda_grid *grid, const void *arguments, bool in_pairs,
                                bool is_programmatic, cudaStream_t stream);

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
