/*
 * What drawing a token is made of: the logits of a block, and rounds, in which blocks add up what
 * they find in them. In a round all add and all wait; from what a round made, all of them go on in
 * the same way, so that nobody has to tell the others what to do. What is not added up, blocks tell
 * each other without a round (draw_news.cuh).
 */
#ifndef CF_CUDA_STAGE_DRAW_ROUND_CUH
#define CF_CUDA_STAGE_DRAW_ROUND_CUH

#include "backend/cuda/stage/choice.cuh"

static __device__ __forceinline__ void sample_sync()
{
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS);
}

/* ---- Sums ---- */

/* The sum over the lanes before this one and itself. */
template <class number> static __device__ __forceinline__ number sum_lanes(number value, int lane)
{
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        number before = __shfl_up_sync(WARP_ALL, value, offset);
        value += lane >= offset ? before : 0;
    }
    return value;
}

/* The sum over the threads before this one, and over all; `warps` is for the warps' own. */
template <class number>
static __device__ __forceinline__ number sum_threads(number *warps, number own, int thread,
                                                     number &total)
{
    number sum = sum_lanes(own, thread % 32);
    if (thread % 32 == 31)
        warps[thread / 32] = sum;
    sample_sync(); /* publishes the warps' sums */
    number before = sum - own;
    total = 0;
    for (int w = 0; w < CF_SCHEDULE_N_VECTOR_WARPS; w++) {
        before += w < thread / 32 ? warps[w] : 0;
        total += warps[w];
    }
    return before;
}

/* ---- Logits ---- */

/* The logits to draw from: of the block's, each thread has consecutive ones. */
struct sample_logits {
    const float *values; /* [n_vocab] */
    int32_t first;       /* the block's first id, */
    int32_t begin, end;  /* this thread's ids, */
    int32_t most;        /* and the most that a thread has */
    float best, unit;    /* of all; weights in fixed point: their sum is 2^31 */
};

static __device__ __forceinline__ sample_logits sample_take(const cf_token_args &args,
                                                            const choice_part &all, uint64_t index,
                                                            int thread)
{
    own_rows own = block_rows(args);
    int32_t each = (own.n + N_VECTOR_THREADS - 1) / N_VECTOR_THREADS;
    int32_t begin = own.first + min(thread * each, own.n);
    int32_t end = min(begin + each, own.first + own.n);
    const float *values =
        is_adjusted(args.choice, index) ? args.choice.adjusted : args.session.logits;
    return {values, own.first, begin, end, each, all.best, 0x1p31f / all.weight};
}

static __device__ __forceinline__ float sample_weight(const cf_token_args &args,
                                                      const sample_logits &logits, float logit)
{
    return choice_weight(args, logit - logits.best);
}

/* The same, after min_p. */
static __device__ __forceinline__ float sample_final_weight(const cf_token_args &args,
                                                            const sample_logits &logits,
                                                            float logit)
{
    float weight = sample_weight(args, logits, logit);
    return weight >= args.choice.min_p ? weight : 0;
}

/* What a logit adds to the sum by which a filter goes. */
static __device__ __forceinline__ uint32_t sample_amount(const cf_token_args &args,
                                                         const sample_logits &logits,
                                                         bool by_weight, float logit)
{
    if (!by_weight)
        return 1;
    return __float2uint_rn(sample_weight(args, logits, logit) * logits.unit);
}

/* Calls visit(logit, id) for the thread's own, in the order of ids. One copy of it, not more: code
 * that runs once a token comes from far. */
template <class visitor>
static __device__ __forceinline__ void sample_each(const sample_space &space,
                                                   const sample_logits &logits, visitor visit)
{
#pragma unroll 1
    for (int32_t i = 0; i < logits.most; i++) { /* all lanes, so that they stay together */
        int32_t id = logits.begin + i, place = id - logits.first;
        if (id < logits.end)
            visit(place < SAMPLE_HELD ? space.logits[place] : __ldcg(logits.values + id), id);
    }
}

static __device__ __forceinline__ bool sample_is_kept(const sample_space &space, float logit,
                                                      int32_t id)
{
    return logit > space.limit || (logit == space.limit && id <= space.limit_id);
}

/* Before any filter: all but banned ones, which are less. */
static __device__ __forceinline__ void keep_all(sample_space &space, int thread)
{
    if (thread == 0) {
        space.limit = -FLT_MAX;
        space.limit_id = INT32_MAX;
    }
    sample_sync(); /* publishes the limit */
}

/*
 * An interval of logits, cut into bins; the first bin has the best. Of one logit alone, ids are cut
 * instead: ties go in their order.
 */
struct sample_interval {
    float least, most, scale;

    /* Not of a banned token: its logit is less than any. */
    __device__ __forceinline__ bool holds(float logit) const
    {
        return logit >= least && logit <= most;
    }

    __device__ __forceinline__ uint32_t bin(float logit, int32_t id) const
    {
        float place = least == most ? (float)id : most - logit;
        return min((uint32_t)(place * scale), (uint32_t)CF_DRAW_BINS - 1);
    }

    /* Whether the logit is in the first n bins, or over all. */
    __device__ __forceinline__ bool begins_with(float logit, int32_t id, uint32_t n) const
    {
        return logit > most || (holds(logit) && bin(logit, id) < n);
    }
};

static __device__ __forceinline__ sample_interval sample_cut(const cf_token_args &args, float least,
                                                             float most)
{
    float width = least == most ? (float)args.model.schedule.shape.n_vocab : most - least;
    return {least, most, (CF_DRAW_BINS - 1) / width};
}

/* ---- Rounds ---- */

/* The round that blocks are putting their parts into. */
static __device__ __forceinline__ cf_draw_round *sample_round(const cf_token_args &args)
{
    return &args.session.draw->rounds[choice_shared(args).round % CF_DRAW_ROUNDS];
}

/*
 * Ends the round: returns when the parts of all blocks are in it. The one before it is cleared,
 * each block a piece: all have read it, and nobody writes to it before the round after the next.
 */
static __device__ __forceinline__ void sample_meet(const cf_token_args &args, int thread)
{
    enum { N_WORDS = sizeof(cf_draw_round) / 4 };
    cf_draw_table *table = args.session.draw;
    uint32_t round = choice_shared(args).round;
    sample_sync(); /* gathers what the block's threads have put in */
    if (thread == 0) {
        gpu_count_release(&table->n_arrived);
        gpu_acquire_count(&table->n_arrived, (round + 1) * gridDim.x);
        choice_shared(args).round = round + 1;
    }
    sample_sync(); /* publishes what thread 0 has acquired */
    uint32_t *before =
        reinterpret_cast<uint32_t *>(&table->rounds[(round + CF_DRAW_ROUNDS - 1) % CF_DRAW_ROUNDS]);
#pragma unroll 1
    for (int32_t i = blockIdx.x + gridDim.x * thread; i < N_WORDS;
         i += gridDim.x * N_VECTOR_THREADS)
        before[i] = 0;
}

#endif
