/* What the warps of a block of the layer kernel share. */
#ifndef CF_CUDA_STAGE_LAYER_BLOCK_CUH
#define CF_CUDA_STAGE_LAYER_BLOCK_CUH

#include "backend/cuda/device/barrier.cuh"
#include "backend/cuda/device/cluster.cuh"
#include "backend/cuda/device/copy.cuh"
#include "backend/cuda/device/format.cuh"
#include "backend/cuda/device/launch.cuh"
#include "backend/cuda/device/memory.cuh"
#include "backend/cuda/device/packet.cuh"
#include "backend/cuda/device/ring.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/stage/layer.h"

#include <cuda_bf16.h>

#define N_HELPER_THREADS (32 * CF_LAYER_N_HELPERS)
#define N_PRODUCER_THREADS (32 * CF_LAYER_N_PRODUCERS)
#define SLOT_USES 2 /* of a tile: by its consumer, and by a helper or once more by the former */
#define ROLE_BARRIER_HELPERS 1
#define ROLE_BARRIER_BLOCK 2

/* The fixed part of shared memory, at its beginning. */
struct layer_block {
    uint64_t full[CF_LAYER_MAX_SLOTS];  /* a tile is there */
    uint64_t empty[CF_LAYER_MAX_SLOTS]; /* a tile has been used */
    uint64_t ready[CF_LAYER_N_VECTORS]; /* a vector is there; once a launch */
    uint64_t helped;                    /* consumers are at down's tiles; once a launch */
    uint64_t partner;                   /* the paired block's part of the head is there; once */
    uint32_t n_left[CF_LAYER_N_COUNTS]; /* the block's tiles that are not done */
    uint32_t epoch;                     /* of this launch; published with the first vector */
    cf_layer_share share;
    float sums[2][CF_LAYER_N_HELPERS];
};
static_assert(sizeof(layer_block) <= CF_LAYER_FIXED_BYTES, "the layout reserves too little");

static __device__ __forceinline__ char *layer_memory()
{
    extern __shared__ __align__(128) char memory[];
    return memory;
}

static __device__ __forceinline__ layer_block &layer_shared()
{
    return *reinterpret_cast<layer_block *>(layer_memory());
}

template <class element> static __device__ __forceinline__ element *layer_at(int32_t offset)
{
    return reinterpret_cast<element *>(layer_memory() + offset);
}

static __device__ __forceinline__ uint32_t *layer_counter(const cf_layer_args &args, int32_t count)
{
    return args.scratch.counters + count * CF_LAYER_COUNTER_STRIDE;
}

static __device__ __forceinline__ void helpers_sync()
{
    role_sync(ROLE_BARRIER_HELPERS, N_HELPER_THREADS);
}

/* Returns when all of a launch have counted; one thread polls for all helpers. */
static __device__ __forceinline__ void helpers_await(const cf_layer_args &args, int32_t count,
                                                     int thread)
{
    if (thread == 0)
        gpu_wait_count(layer_counter(args, count),
                       layer_shared().epoch * (uint32_t)args.plan.n_counting[count] -
                           (uint32_t)args.plan.n_late[count]);
    helpers_sync();
}

/* Publishes what this warp of the helpers wrote of a vector. */
static __device__ __forceinline__ void layer_vector_ready(int32_t vector, int thread)
{
    __syncwarp();
    if (thread % 32 == 0)
        barrier_arrive(&layer_shared().ready[vector]);
}

template <class format> static __device__ __forceinline__ uint16_t narrowed(float value);

template <> __device__ __forceinline__ uint16_t narrowed<format_f16>(float value)
{
    return __half_as_ushort(__float2half_rn(value));
}

template <> __device__ __forceinline__ uint16_t narrowed<format_bf16>(float value)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

template <class format>
static __device__ __forceinline__ float widened(const void *elements, int32_t i)
{
    return format::unpack(static_cast<const uint16_t *>(elements)[i]).x;
}

template <class format>
static __device__ __forceinline__ void store_element(void *elements, int32_t i, float value)
{
    static_cast<uint16_t *>(elements)[i] = narrowed<format>(value);
}

/* Eight elements of 16 bits. */
template <class format>
static __device__ __forceinline__ void unpack8(float (&x)[8], const uint4 &packed)
{
    const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 pair = format::unpack(pairs[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
    }
}

#endif
