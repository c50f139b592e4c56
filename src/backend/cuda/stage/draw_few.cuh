/*
 * Drawing a token where filters keep few: all blocks get all logits that may be kept, by one
 * exchange of news, and each finds the token by itself, in integers, so that the order in which the
 * logits came does not matter.
 */
#ifndef CF_CUDA_STAGE_DRAW_FEW_CUH
#define CF_CUDA_STAGE_DRAW_FEW_CUH

#include "backend/cuda/stage/draw_news.cuh"

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

/* Blocks are looked at in at most so many groups: of so many members two threads share each. */
enum { BOUND_GROUPS = N_VECTOR_THREADS / 2 };

/* The best logit of the blocks of a thread's group, as a member. */
static __device__ __forceinline__ sample_member best_of_group(const cf_token_args &args,
                                                              const sample_logits &logits,
                                                              bool by_weight, int thread)
{
    const sample_space &space = sample_shared(args);
    if (thread >= min((int32_t)gridDim.x, (int32_t)BOUND_GROUPS))
        return {};
    float best = space.bests[thread];
    for (int32_t b = thread + BOUND_GROUPS; b < (int32_t)gridDim.x; b += BOUND_GROUPS)
        best = fmaxf(best, space.bests[b]);
    return {member_key(best, thread), sample_amount(args, logits, by_weight, best), 0};
}

/*
 * Looks for a logit that is no better than the limit to be found, among the best ones of groups of
 * blocks: whatever these alone reach, all logits down to the same one reach, too. False if they do
 * not reach the need, or are so few beside top_k that too many others may lie between them. The
 * interval's one bin is what is to be looked at.
 */
static __device__ __forceinline__ bool find_bound(const cf_token_args &args,
                                                  const sample_logits &logits,
                                                  sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    bool by_weight = !has_top_k(args);
    uint32_t n = min(gridDim.x, (uint32_t)BOUND_GROUPS), need = sample_top_k(args), total;
    if (!by_weight && need > n / 4 * 3)
        return false;
    if (by_weight) /* with room for what fixed point rounds off the total */
        need = sample_share_of(args, 1u << 31) + (uint32_t)args.model.schedule.shape.n_vocab;
    sample_member own = best_of_group(args, logits, by_weight, thread);
    space.members[thread] = own;
    if (thread == 0) {
        space.bin = 0;
        space.above = 0;
    }
    sum_threads(space.warp_sums, own.amount, thread, total); /* publishes the best ones, too */
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
    uint32_t own = 0, amount;
    tell_members(args, logits, true, [&](float logit, int32_t id) {
        return interval.begins_with(logit, id, space.bin + 1);
    });
    if (!has_top_k(args))
        sample_each(space, logits,
                    [&](float logit, int32_t) { own += sample_amount(args, logits, true, logit); });
    sum_threads(space.warp_sums, own, thread, amount); /* gathers what the threads have told */
    if (thread == 0)
        tell_sums(args, 0, amount);
    return hear_news(args, total, thread);
}

/* The one of n, in any order but each with another id, with which the sum in the order of ids
 * exceeds `u` of the total. Threads share them as rank_members() does. */
static __device__ __forceinline__ void draw_share(sample_space &space, uint32_t n, double u,
                                                  int thread)
{
    uint32_t n_sharers = member_sharers(n), member = (uint32_t)thread / n_sharers;
    uint32_t share = (uint32_t)thread % n_sharers;
    sample_share own = space.few[member];
    uint64_t before = 0, total = 0;
    const sample_share *others = space.few + share;
#pragma unroll 1
    for (uint32_t first = 0; first < n; first += MEMBERS_A_TURN * n_sharers) {
#pragma unroll
        for (uint32_t i = 0; i < MEMBERS_A_TURN; i++) {
            sample_share other = others[i * n_sharers];
            total += other.amount;
            before += other.id < own.id ? other.amount : 0;
        }
        others += MEMBERS_A_TURN * n_sharers;
    }
#pragma unroll 1
    for (uint32_t step = 1; step < n_sharers; step *= 2) {
        total += __shfl_xor_sync(WARP_ALL, total, step);
        before += __shfl_xor_sync(WARP_ALL, before, step);
    }
    uint64_t target = min((uint64_t)(u * (double)total), total - 1);
    if (member < n && share == 0 && before <= target && target - before < own.amount)
        space.drawn = own.id;
}

/*
 * Filters and draws from the n members into space.drawn. Weights are of 40 bits after the point;
 * the best one's is 1. False if the members do not reach what top_p keeps of `total`, for which it
 * counts only without top_k: else of what top_k leaves.
 */
static __device__ __forceinline__ bool draw_of_few(const cf_token_args &args,
                                                   const sample_logits &logits, uint32_t n,
                                                   uint32_t total, int thread)
{
    sample_space &space = sample_shared(args);
    uint32_t n_left = min(n, sample_top_k(args)), need = UINT32_MAX;
    sample_rank found = rank_members(space, n, thread);
    if (found.is_mine && found.rank == n_left - 1)
        space.reached = found.before + found.own.amount;
    sample_sync(); /* publishes what is reached; the members have been read */
    if (has_top_p(args))
        need = sample_share_of(args, has_top_k(args) ? space.reached : total);
    if (has_top_p(args) && space.reached < need)
        return false;
    if ((uint32_t)thread >= n_left)
        space.few[thread] = {0, INT32_MAX};
    if (found.is_mine && found.rank < n_left) {
        float logit = found.own.logit();
        float weight = found.before < need ? sample_final_weight(args, logits, logit) : 0;
        space.few[found.rank] = {__float2ull_rn(weight * 0x1p40f), found.own.id()};
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
