/* The emulator's waits: every look that is in vain lets others run. */
#ifndef CF_CUDA_DEVICE_WATCHDOG_CUH
#define CF_CUDA_DEVICE_WATCHDOG_CUH

#include <stdint.h>
#include <stdio.h>
#include <time.h>

/* No wait of a small model's token takes so long, even where CPUs are few. */
#define WATCHDOG_NS 120000000000ull

static inline uint64_t clock_ns()
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t watchdog_begin()
{
    return clock_ns();
}

static inline void watchdog_check(uint64_t begin)
{
    static __thread unsigned n_looks;
    emulator_yield();
    if (++n_looks % 4096 != 0 || clock_ns() - begin <= WATCHDOG_NS)
        return;
    fprintf(stderr, "emulator: block %u, thread %u waits for ever\n", blockIdx.x, threadIdx.x);
    abort();
}

#endif
