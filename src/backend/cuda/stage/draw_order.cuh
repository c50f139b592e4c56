/* Drawing a token, the last step: a place in the order of ids, found by the blocks' sums. */
#ifndef CF_CUDA_STAGE_DRAW_ORDER_CUH
#define CF_CUDA_STAGE_DRAW_ORDER_CUH

#include "backend/cuda/stage/draw_news.cuh"

/* The last lane for which `condition` holds, -1 for none. */
static __device__ __forceinline__ int last_lane(bool condition)
{
    return 31 - __clz((int)__ballot_sync(WARP_ALL, condition));
}

/*
 * By one warp: the block in which the sum over all before it exceeds `u` of the total, and what is
 * left of that within it. Lanes take consecutive blocks.
 */
static __device__ __forceinline__ void find_owner(sample_space &space, double u, int lane)
{
    int32_t n_blocks = gridDim.x, each = (n_blocks + 31) / 32, begin = lane * each, found = -1;
    double own = 0, rest = 0;
#pragma unroll 1
    for (int32_t b = begin; b < begin + each; b++)
        own += b < n_blocks ? (double)space.sums[b] : 0;
    double sum = sum_lanes(own, lane), before = sum - own;
    double target = u * __shfl_sync(WARP_ALL, sum, 31);
#pragma unroll 1
    for (int32_t b = begin; b < begin + each; b++) {
        float here = b < n_blocks ? space.sums[b] : 0;
        if (here > 0 && before <= target)
            found = b, rest = target - before;
        before += (double)here;
    }
    if (lane == max(last_lane(found >= 0), 0)) {
        space.owner = max(found, 0);
        space.target = rest;
    }
}

/* Of one of the block's logits: what the filters leave of it. */
static __device__ __forceinline__ double kept_weight(const cf_token_args &args,
                                                     const sample_logits &logits, float logit,
                                                     int32_t id)
{
    if (!sample_is_kept(sample_shared(args), logit, id))
        return 0;
    return (double)sample_final_weight(args, logits, logit);
}

/*
 * By all threads of the owner, `before` over the threads before: the last id that the target is not
 * short of. The block's sum by which it was found may differ from the one here in its last bits.
 */
static __device__ __forceinline__ void find_own_id(const cf_token_args &args,
                                                   const sample_logits &logits, double before,
                                                   int thread)
{
    sample_space &space = sample_shared(args);
    int32_t last = -1;
    sample_each(space, logits, [&](float logit, int32_t id) {
        double here = kept_weight(args, logits, logit, id);
        if (here > 0 && before <= space.target)
            last = id;
        before += here;
    });
    last = __reduce_max_sync(WARP_ALL, last);
    if (thread % 32 == 0)
        atomicMax_block(&space.drawn, last);
    sample_sync(); /* gathers the warps' last ids */
}

/*
 * The id with which, in the order of ids, the sum of the weights that are kept exceeds `u` of the
 * total; for thread 0. The owner alone knows it, and tells the others by a packet, which is
 * overwritten when all have worked on the next token.
 *
 * Where the blocks' sums are not yet in shared memory, blocks tell them first.
 */
static __device__ __forceinline__ int32_t find_in_order(const cf_token_args &args,
                                                        const sample_logits &logits, double u,
                                                        bool has_sums, uint32_t epoch, int thread)
{
    sample_space &space = sample_shared(args);
    uint64_t *told = &args.session.draw->told;
    double own = 0, total;
    if (thread == 0)
        space.drawn = -1;
    sample_each(space, logits,
                [&](float logit, int32_t id) { own += kept_weight(args, logits, logit, id); });
    double before = sum_threads(space.warp_totals, own, thread, total); /* publishes sums, too */
    if (!has_sums) {
        uint32_t unused;
        if (thread == 0)
            tell_sums(args, (float)total, 0);
        hear_news(args, unused, thread);
    }
    if (thread < 32)
        find_owner(space, u, thread);
    sample_sync(); /* publishes the owner */
    if (space.owner != (int32_t)blockIdx.x)
        return thread < 32 ? (int32_t)word_await(told, epoch) : -1;
    find_own_id(args, logits, before, thread);
    if (thread == 0)
        word_store(told, (uint32_t)space.drawn, epoch);
    return space.drawn;
}

#endif
