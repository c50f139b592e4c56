/*
 * Values that carry their epoch: a reader sees from the value itself whether it is the one it waits
 * for, so that writing needs no release and reading no acquire. A value is overwritten only when
 * all have read it, so a stale one is always of the epoch before: few bits tell them apart.
 *
 *     activation   16-bit float, 16 bits of epoch
 *     residual     float32 without its two lowest bits, 2 bits of epoch
 *     partial      float32 or another word, 32 bits of epoch
 *
 * All lanes of a warp wait together, also for packets that only some of them need. Lanes that leave
 * such a loop one by one stay apart: whatever the warp does together after it, a shuffle or a
 * barrier, then takes several times as long.
 */
#ifndef CF_CUDA_DEVICE_PACKET_CUH
#define CF_CUDA_DEVICE_PACKET_CUH

#include "backend/cuda/device/memory.cuh"
#include "backend/cuda/device/warp.cuh"

#include <cuda_fp16.h>

/* Between two looks at packets that are late. */
#define LATE_PAUSE_NS 40

/* Activations, four at a time as they are read. */
struct activation_packets {
    static __device__ __forceinline__ bool are_of(uint4 v, uint32_t epoch)
    {
        uint32_t wanted = epoch << 16;
        uint32_t difference = (v.x ^ wanted) | (v.y ^ wanted) | (v.z ^ wanted) | (v.w ^ wanted);
        return difference >> 16 == 0;
    }

    /* As 16-bit floats. */
    static __device__ __forceinline__ uint2 values(uint4 v)
    {
        return make_uint2(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.z, v.w, 0x5410));
    }
};

/* The same of the residual. */
struct residual_packets {
    static __device__ __forceinline__ bool are_of(uint4 v, uint32_t epoch)
    {
        return (((v.x ^ epoch) | (v.y ^ epoch) | (v.z ^ epoch) | (v.w ^ epoch)) & 3u) == 0;
    }

    static __device__ __forceinline__ float4 values(uint4 v)
    {
        return make_float4(__uint_as_float(v.x & ~3u), __uint_as_float(v.y & ~3u),
                           __uint_as_float(v.z & ~3u), __uint_as_float(v.w & ~3u));
    }
};

static __device__ __forceinline__ void activation_store(uint32_t *packet, float value,
                                                        uint32_t epoch)
{
    uint32_t bits = __half_as_ushort(__float2half_rn(value));
    gpu_store(packet, bits | epoch << 16);
}

static __device__ __forceinline__ void residual_store(uint32_t *packet, float value, uint32_t epoch)
{
    gpu_store(packet, (__float_as_uint(value) & ~3u) | (epoch & 3u));
}

/*
 * Brings packets of `epoch` when they and the other lanes' are there: four each at places
 * place_of(0) … place_of(n - 1), of those below `end`. What is late is asked for again, and nothing
 * else: the lines of those who write should not be busy.
 */
template <class kind, int n, class places>
static __device__ __forceinline__ void packets_load(uint4 (&v)[n], const uint32_t *packets,
                                                    places place_of, int32_t end, uint32_t epoch)
{
    uint64_t begin = watchdog_begin();
#pragma unroll
    for (int k = 0; k < n; k++)
        if (place_of(k) < end)
            v[k] = gpu_load4(packets + place_of(k));
    for (;;) {
        bool is_late[n], is_any = false;
#pragma unroll
        for (int k = 0; k < n; k++) {
            is_late[k] = place_of(k) < end && !kind::are_of(v[k], epoch);
            is_any = is_any || is_late[k];
        }
        if (!__any_sync(WARP_ALL, is_any))
            return;
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
#pragma unroll
        for (int k = 0; k < n; k++)
            if (is_late[k])
                v[k] = gpu_load4(packets + place_of(k));
    }
}

static __device__ __forceinline__ void word_store(uint64_t *packet, uint32_t word, uint32_t epoch)
{
    gpu_store(packet, (uint64_t)epoch << 32 | word);
}

static __device__ __forceinline__ void partial_store(uint64_t *packet, float value, uint32_t epoch)
{
    word_store(packet, __float_as_uint(value), epoch);
}

static __device__ __forceinline__ bool partial_is_of(uint64_t packet, uint32_t epoch)
{
    return (uint32_t)(packet >> 32) == epoch;
}

static __device__ __forceinline__ float partial_value(uint64_t packet)
{
    return __uint_as_float((uint32_t)packet);
}

/* A word of `epoch`. Each lane names a packet; a lane that needs none, one that comes. */
static __device__ __forceinline__ uint32_t word_await(const uint64_t *packet, uint32_t epoch)
{
    uint64_t begin = watchdog_begin(), v = gpu_load(packet);
    while (__any_sync(WARP_ALL, !partial_is_of(v, epoch))) {
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
        v = gpu_load(packet);
    }
    return (uint32_t)v;
}

/* Two values of `epoch`, when both are there; likewise. */
static __device__ __forceinline__ float2 partials_await(const uint64_t *packets, uint32_t epoch)
{
    uint64_t begin = watchdog_begin();
    ulonglong2 v = gpu_load2(packets);
    while (__any_sync(WARP_ALL, !partial_is_of(v.x, epoch) || !partial_is_of(v.y, epoch))) {
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
        v = gpu_load2(packets);
    }
    return make_float2(partial_value(v.x), partial_value(v.y));
}

#endif
