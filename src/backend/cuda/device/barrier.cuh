/*
 * Barriers of one block: mbarriers in shared memory, of which a waiter names the phase by its
 * parity, and the hardware's named barriers for the warps of one role.
 */
#ifndef CF_CUDA_DEVICE_BARRIER_CUH
#define CF_CUDA_DEVICE_BARRIER_CUH

#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/device/watchdog.cuh"

static __device__ __forceinline__ uint32_t shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

static __device__ __forceinline__ void barrier_init(uint64_t *barrier, uint32_t n_arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;"
                 :
                 : "r"(shared_address(barrier)), "r"(n_arrivals)
                 : "memory");
}

/* Lets the copy engine, and a paired block, see the barriers that this thread has set up. */
static __device__ __forceinline__ void barriers_publish()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
#endif
}

/* Publishes what this thread wrote to shared memory to those that wait for the phase. */
static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier)
{
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }"
                 :
                 : "r"(shared_address(barrier))
                 : "memory");
}

/* The same, for several of those that the barrier counts. */
static __device__ __forceinline__ void barrier_arrive(uint64_t *barrier, uint32_t n_arrivals)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared.b64 _, [%0], %1;"
                 :
                 : "r"(shared_address(barrier)), "r"(n_arrivals)
                 : "memory");
#else
    for (uint32_t i = 0; i < n_arrivals; i++)
        barrier_arrive(barrier);
#endif
}

#if __CUDA_ARCH__ >= 900

/* Arrives, and announces bytes of asynchronous writes that complete the phase, too. */
static __device__ __forceinline__ void barrier_expect(uint64_t *barrier, uint32_t n_bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;"
                 :
                 : "r"(shared_address(barrier)), "r"(n_bytes)
                 : "memory");
}

#endif

/*
 * Arrives for a warp, once all its lanes are there: with WARP_ARRIVALS of a barrier's count. One
 * lane arrives for all, which __syncwarp() makes enough; compute-sanitizer's racecheck follows only
 * the lanes that arrive, so builds for it let each lane arrive.
 */
#ifdef CF_CUDA_RACECHECK
#define WARP_ARRIVALS 32
#else
#define WARP_ARRIVALS 1
#endif

static __device__ __forceinline__ void barrier_arrive_warp(uint64_t *barrier, int lane)
{
    __syncwarp();
    if (lane < WARP_ARRIVALS)
        barrier_arrive(barrier);
}

/* Whether the phase of this parity is complete. */
static __device__ __forceinline__ bool barrier_peek(uint64_t *barrier, uint32_t parity)
{
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2;"
                 "  selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}

/* The same, for those who wait: it may be some time before it answers. */
static __device__ __forceinline__ bool barrier_test(uint64_t *barrier, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2;"
                 "  selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
#else
    return barrier_peek(barrier, parity);
#endif
}

/* Whether phases of two barriers are complete, in one round trip and without waiting. */
static __device__ __forceinline__ bool barriers_test(uint64_t *a, uint32_t parity_a, uint64_t *b,
                                                     uint32_t parity_b)
{
    uint32_t done;
    asm volatile("{ .reg .pred p, q; mbarrier.test_wait.parity.shared.b64 p, [%1], %2;"
                 "  mbarrier.test_wait.parity.shared.b64 q, [%3], %4;"
                 "  and.pred p, p, q; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(a)), "r"(parity_a), "r"(shared_address(b)), "r"(parity_b)
                 : "memory");
    return done != 0;
}

/*
 * Returns when the phase of this parity is complete. Parity cannot tell a phase from the next but
 * one, so whoever waits must have waited for every phase before.
 */
static __device__ __forceinline__ void barrier_wait(uint64_t *barrier, uint32_t parity)
{
    uint64_t begin = watchdog_begin();
    while (!barrier_test(barrier, parity))
        watchdog_check(begin);
}

/*
 * Counts in shared memory; returns the count before. Publishes what this thread has written, or
 * acquired of others, to the block's threads that count later.
 */
static __device__ __forceinline__ uint32_t block_count(uint32_t *counter)
{
    uint32_t before;
    asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], 1;"
                 : "=r"(before)
                 : "r"(shared_address(counter))
                 : "memory");
    return before;
}

/* The same in rounds of `n`: true for the last of each. */
static __device__ __forceinline__ bool block_count_round(uint32_t *counter, uint32_t n)
{
    uint32_t before;
    asm volatile("atom.acq_rel.cta.shared.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "r"(shared_address(counter)), "r"(n - 1)
                 : "memory");
    return before == n - 1;
}

/*
 * Counts warps in rounds. compute-sanitizer's racecheck does not follow atomics: in builds for it
 * all lanes arrive at a barrier, too.
 */
struct warp_counter {
    uint32_t n_counted;
#ifdef CF_CUDA_RACECHECK
    uint64_t arrived;
#endif
};

static __device__ __forceinline__ void warp_counter_init(warp_counter *counter, uint32_t n)
{
    counter->n_counted = 0;
#ifdef CF_CUDA_RACECHECK
    barrier_init(&counter->arrived, WARP_ARRIVALS * n);
#endif
}

/*
 * Counts this warp, in a round of `n`; `parity` is the round's. True in the warp that is the last:
 * it sees what the others had written before they were counted.
 */
static __device__ __forceinline__ bool warp_count_round(warp_counter *counter, uint32_t n,
                                                        uint32_t parity, int lane)
{
#ifdef CF_CUDA_RACECHECK
    barrier_arrive(&counter->arrived);
#endif
    __syncwarp();
    uint32_t n_before = lane == 0 ? block_count(&counter->n_counted) : 0;
    if (__shfl_sync(WARP_ALL, n_before, 0) + 1 < n)
        return false;
    if (lane == 0)
        counter->n_counted = 0;
#ifdef CF_CUDA_RACECHECK
    barrier_wait(&counter->arrived, parity);
#else
    (void)parity;
#endif
    __syncwarp();
    return true;
}

/* The named barriers; 0 is __syncthreads(). */
enum { ROLE_BARRIER_ATTENTION = 1, ROLE_BARRIER_VECTORS = 2 };

/* Waits for all `n_threads` of a role; publishes their writes to shared memory to each other. */
static __device__ __forceinline__ void role_sync(int role_barrier, int n_threads)
{
    asm volatile("barrier.sync %0, %1;" : : "r"(role_barrier), "r"(n_threads) : "memory");
}

/* Arrives there without waiting; publishes this warp's writes to those who wait. */
static __device__ __forceinline__ void role_arrive(int role_barrier, int n_threads)
{
    asm volatile("barrier.arrive %0, %1;" : : "r"(role_barrier), "r"(n_threads) : "memory");
}

#endif
