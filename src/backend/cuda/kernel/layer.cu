/*
 * The layer kernel: one launch evaluates one decoder layer for one token, from the hidden state to
 * attention's projection and the activated MLP, or to the layer's output. One block runs on each
 * multiprocessor, and its warps have three roles that meet in shared memory only:
 *
 *     consumers   multiply tiles and publish or store the sums
 *     producers   stream the tiles into the ring in turn, never waiting for anything but room
 *     helpers     LayerNorms, attention, and what other blocks have published, into shared memory
 */
#include "backend/cuda/kernel/layer.h"

#include "backend/cuda/stage/layer_attention.cuh"
#include "backend/cuda/stage/layer_consume.cuh"
#include "backend/cuda/stage/layer_norm.cuh"
#include "backend/cuda/stage/layer_stream.cuh"

#define MAX_LAYER_THREADS                                                                          \
    (32 * (CF_LAYER_MAX_CONSUMERS + CF_LAYER_N_PRODUCERS + CF_LAYER_N_HELPERS))

/* Each warp fetches a line of the arguments: they come from far, and would one after the other. */
static __device__ __forceinline__ void touch_arguments(const cf_layer_args &args, int warp)
{
    const uint32_t *words = reinterpret_cast<const uint32_t *>(&args);
    uint32_t word = words[16 * min(warp, (int)(sizeof args / 64) - 1)];
    asm volatile("" : : "r"(word));
}

/* A producer's own slots. */
static __device__ __forceinline__ void init_slots(const cf_layer_args &args, int producer, int lane)
{
    layer_block &block = layer_shared();
    for (int32_t s = producer + CF_LAYER_N_PRODUCERS * lane; s < args.plan.n_slots;
         s += 32 * CF_LAYER_N_PRODUCERS) {
        barrier_init(&block.full[s], COPY_ARRIVALS);
        barrier_init(&block.empty[s], SLOT_USES);
    }
    barriers_publish();
}

/* All but the ring; by the threads that are no producers. */
static __device__ __forceinline__ void init_layer_block(const cf_layer_args &args, int thread)
{
    layer_block &block = layer_shared();
    cf_layer_share share = cf_layer_share_of(&args.plan, blockIdx.x);
    int32_t n_own = args.plan.options.whole ? share.n_units << args.plan.row_bits : 0;
    if (thread < CF_LAYER_N_VECTORS)
        barrier_init(&block.ready[thread], CF_LAYER_N_HELPERS);
    if (thread < CF_LAYER_N_COUNTS)
        block.n_left[thread] = 0;
    if (thread == 0) {
        block.share = share;
        barrier_init(&block.helped, WARP_ARRIVALS * args.plan.n_consumers);
        barrier_init(&block.partner, 1);
    }
    for (int32_t r = thread; r < n_own; r += blockDim.x - N_PRODUCER_THREADS)
        layer_at<uint32_t>(args.plan.layout.arrivals)[r] = 0;
    barriers_publish();
}

template <class format>
static __device__ __forceinline__ void stage_helpers(const cf_layer_args &args, int thread)
{
    const cf_layer_plan &plan = args.plan;
    stage_layer_norms<format>(args, thread);
    prefetch_cache(args, thread);
    stage_layer_attention<format>(args, thread);
    helpers_await(args, CF_LAYER_COUNT_ATTENTION, thread);
    gather_activations(args, CF_LAYER_ATTENTION, args.scratch.attention, plan.options.d_model,
                       thread);
    for (int32_t k = 0; k < (plan.options.whole ? plan.n_chunks : 0); k++) {
        helpers_await(args, CF_LAYER_COUNT_UP + k, thread);
        gather_activations(args, CF_LAYER_FFN + k, args.scratch.ffn + k * plan.chunk,
                           min(plan.chunk, plan.options.d_ffn - k * plan.chunk), thread);
    }
    if (plan.options.whole && thread / 32 < plan.n_consumers)
        stage_layer_assist<format>(args, thread / 32, thread % 32);
}

/* A producer needs nothing but its slots: it begins while the others set up the block. */
static __device__ __forceinline__ void begin_stream(const cf_layer_args &args, int producer,
                                                    int lane)
{
    init_slots(args, producer, lane);
    role_arrive(ROLE_BARRIER_BLOCK, blockDim.x); /* publishes the slots to the consumers */
    if (args.has_pairs)
        pair_arrive();
    grid_await_previous();
    stage_layer_stream(args, producer, lane);
    if (args.has_pairs)
        pair_wait();
}

template <class format>
static __device__ __forceinline__ void begin_others(const cf_layer_args &args, int thread)
{
    int32_t n_consuming = 32 * args.plan.n_consumers;
    prefetch_parameters(args, thread);
    init_layer_block(args, thread);
    if (args.has_pairs)
        pair_sync();                           /* each block may now write to the other */
    role_sync(ROLE_BARRIER_BLOCK, blockDim.x); /* publishes all of it to all roles */
    grid_await_previous();
    if (thread < n_consuming)
        stage_layer_consume<format>(args, thread / 32, thread % 32);
    else
        stage_helpers<format>(args, thread - n_consuming);
}

template <class format>
static __global__ void __launch_bounds__(MAX_LAYER_THREADS, 1)
    layer_kernel(const __grid_constant__ cf_layer_args args)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    grid_let_next_begin();
    touch_arguments(args, warp);
    if (warp < CF_LAYER_N_PRODUCERS)
        begin_stream(args, warp, lane);
    else
        begin_others<format>(args, threadIdx.x - N_PRODUCER_THREADS);
}

extern "C" const void *cf_layer_kernel(cf_dtype dtype)
{
    return dtype == CF_DTYPE_BF16 ? reinterpret_cast<const void *>(&layer_kernel<format_bf16>)
                                  : reinterpret_cast<const void *>(&layer_kernel<format_f16>);
}
