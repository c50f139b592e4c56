/* Emulated bulk copies: there at once. */
#ifndef CF_CUDA_DEVICE_COPY_CUH
#define CF_CUDA_DEVICE_COPY_CUH

#include "backend/cuda/device/barrier.cuh"

#define COPY_ARRIVALS 1

static inline bool warp_elect()
{
    return threadIdx.x % 32 == 0;
}

static inline void warp_copy_begin(uint64_t *barrier, uint32_t n_bytes, int)
{
    if (warp_elect())
        barrier_update(barrier, 1, (int32_t)n_bytes);
}

static inline void warp_copy(void *destination, const void *source, uint32_t n_bytes,
                             uint64_t *barrier, int)
{
    if (!warp_elect())
        return;
    if (((uintptr_t)destination | (uintptr_t)source | n_bytes) % 16 != 0) {
        fprintf(stderr, "emulator: a copy that is not of whole 16 bytes\n");
        abort();
    }
    memcpy(destination, source, n_bytes);
    barrier_update(barrier, 0, -(int32_t)n_bytes);
}

static inline void warp_copy_end(uint64_t *, int)
{
}

static inline void async_fence()
{
}

#endif
