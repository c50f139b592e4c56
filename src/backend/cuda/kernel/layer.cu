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

static __device__ __forceinline__ void init_layer_block(const cf_layer_args &args,
                                                        const cf_layer_share &share)
{
    layer_block &block = layer_shared();
    for (int32_t s = threadIdx.x; s < args.plan.n_slots; s += blockDim.x) {
        barrier_init(&block.full[s], COPY_ARRIVALS);
        barrier_init(&block.empty[s], 1);
    }
    if (threadIdx.x < CF_LAYER_N_VECTORS)
        barrier_init(&block.ready[threadIdx.x], CF_LAYER_N_HELPERS);
    if (threadIdx.x < CF_LAYER_N_COUNTS)
        block.n_left[threadIdx.x] = 0;
    if (threadIdx.x == 0)
        block.share = share;
    for (int32_t r = threadIdx.x;
         args.plan.options.whole && r < share.n_units * args.plan.tile_rows; r += blockDim.x)
        layer_at<uint32_t>(args.plan.layout.arrivals)[r] = 0;
#if __CUDA_ARCH__ >= 900
    /* Lets the copy engine see the barriers. */
    asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
#endif
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
}

template <class format>
static __global__ void __launch_bounds__(MAX_LAYER_THREADS, 1)
    layer_kernel(const __grid_constant__ cf_layer_args args)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    grid_let_next_begin();
    touch_arguments(args, warp);
    prefetch_parameters(args);
    init_layer_block(args, cf_layer_share_of(&args.plan, blockIdx.x));
    __syncthreads(); /* publishes all of it to all roles */
    grid_await_previous();
    int32_t n_consumers = args.plan.n_consumers, n_streaming = n_consumers + CF_LAYER_N_PRODUCERS;
    if (warp < n_consumers)
        stage_layer_consume<format>(args, warp, lane);
    else if (warp < n_streaming)
        stage_layer_stream(args, warp - n_consumers, lane);
    else
        stage_helpers<format>(args, threadIdx.x - 32 * n_streaming);
}

extern "C" const void *cf_layer_kernel(cf_dtype dtype)
{
    return dtype == CF_DTYPE_BF16 ? reinterpret_cast<const void *>(&layer_kernel<format_bf16>)
                                  : reinterpret_cast<const void *>(&layer_kernel<format_f16>);
}
