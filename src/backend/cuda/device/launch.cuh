/* How a kernel stands to those before and after it in its stream; nothing before sm_90. */
#ifndef CF_CUDA_DEVICE_LAUNCH_CUH
#define CF_CUDA_DEVICE_LAUNCH_CUH

#include <stdint.h>

/* The next kernel may be set up from now on, if it was launched so. */
static __device__ __forceinline__ void grid_let_next_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

/* Returns when all kernels before are complete; what they wrote is then visible to the caller. */
static __device__ __forceinline__ void grid_await_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

/* As prefetch_bytes(), the line of the cache that an address is in; each thread its own. */
static __device__ __forceinline__ void prefetch_line(const void *address)
{
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
}

/*
 * Brings memory nearer, into the L2 cache, where all writes meet: it may still be written, whoever
 * reads it later reads what is valid then. By one thread; address and size are multiples of 16.
 */
static __device__ __forceinline__ void prefetch_bytes(const void *source, uint32_t n_bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;"
                 :
                 : "l"(source), "r"(n_bytes)
                 : "memory");
#else
    for (uint32_t i = 0; i < n_bytes; i += 128)
        prefetch_line(static_cast<const char *>(source) + i);
#endif
}

#endif
