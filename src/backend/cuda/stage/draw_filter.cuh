/*
 * Drawing a token: the filters of cf_sampling that go by rank. What each keeps is a beginning of
 * the order from the most probable to the least, ties by the lower id; so all that it leaves is its
 * last token, the limit.
 *
 * The limit is found by a histogram of amounts (1 for top_k, the weight in fixed point for top_p)
 * over equal intervals between the least logit and the best: counts are integers, so that the
 * order of additions does not matter. The interval in which the sum reaches what is needed has few
 * members, which are then compared with each other; or it is cut again.
 */
#ifndef CF_CUDA_STAGE_DRAW_FILTER_CUH
#define CF_CUDA_STAGE_DRAW_FILTER_CUH

#include "backend/cuda/stage/draw_few.cuh"

enum { SAMPLE_BINS_PER_THREAD = CF_DRAW_BINS / N_VECTOR_THREADS };

/* Where a bin's amount lies. Bins next to each other, of which those of many logits come together,
 * are on different lines of the L2 cache; the inverse is modulo CF_DRAW_BINS. */
enum { BIN_STRIDE = 33, BIN_STRIDE_INVERSE = 993 };
static_assert(BIN_STRIDE * BIN_STRIDE_INVERSE % CF_DRAW_BINS == 1, "each place has one bin");

static __device__ __forceinline__ void fill_bins(const cf_token_args &args,
                                                 const sample_logits &logits, bool by_weight,
                                                 const sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    cf_draw_round *round = sample_round(args);
    uint32_t *bins = round->bins[blockIdx.x % CF_DRAW_COPIES];
    sample_each(space, logits, [&](float logit, int32_t id) {
        if (interval.holds(logit) && sample_is_kept(space, logit, id))
            atomicAdd(&bins[interval.bin(logit, id) * BIN_STRIDE % CF_DRAW_BINS],
                      sample_amount(args, logits, by_weight, logit));
    });
    sample_meet(args, thread);
#pragma unroll
    for (uint32_t b = 0; b < CF_DRAW_BINS / 4; b += N_VECTOR_THREADS) {
        uint32_t sums[4] = {}, place = 4 * (b + (uint32_t)thread);
#pragma unroll
        for (int c = 0; c < CF_DRAW_COPIES; c++) {
            uint4 v = __ldcg(reinterpret_cast<const uint4 *>(round->bins[c] + place));
            sums[0] += v.x, sums[1] += v.y, sums[2] += v.z, sums[3] += v.w;
        }
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            space.bins[(place + k) * BIN_STRIDE_INVERSE % CF_DRAW_BINS] = sums[k];
    }
    sample_sync(); /* publishes the sums */
}

/* Finds the bin in which the sum from the first on, `above` before it, reaches what is needed:
 * `needed`, or if that is 0 the share that top_p keeps of all. */
static __device__ __forceinline__ void find_bin(const cf_token_args &args, uint32_t above,
                                                uint32_t &needed, int thread)
{
    sample_space &space = sample_shared(args);
    uint32_t own = 0, total;
    for (int k = 0; k < SAMPLE_BINS_PER_THREAD; k++)
        own += space.bins[thread * SAMPLE_BINS_PER_THREAD + k];
    uint32_t sum = above + sum_threads(space.warp_sums, own, thread, total);
    if (needed == 0)
        needed = sample_share_of(args, total);
    uint32_t need = min(needed, above + total);
    if (sum < need && need <= sum + own)
#pragma unroll 1
        for (int k = 0; k < SAMPLE_BINS_PER_THREAD; k++) {
            uint32_t amount = space.bins[thread * SAMPLE_BINS_PER_THREAD + k];
            if (sum < need && need <= sum + amount) {
                space.bin = thread * SAMPLE_BINS_PER_THREAD + k;
                space.above = sum;
                space.reached = sum + amount;
            }
            sum += amount;
        }
    sample_sync(); /* publishes the bin */
}

/*
 * Brings the members of the bin that was found; of too many, their number only. With them come the
 * blocks' sums of what lies above the bin: after the last filter the draw goes by them.
 */
static __device__ __forceinline__ uint32_t collect_bin(const cf_token_args &args,
                                                       const sample_logits &logits, bool by_weight,
                                                       const sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    double own = 0, sum;
    uint32_t unused;
    tell_members(args, logits, by_weight, [&](float logit, int32_t id) {
        return interval.holds(logit) && interval.bin(logit, id) == space.bin &&
               sample_is_kept(space, logit, id);
    });
    sample_each(space, logits, [&](float logit, int32_t id) {
        if (interval.begins_with(logit, id, space.bin))
            own += (double)sample_final_weight(args, logits, logit);
    });
    sum_threads(space.warp_totals, own, thread, sum); /* gathers what the threads have told */
    if (thread == 0)
        tell_sums(args, (float)sum, 0);
    return hear_news(args, unused, thread);
}

