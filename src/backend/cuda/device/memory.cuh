/*
 * Loads, stores and counters that other blocks see while the kernel runs. All are relaxed: what is
 * read carries its own proof (packet.cuh), and counters only say when it is worth reading.
 */
#ifndef CF_CUDA_DEVICE_MEMORY_CUH
#define CF_CUDA_DEVICE_MEMORY_CUH

#include "backend/cuda/device/watchdog.cuh"

static __device__ __forceinline__ uint4 gpu_load4(const uint32_t *words)
{
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(words)
                 : "memory");
    return v;
}

static __device__ __forceinline__ uint32_t gpu_load(const uint32_t *word)
{
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(word) : "memory");
    return v;
}

static __device__ __forceinline__ uint64_t gpu_load(const uint64_t *word)
{
    uint64_t v;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(word) : "memory");
    return v;
}

static __device__ __forceinline__ ulonglong2 gpu_load2(const uint64_t *words)
{
    ulonglong2 v;
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(v.x), "=l"(v.y)
                 : "l"(words)
                 : "memory");
    return v;
}

static __device__ __forceinline__ void gpu_store(uint32_t *word, uint32_t value)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(word), "r"(value) : "memory");
}

static __device__ __forceinline__ void gpu_store(uint64_t *word, uint64_t value)
{
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

static __device__ __forceinline__ void gpu_count(uint32_t *counter)
{
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" : : "l"(counter) : "memory");
}

/* Publishes what this thread has written, or acquired of others, to those that acquire the count.
 */
static __device__ __forceinline__ void gpu_count_release(uint32_t *counter)
{
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" : : "l"(counter) : "memory");
}

/* The host's memory. What is stored is whole; nothing else is ordered by it. */
static __device__ __forceinline__ uint32_t host_load(const uint32_t *word)
{
    uint32_t v;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(word) : "memory");
    return v;
}

static __device__ __forceinline__ void host_store(uint64_t *word, uint64_t value)
{
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

/* Pauses between polls keep the counter's line free for those that count. */
#define POLL_PAUSE_NS 100

/* Returns when the counter, which only grows and may wrap around, has reached `target`. */
static __device__ __forceinline__ void gpu_wait_count(const uint32_t *counter, uint32_t target)
{
    uint64_t begin = watchdog_begin();
    while ((int32_t)(gpu_load(counter) - target) < 0) {
        __nanosleep(POLL_PAUSE_NS);
        watchdog_check(begin);
    }
}

/* The same, where the round trip is what counts; acquires what those who counted have released. */
static __device__ __forceinline__ void gpu_acquire_count(const uint32_t *counter, uint32_t target)
{
    uint64_t begin = watchdog_begin();
    while ((int32_t)(gpu_load(counter) - target) < 0)
        watchdog_check(begin);
    asm volatile("fence.acq_rel.gpu;" : : : "memory");
}

#endif
