/*
 * The workers of a step: where they wait for each other, and how they share out work. They are a
 * few microseconds apart, so waiting is spinning; where the processors are shared with others, it
 * soon becomes giving way.
 */
#ifndef CF_BACKEND_CPU_TEAM_H
#define CF_BACKEND_CPU_TEAM_H

#include "base/memory.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

/* About 50 µs of spinning. */
#define CF_TEAM_SPINS 1500

/* Zeroed to begin with. Each counter has a cache line to itself. */
typedef struct cf_team {
    _Alignas(CF_ALIGNMENT) atomic_size_t arrived;
    _Alignas(CF_ALIGNMENT) atomic_size_t turn;
    _Alignas(CF_ALIGNMENT) atomic_size_t next_item;
} cf_team;

typedef struct cf_worker {
    size_t index, count;
} cf_worker;

static inline void cf_team_pause(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

/* What any worker wrote before it, all may read after it. */
static inline void cf_team_wait(cf_team *team, cf_worker worker)
{
    size_t turn = atomic_load_explicit(&team->turn, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 == worker.count) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->turn, turn + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->turn, memory_order_acquire) == turn;) {
        if (spins++ < CF_TEAM_SPINS)
            cf_team_pause();
        else
            sched_yield();
    }
}

/* Waits as above; then the items 0, 1, … can be claimed, each once. Nobody claims during it. */
static inline void cf_team_deal(cf_team *team, cf_worker worker)
{
    if (worker.index == 0)
        atomic_store_explicit(&team->next_item, 0, memory_order_relaxed);
    cf_team_wait(team, worker);
}

static inline size_t cf_team_claim(cf_team *team)
{
    return atomic_fetch_add_explicit(&team->next_item, 1, memory_order_relaxed);
}

#endif
