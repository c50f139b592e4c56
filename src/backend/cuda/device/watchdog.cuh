/*
 * The watchdog build (-DCF_CUDA_WATCHDOG=ON): a wait that nothing ends traps, and comes back as a
 * device error, instead of keeping the GPU forever. Other builds have none of it.
 */
#ifndef CF_CUDA_DEVICE_WATCHDOG_CUH
#define CF_CUDA_DEVICE_WATCHDOG_CUH

#include <stdint.h>

/* A thousand times as long as any wait of a token takes. */
#define WATCHDOG_NS 2000000000ull

static __device__ __forceinline__ uint64_t clock_ns()
{
    uint64_t now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}

#ifdef CF_CUDA_WATCHDOG

/* When a wait began. */
static __device__ __forceinline__ uint64_t watchdog_begin()
{
    return clock_ns();
}

/* Goes into the loop of a wait. */
static __device__ __forceinline__ void watchdog_check(uint64_t begin)
{
    if (clock_ns() - begin > WATCHDOG_NS)
        __trap();
}

#else

static __device__ __forceinline__ uint64_t watchdog_begin()
{
    return 0;
}

static __device__ __forceinline__ void watchdog_check(uint64_t)
{
}

#endif

#endif
