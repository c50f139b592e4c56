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
#include <stdint.h>

/* About 50 µs of spinning. */
#define CF_TEAM_SPINS 1500

/* What is left of one worker's share: items first … end - 1, as first × 2³² + end. */
typedef struct cf_share {
    _Alignas(CF_ALIGNMENT) atomic_uint_fast64_t left;
} cf_share;

/* Zeroed to begin with, but for `shares`. Each counter has a cache line to itself. */
typedef struct cf_team {
    _Alignas(CF_ALIGNMENT) atomic_size_t arrived;
    _Alignas(CF_ALIGNMENT) atomic_size_t turn;
    _Alignas(CF_ALIGNMENT) atomic_size_t next_item;
    cf_share *shares; /* [workers], zeroed */
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

/*
 * Items in order for each worker, and none for those who wait: every worker says how many there are
 * (fewer than 2³²), then takes until none is left, then waits. It gets its own contiguous share
 * from the front; after that, what others have not come to, from the back. A share that its owner
 * has not announced yet looks empty: it will do that itself.
 */
static inline void cf_team_share(cf_team *team, cf_worker worker, size_t n_items)
{
    uint64_t first = n_items * worker.index / worker.count;
    uint64_t end = n_items * (worker.index + 1) / worker.count;
    atomic_store_explicit(&team->shares[worker.index].left, first << 32 | end,
                          memory_order_relaxed);
}

/* The next item; SIZE_MAX: none is left. */
static inline size_t cf_team_take(cf_team *team, cf_worker worker)
{
    for (size_t i = 0; i < worker.count; i++) {
        cf_share *share = &team->shares[(worker.index + i) % worker.count];
        uint64_t left = atomic_load_explicit(&share->left, memory_order_relaxed);
        while (left >> 32 < (left & UINT32_MAX)) {
            uint64_t taken = i == 0 ? left + ((uint64_t)1 << 32) : left - 1;
            if (atomic_compare_exchange_weak_explicit(&share->left, &left, taken,
                                                      memory_order_relaxed, memory_order_relaxed))
                return (size_t)(i == 0 ? left >> 32 : taken & UINT32_MAX);
        }
    }
    return SIZE_MAX;
}

#endif
