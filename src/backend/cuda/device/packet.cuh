/*
 * Values that carry their epoch: a reader sees from the value itself whether it is the one it waits
 * for, so that writing needs no release and reading no acquire. A value is overwritten only when
 * all have read it, so a stale one is always of the epoch before: few bits tell them apart.
 *
 *     activation   16-bit float, 16 bits of epoch
 *     residual     float32 without its two lowest bits, 2 bits of epoch
 *     partial      float32 or another word, 32 bits of epoch
 */
#ifndef CF_CUDA_DEVICE_PACKET_CUH
#define CF_CUDA_DEVICE_PACKET_CUH

#include "backend/cuda/device/memory.cuh"
#include "backend/cuda/device/warp.cuh"

#include <cuda_fp16.h>

/* Between two looks at packets that are late. */
#define LATE_PAUSE_NS 40

static __device__ __forceinline__ void activation_store(uint32_t *packet, float value,
                                                        uint32_t epoch)
{
    uint32_t bits = __half_as_ushort(__float2half_rn(value));
    gpu_store(packet, bits | epoch << 16);
}

static __device__ __forceinline__ bool activations_are_of(uint4 v, uint32_t epoch)
{
    uint32_t wanted = epoch << 16;
    uint32_t difference = (v.x ^ wanted) | (v.y ^ wanted) | (v.z ^ wanted) | (v.w ^ wanted);
    return difference >> 16 == 0;
}

/* Four 16-bit floats of `epoch`, from packets first read as `v`. */
static __device__ __forceinline__ uint2 activations_await(uint4 v, const uint32_t *packets,
                                                          uint32_t epoch)
{
    uint64_t begin = watchdog_begin();
    while (!activations_are_of(v, epoch)) {
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
        v = gpu_load4(packets);
    }
    return make_uint2(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.z, v.w, 0x5410));
}

static __device__ __forceinline__ void residual_store(uint32_t *packet, float value, uint32_t epoch)
{
    gpu_store(packet, (__float_as_uint(value) & ~3u) | (epoch & 3u));
}

static __device__ __forceinline__ bool residuals_are_of(uint4 v, uint32_t epoch)
{
    return (((v.x ^ epoch) | (v.y ^ epoch) | (v.z ^ epoch) | (v.w ^ epoch)) & 3u) == 0;
}

/* Four values of `epoch`, from packets first read as `v`. */
static __device__ __forceinline__ float4 residuals_await(uint4 v, const uint32_t *packets,
                                                         uint32_t epoch)
{
    uint64_t begin = watchdog_begin();
    while (!residuals_are_of(v, epoch)) {
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
        v = gpu_load4(packets);
    }
    return make_float4(__uint_as_float(v.x & ~3u), __uint_as_float(v.y & ~3u),
                       __uint_as_float(v.z & ~3u), __uint_as_float(v.w & ~3u));
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

/* Two values of `epoch`, when both are there. */
static __device__ __forceinline__ float2 partials_await(const uint64_t *packets, uint32_t epoch)
{
    uint64_t begin = watchdog_begin();
    ulonglong2 v = gpu_load2(packets);
    while (!partial_is_of(v.x, epoch) || !partial_is_of(v.y, epoch)) {
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
        v = gpu_load2(packets);
    }
    return make_float2(partial_value(v.x), partial_value(v.y));
}

#endif
