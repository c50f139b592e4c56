/*
 * A barrier for the workers of a step. They are a few microseconds apart, so waiting is spinning;
 * where the processors are shared with others, it soon becomes giving way.
 */
#ifndef CF_BACKEND_CPU_BARRIER_H
#define CF_BACKEND_CPU_BARRIER_H

#include "base/memory.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

/* About 50 µs of spinning. */
#define CF_BARRIER_SPINS 1500

/* Zeroed to begin with. Each counter has a cache line to itself. */
typedef struct cf_barrier {
    _Alignas(CF_ALIGNMENT) atomic_size_t arrived;
    _Alignas(CF_ALIGNMENT) atomic_size_t turn;
} cf_barrier;

static inline void cf_barrier_pause(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

/* What each of `count` workers wrote before it is seen by all of them after it. */
static inline void cf_barrier_wait(cf_barrier *barrier, size_t count)
{
    size_t turn = atomic_load_explicit(&barrier->turn, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == count) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->turn, turn + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&barrier->turn, memory_order_acquire) == turn;) {
        if (spins++ < CF_BARRIER_SPINS)
            cf_barrier_pause();
        else
            sched_yield();
    }
}

#endif
