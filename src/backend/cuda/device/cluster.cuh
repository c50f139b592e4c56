/*
 * Pairs of blocks: clusters of two, which run on neighbouring multiprocessors and reach each
 * other's shared memory without going through the L2 cache. Where the GPU has none, nothing is a
 * pair.
 */
#ifndef CF_CUDA_DEVICE_CLUSTER_CUH
#define CF_CUDA_DEVICE_CLUSTER_CUH

#include "backend/cuda/device/barrier.cuh"

#if __CUDA_ARCH__ >= 900

/* Tells the other block that this thread has set up what it will write to; pair_wait() follows. */
static __device__ __forceinline__ void pair_arrive()
{
    asm volatile("barrier.cluster.arrive.release;" : : : "memory");
}

/* Returns when all threads of both blocks have arrived. */
static __device__ __forceinline__ void pair_wait()
{
    asm volatile("barrier.cluster.wait.acquire;" : : : "memory");
}

static __device__ __forceinline__ void pair_sync()
{
    pair_arrive();
    pair_wait();
}

/* Where the other block has what lies at `shared` here. */
static __device__ __forceinline__ uint32_t pair_address(const void *shared)
{
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(address)
        : "r"(shared_address(shared)), "r"((blockIdx.x % 2) ^ 1));
    return address;
}

/* Writes to the other block; the bytes count for its `barrier`. Both are addresses of a pair. */
static __device__ __forceinline__ void pair_store(uint32_t address, float value, uint32_t barrier)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];"
                 :
                 : "r"(address), "r"(__float_as_uint(value)), "r"(barrier)
                 : "memory");
}

/* Announces the bytes that the other block writes in this phase of the barrier, whose count is 1.
 */
static __device__ __forceinline__ void pair_expect(uint64_t *barrier, uint32_t n_bytes)
{
    barrier_expect(barrier, n_bytes);
}

/* As barrier_wait(); what the other block wrote in this phase is then visible. */
static __device__ __forceinline__ void pair_await(uint64_t *barrier, uint32_t parity)
{
    uint32_t done = 0;
    uint64_t begin = watchdog_begin();
    while (!done) {
        asm volatile("{ .reg .pred p;"
                     "  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;"
                     "  selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
        watchdog_check(begin);
    }
}

#else

static __device__ __forceinline__ void pair_arrive()
{
}

static __device__ __forceinline__ void pair_wait()
{
}

static __device__ __forceinline__ void pair_sync()
{
}

static __device__ __forceinline__ uint32_t pair_address(const void *)
{
    return 0;
}

static __device__ __forceinline__ void pair_store(uint32_t, float, uint32_t)
{
}

static __device__ __forceinline__ void pair_expect(uint64_t *, uint32_t)
{
}

static __device__ __forceinline__ void pair_await(uint64_t *, uint32_t)
{
}

#endif

#endif
