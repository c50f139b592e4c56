/* Memory that emulated blocks share: atomic words of the CPU. */
#ifndef CF_CUDA_DEVICE_MEMORY_CUH
#define CF_CUDA_DEVICE_MEMORY_CUH

#include "backend/cuda/device/watchdog.cuh"

template <class word> static inline word gpu_load(const word *place)
{
    return __atomic_load_n(place, __ATOMIC_RELAXED);
}

static inline uint4 gpu_load4(const uint32_t *words)
{
    return make_uint4(gpu_load(words), gpu_load(words + 1), gpu_load(words + 2),
                      gpu_load(words + 3));
}

template <class word> static inline void gpu_store(word *place, word value)
{
    __atomic_store_n(place, value, __ATOMIC_RELAXED);
}

static inline void gpu_count(uint32_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static inline void gpu_count_release(uint32_t *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_RELEASE);
}

static inline uint32_t host_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void host_store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

#define POLL_PAUSE_NS 100

static inline void gpu_acquire_count(const uint32_t *counter, uint32_t target)
{
    uint64_t begin = watchdog_begin();
    while ((int32_t)(__atomic_load_n(counter, __ATOMIC_ACQUIRE) - target) < 0)
        watchdog_check(begin);
}

static inline void gpu_wait_count(const uint32_t *counter, uint32_t target)
{
    uint64_t begin = watchdog_begin();
    while ((int32_t)(gpu_load(counter) - target) < 0)
        watchdog_check(begin);
}

#endif