/* Adds the members that the last filter has kept to their blocks' sums. They come in no order:
 * integers, whose sum does not depend on it. */
static __device__ __forceinline__ void add_members(const cf_token_args &args,
                                                   const sample_logits &logits, uint32_t n,
                                                   int thread)
{
    sample_space &space = sample_shared(args);
    sample_member own = space.members[thread];
    if ((uint32_t)thread < n && sample_is_kept(space, own.logit(), own.id()))
        atomicAdd_block(
            &space.added[own.block],
            __float2uint_rn(sample_final_weight(args, logits, own.logit()) * logits.unit));
    sample_sync(); /* gathers what is to be added */
    float unit = choice_shared(args).all.weight * 0x1p-31f;
#pragma unroll 1
    for (int32_t b = thread; b < (int32_t)gridDim.x; b += N_VECTOR_THREADS)
        space.sums[b] += (float)space.added[b] * unit;
}

/* Cuts what the bin that was found has: from its least logit to its best. */
static __device__ __forceinline__ void find_extremes(const cf_token_args &args,
                                                     const sample_logits &logits,
                                                     sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    cf_draw_round *round = sample_round(args);
    sample_each(space, logits, [&](float logit, int32_t id) {
        if (!interval.holds(logit) || interval.bin(logit, id) != space.bin ||
            !sample_is_kept(space, logit, id))
            return;
        atomicMax(&round->most, ordered_bits(logit));
        atomicMax(&round->least, ordered_bits(-logit));
    });
    sample_meet(args, thread);
    interval = sample_cut(args, -from_ordered_bits(__ldcg(&round->least)),
                          from_ordered_bits(__ldcg(&round->most)));
}

/* What is known after a filter. */
enum sample_outcome {
    SAMPLE_LIMIT, /* its limit */
    SAMPLE_SUMS,  /* the blocks' sums of what it keeps, too */
    SAMPLE_FOUND, /* in which bins the few are that it may keep */
    SAMPLE_DRAWN, /* the token */
};

/*
 * Keeps the most probable whose amounts reach `need`, or if that is 0 top_p's share. Ends early
 * where counts say that few are kept.
 */
static __device__ __forceinline__ sample_outcome
keep_most_probable(const cf_token_args &args, const sample_logits &logits, bool by_weight,
                   uint32_t need, bool is_last, sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    uint32_t above = 0;
    interval = sample_cut(args, choice_shared(args).all.lowest, logits.best);
#pragma unroll 1
    for (;;) {
        fill_bins(args, logits, by_weight, interval, thread);
        find_bin(args, above, need, thread);
        if (!by_weight && space.reached <= CF_DRAW_MEMBERS)
            return SAMPLE_FOUND;
        uint32_t n = collect_bin(args, logits, by_weight, interval, thread);
        if (n <= CF_DRAW_MEMBERS) {
            find_member(space, n, need, thread);
            if (!is_last)
                return SAMPLE_LIMIT;
            add_members(args, logits, n, thread);
            return SAMPLE_SUMS;
        }
        find_extremes(args, logits, interval, thread);
        above = space.above;
    }
}

/*
 * What goes by rank: first by the blocks' best ones, in the hope that few are kept; then top_k and
 * top_p.
 */
static __device__ __forceinline__ sample_outcome filter_by_rank(const cf_token_args &args,
                                                                const sample_logits &logits,
                                                                int thread)
{
    sample_space &space = sample_shared(args);
    sample_outcome outcome = SAMPLE_LIMIT;
    sample_interval interval;
#pragma unroll 1
    for (int step = 0; step < 3; step++) {
        bool by_weight = step == 2, is_last = by_weight || !has_top_p(args);
        if (step == 0)
            outcome = find_bound(args, logits, interval, thread) ? SAMPLE_FOUND : SAMPLE_LIMIT;
        else if (by_weight ? has_top_p(args) : has_top_k(args))
            outcome =
                keep_most_probable(args, logits, by_weight, by_weight ? 0 : sample_top_k(args),
                                   is_last, interval, thread);
        if (outcome == SAMPLE_FOUND && draw_few(args, logits, interval, thread))
            return SAMPLE_DRAWN;
        if (step > 0)
            continue;
        outcome = SAMPLE_LIMIT;
        keep_all(space, thread);
    }
    return outcome;
}

#endif
