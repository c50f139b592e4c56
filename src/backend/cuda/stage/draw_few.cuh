/*
 * Drawing a token where filters keep few: all blocks get all logits that may be kept, in one round,
 * and each finds the token by itself, in integers, so that the order in which the logits came does
 * not matter.
 */
#ifndef CF_CUDA_STAGE_DRAW_FEW_CUH
#define CF_CUDA_STAGE_DRAW_FEW_CUH

#include "backend/cuda/stage/draw_round.cuh"

static __device__ __forceinline__ bool has_top_k(const cf_token_args &args)
{
    return args.choice.top_k < args.model.schedule.shape.n_vocab;
}

static __device__ __forceinline__ bool has_top_p(const cf_token_args &args)
{
    return args.choice.top_p < 1;
}

static __device__ __forceinline__ uint32_t sample_top_k(const cf_token_args &args)
{
    return (uint32_t)max(args.choice.top_k, 1);
}

/* What top_p keeps of `total`. */
static __device__ __forceinline__ uint32_t sample_share_of(const cf_token_args &args,
                                                           uint32_t total)
{
    return max((uint32_t)ceil((double)args.choice.top_p * total), 1u);
}

static __device__ __forceinline__ bool is_before(const cf_draw_member &a, const cf_draw_member &b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Of n members, the one with which the sum reaches `need`: it is the new limit. */
static __device__ __forceinline__ void find_member(sample_space &space, uint32_t n, uint32_t need,
                                                   int thread)
{
    if ((uint32_t)thread < n) {
        cf_draw_member own = space.members[thread];
        uint32_t before = space.above;
#pragma unroll 4
        for (uint32_t i = 0; i < n; i++) {
            cf_draw_member other = space.members[i];
            before += is_before(other, own) ? other.amount : 0;
        }
        if (before < need && need <= before + own.amount) {
            space.limit = own.logit;
            space.limit_id = own.id;
            space.reached = before + own.amount;
        }
    }
    sample_sync(); /* publishes the limit */
}

/*
 * Looks for a logit that is no better than the limit to be found, among what each block found to be
 * its best: whatever these alone reach, all logits down to the same one reach, too. False if they
 * do not reach the need, or are so few beside top_k that too many others may lie between them.
 * The interval's one bin is what is to be looked at.
 */
static __device__ __forceinline__ bool find_bound(const cf_token_args &args,
                                                  const sample_logits &logits,
                                                  sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    bool by_weight = !has_top_k(args);
    uint32_t n = gridDim.x, need = sample_top_k(args);
    if (n > CF_DRAW_MEMBERS || (!by_weight && need > n / 4 * 3))
        return false;
    if (by_weight) /* with room for what fixed point rounds off the total */
        need = sample_share_of(args, 1u << 31) + (uint32_t)args.model.schedule.shape.n_vocab;
    float best = space.bests[thread];
    uint32_t own = 0, total;
    if ((uint32_t)thread < n) {
        own = sample_amount(args, logits, by_weight, best);
        space.members[thread] = {best, thread, own, 0};
    }
    if (thread == 0) {
        space.bin = 0;
        space.above = 0;
    }
    sum_threads(space.warp_sums, own, thread, total); /* publishes the blocks' best ones, too */
    if (total < need)
        return false;
    find_member(space, n, need, thread);
    interval = {space.limit, logits.best, 0};
    return true;
}

/* Brings these logits, and for top_p alone the amount of all; returns how many they are. */
static __device__ __forceinline__ uint32_t collect_few(const cf_token_args &args,
                                                       const sample_logits &logits,
                                                       const sample_interval &interval,
                                                       uint32_t &total, int thread)
{
    sample_space &space = sample_shared(args);
    cf_draw_round *round = sample_round(args);
    put_members(args, logits, true, [&](float logit, int32_t id) {
        return interval.begins_with(logit, id, space.bin + 1);
    });
    if (!has_top_k(args)) {
        uint32_t own = 0, sum;
        sample_each(space, logits,
                    [&](float logit, int32_t) { own += sample_amount(args, logits, true, logit); });
        sum_threads(space.warp_sums, own, thread, sum);
        if (thread == 0)
            atomicAdd(&round->total, sum);
    }
    sample_meet(args, thread);
    total = __ldcg(&round->total);
    uint32_t n = fetch_members(args, round, thread);
    sample_sync(); /* publishes the members */
    return n;
}

/* The one of n, in any order but each with another id, with which the sum in the order of ids
 * exceeds `u` of the total. */
static __device__ __forceinline__ void draw_share(sample_space &space, uint32_t n, double u,
                                                  int thread)
{
    if ((uint32_t)thread >= n)
        return;
    sample_share own = space.few[thread];
    uint64_t before = 0, total = 0;
#pragma unroll 4
    for (uint32_t i = 0; i < n; i++) {
        sample_share other = space.few[i];
        total += other.amount;
        before += other.id < own.id ? other.amount : 0;
    }
    uint64_t target = min((uint64_t)(u * (double)total), total - 1);
    if (before <= target && target - before < own.amount)
        space.drawn = own.id;
}

/*
 * Filters and draws from the n members, a thread each, into space.drawn. Weights are of 40 bits
 * after the point; the best one's is 1. False if the members do not reach what top_p keeps of
 * `total`, for which it counts only without top_k: else of what top_k leaves.
 */
static __device__ __forceinline__ bool draw_of_few(const cf_token_args &args,
                                                   const sample_logits &logits, uint32_t n,
                                                   uint32_t total, int thread)
{
    sample_space &space = sample_shared(args);
    uint32_t n_left = min(n, sample_top_k(args)), rank = 0, before = 0, need = UINT32_MAX;
    cf_draw_member own = {};
    if ((uint32_t)thread < n) {
        own = space.members[thread];
#pragma unroll 4
        for (uint32_t i = 0; i < n; i++) {
            cf_draw_member other = space.members[i];
            bool is_other_before = is_before(other, own);
            rank += is_other_before;
            before += is_other_before ? other.amount : 0;
        }
        if (rank == n_left - 1)
            space.reached = before + own.amount;
    }
    sample_sync(); /* publishes what is reached; the members have been read */
    if (has_top_p(args))
        need = sample_share_of(args, has_top_k(args) ? space.reached : total);
    if (has_top_p(args) && space.reached < need)
        return false;
    if ((uint32_t)thread < n && rank < n_left) {
        float weight = before < need ? sample_final_weight(args, logits, own.logit) : 0;
        space.few[rank] = {__float2ull_rn(weight * 0x1p40f), own.id};
    }
    sample_sync(); /* publishes who is kept, in another place */
    draw_share(space, n_left, choice_shared(args).uniform, thread);
    sample_sync(); /* publishes the token */
    return true;
}

/* Draws from what lies in the interval's bins down to the one that was found, or above: false if
 * it is not enough or too many. */
static __device__ __forceinline__ bool draw_few(const cf_token_args &args,
                                                const sample_logits &logits,
                                                const sample_interval &interval, int thread)
{
    uint32_t total, n = collect_few(args, logits, interval, total, thread);
    return n <= CF_DRAW_MEMBERS && draw_of_few(args, logits, n, total, thread);
}

#endif
