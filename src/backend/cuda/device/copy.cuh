/*
 * Asynchronous copies from global to shared memory by one warp, which complete a phase of a
 * barrier: bulk copies where the GPU has them (sm_90 and later), 16 bytes a lane where it has not.
 * This is the only file that knows the difference.
 */
#ifndef CF_CUDA_DEVICE_COPY_CUH
#define CF_CUDA_DEVICE_COPY_CUH

#include "backend/cuda/device/barrier.cuh"

/*
 * The cache policy of all copies here, which read memory that is read once a token: what they bring
 * leaves the L2 cache first, and what is read again stays there. It is what createpolicy makes of
 * L2::evict_first and 1.0, as a constant: made where it is used, it would cost the producers more.
 */
#define READ_ONCE 0x12F0000000000000ull

#if __CUDA_ARCH__ >= 900

/* Arrivals that complete a phase, beside the bytes. */
#define COPY_ARRIVALS 1

/* True in one lane; the compiler then knows that it is one, and issues its copies without a loop.
 */
static __device__ __forceinline__ bool warp_elect()
{
    uint32_t elected;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }"
                 : "=r"(elected));
    return elected != 0;
}

/* Announces the bytes that warp_copy() is about to bring. */
static __device__ __forceinline__ void warp_copy_begin(uint64_t *barrier, uint32_t n_bytes, int)
{
    if (warp_elect())
        barrier_expect(barrier, n_bytes);
}

/* Both addresses and `n_bytes` are multiples of 16. */
static __device__ __forceinline__ void warp_copy(void *destination, const void *source,
                                                 uint32_t n_bytes, uint64_t *barrier, int)
{
    if (warp_elect())
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1], %2, [%3], %4;"
                     :
                     : "r"(shared_address(destination)), "l"(source), "r"(n_bytes),
                       "r"(shared_address(barrier)), "n"(READ_ONCE)
                     : "memory");
}

static __device__ __forceinline__ void warp_copy_end(uint64_t *, int)
{
}

/* Between writes to global memory and copies of what they wrote: on both sides of a release. */
static __device__ __forceinline__ void async_fence()
{
    asm volatile("fence.proxy.async;" : : : "memory");
}

#else

#define COPY_ARRIVALS 32

static __device__ __forceinline__ void async_fence()
{
}

static __device__ __forceinline__ void warp_copy_begin(uint64_t *, uint32_t, int)
{
}

static __device__ __forceinline__ void warp_copy(void *destination, const void *source,
                                                 uint32_t n_bytes, uint64_t *, int lane)
{
    uint32_t to = shared_address(destination);
    for (uint32_t i = 16 * lane; i < n_bytes; i += 16 * 32)
        asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;"
                     :
                     : "r"(to + i), "l"((const char *)source + i), "l"(READ_ONCE)
                     : "memory");
}

/* Each lane arrives when its own copies are there. */
static __device__ __forceinline__ void warp_copy_end(uint64_t *barrier, int)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];"
                 :
                 : "r"(shared_address(barrier))
                 : "memory");
}

#endif

#endif
