/*
 * The token kernel: one launch evaluates one token or several, one after the other, from the
 * embedding to the logits. One block runs on each multiprocessor, and its warps have four roles
 * that meet in shared memory only:
 *
 *     consumers   multiply tiles, attend to the KV cache's, publish q, k and v, the activated MLP,
 *                 the residual, the logits
 *     producers   stream the tiles into the ring, never waiting for anything but room
 *     attention   rotary embedding, new keys and values, merging what consumers found
 *     vectors     LayerNorms, and what other blocks have published, into shared memory
 */
#ifndef CF_CUDA_KERNEL_TOKEN_CUH
#define CF_CUDA_KERNEL_TOKEN_CUH

#include "backend/cuda/stage/attention.cuh"
#include "backend/cuda/stage/consume.cuh"
#include "backend/cuda/stage/stream.cuh"
#include "backend/cuda/stage/vectors.cuh"

#define MAX_TOKEN_THREADS (32 * CF_SCHEDULE_MAX_WARPS)

static __device__ __forceinline__ void init_barriers(const cf_token_args &args)
{
    block_state &block = block_shared();
    for (int32_t s = threadIdx.x; s < args.model.schedule.n_slots; s += blockDim.x) {
        barrier_init(&block.full[s], COPY_ARRIVALS);
        barrier_init(&block.empty[s], WARP_ARRIVALS);
    }
    /* Loops, since racecheck takes what a predicate turns off for done. */
    for (int32_t v = threadIdx.x; v < CF_N_VECTORS; v += blockDim.x)
        barrier_init(&block.ready[v], WARP_ARRIVALS * CF_SCHEDULE_N_VECTOR_WARPS);
    if (threadIdx.x < CF_SCHEDULE_MAX_PHASES)
        block.n_done[threadIdx.x] = 0;
    if (threadIdx.x == 0) {
        barrier_init(&block.query, N_ATTENTION_THREADS(args.model.schedule.shape.d_head));
        barrier_init(&block.attended, WARP_ARRIVALS * args.model.schedule.n_consumers);
        barrier_init(&block.published, WARP_ARRIVALS * args.model.shares[blockIdx.x].n_units);
        barrier_init(&block.partner, 1);
        barrier_init(&block.stopped, 1);
        block.n_published = 0;
        barrier_init(&choice_shared(args).judged, WARP_ARRIVALS * args.model.schedule.n_consumers);
        barrier_init(&choice_shared(args).decided, 1);
        choice_shared(args).is_stopped = false;
        choice_shared(args).round = 0;
    }
    barriers_publish();
}

/* What consumers look up of a phase. */
static __device__ __forceinline__ void init_phases(const cf_schedule &schedule)
{
    int32_t p = threadIdx.x;
    if (p >= schedule.n_phases)
        return;
    const cf_phase &phase = schedule.phases[p];
    block_shared().phases[p] = {schedule.shared.vectors[phase.input], phase.n_columns,
                                (int16_t)phase.input, (int16_t)phase.part, phase.matrix};
}

static __device__ __forceinline__ void init_block(const cf_token_args &args)
{
    const cf_schedule &schedule = args.model.schedule;
    const cf_share &share = args.model.shares[blockIdx.x];
    const cf_tile *source = args.model.tiles + (int64_t)blockIdx.x * schedule.max_tiles;
    cf_tile *tiles = block_at<cf_tile>(schedule.shared.tiles);
    init_barriers(args);
    init_phases(schedule);
    if (threadIdx.x == 0)
        block_shared().share = share;
    for (int32_t t = threadIdx.x; t < share.n_layer_tiles + share.n_head_tiles; t += blockDim.x)
        tiles[t] = source[t];
    for (int32_t u = threadIdx.x; u < schedule.max_units; u += blockDim.x)
        warp_counter_init(&block_at<warp_counter>(schedule.shared.arrivals)[u],
                          (uint32_t)schedule.n_parts);
    if (args.step.has_pairs)
        pair_sync(); /* each block may now write to the other */
    __syncthreads(); /* publishes all of it to all roles */
}

template <class format, int d_head>
__global__ void __launch_bounds__(MAX_TOKEN_THREADS, 1)
    token_kernel(const __grid_constant__ cf_token_args args)
{
    int32_t n_consumers = args.model.schedule.n_consumers;
    int32_t n_first = n_consumers + args.model.schedule.n_producers;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    init_block(args);
    if (warp < n_consumers)
        stage_consume<format, d_head>(args, warp, lane);
    else if (warp < n_first)
        stage_stream(args, warp - n_consumers, lane);
    else if (warp < n_first + CF_SCHEDULE_N_ATTENTION_WARPS(d_head))
        stage_attention<d_head>(args, threadIdx.x - 32 * n_first);
    else
        stage_vectors<format>(args, threadIdx.x - 32 * n_first - N_ATTENTION_THREADS(d_head));
}

/* The host's way to the kernels of one head width: a file each, so that they compile side by side.
 */
#define TOKEN_KERNELS(d_head)                                                                      \
    extern "C" const void *cf_token_kernel_##d_head(cf_dtype weights)                              \
    {                                                                                              \
        return weights == CF_DTYPE_BF16                                                            \
                   ? reinterpret_cast<const void *>(&token_kernel<format_bf16, d_head>)            \
                   : reinterpret_cast<const void *>(&token_kernel<format_f16, d_head>);            \
    }

#endif
