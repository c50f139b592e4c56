/* An emulated mbarrier, in the 64 bits that it has on a GPU too. */
#ifndef CF_CUDA_DEVICE_BARRIER_CUH
#define CF_CUDA_DEVICE_BARRIER_CUH

#include "backend/cuda/device/watchdog.cuh"

#include <string.h>

#define WARP_ARRIVALS 1

struct mbarrier {
    uint64_t phase : 1;
    uint64_t n_arrivals : 16; /* of each phase */
    uint64_t n_missing : 16;
    int64_t n_bytes : 31; /* announced and not there yet, or the other way round */
};

static inline mbarrier barrier_read(const uint64_t *barrier)
{
    mbarrier state;
    static_assert(sizeof state == sizeof *barrier, "a word of shared memory");
    memcpy(&state, barrier, sizeof state);
    return state;
}

static inline void barrier_write(uint64_t *barrier, mbarrier state)
{
    if (state.n_missing == 0 && state.n_bytes == 0) {
        state.phase ^= 1;
        state.n_missing = state.n_arrivals;
    }
    memcpy(barrier, &state, sizeof state);
}

static inline void barrier_init(uint64_t *barrier, uint32_t n_arrivals)
{
    mbarrier state = {};
    state.n_arrivals = n_arrivals;
    state.n_missing = n_arrivals;
    memcpy(barrier, &state, sizeof state);
}

/* Arrives n times, with bytes announced (positive) or there (negative). */
static inline void barrier_update(uint64_t *barrier, uint32_t n_arrivals, int32_t n_bytes)
{
    mbarrier state = barrier_read(barrier);
    if (state.n_missing < n_arrivals) {
        fprintf(stderr, "emulator: one arrival too many at a barrier\n");
        abort();
    }
    state.n_missing -= n_arrivals;
    state.n_bytes += n_bytes;
    barrier_write(barrier, state);
}

static inline void barrier_arrive(uint64_t *barrier)
{
    barrier_update(barrier, 1, 0);
}

static inline void barrier_arrive_warp(uint64_t *barrier, int lane)
{
    __syncwarp();
    if (lane == 0)
        barrier_arrive(barrier);
}

/* The phase of this parity is complete: the one under way is of the other. */
static inline bool barrier_test(uint64_t *barrier, uint32_t parity)
{
    return barrier_read(barrier).phase != parity;
}

static inline void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    /* The word's lowest bit is the phase's. */
    emulator_wait(barrier, 1, parity);
}

static inline uint32_t block_count(uint32_t *counter)
{
    return (*counter)++;
}

enum { ROLE_BARRIER_ATTENTION = 1, ROLE_BARRIER_VECTORS = 2 };

static inline void role_sync(int role_barrier, int n_threads)
{
    emulator_sync(role_barrier, (unsigned)n_threads);
}

#endif
