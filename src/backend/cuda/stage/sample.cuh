/*
 * Drawing a token, by the vector warps of all blocks, each with the logits that it made: the
 * filters of cf_sampling, in their order. What any filter keeps is a beginning of the order from
 * the most probable to the least, ties by the lower id; so all that it leaves is its last token,
 * the limit.
 *
 * The limit is found by a histogram of amounts (1 for top_k, the weight in fixed point for top_p)
 * over equal intervals between the least logit and the best: counts are integers, so that the
 * order of additions does not matter. The interval in which the sum reaches what is needed has few
 * members, which are then compared with each other; or it is cut again.
 *
 * Blocks put their parts together in rounds; from what a round made, all of them go on in the same
 * way, so that nobody has to tell the others what to do.
 */
#ifndef CF_CUDA_STAGE_SAMPLE_CUH
#define CF_CUDA_STAGE_SAMPLE_CUH

#include "backend/cuda/stage/choice.cuh"

enum {
    SAMPLE_BINS_PER_THREAD = CF_DRAW_BINS / N_VECTOR_THREADS,
    SAMPLE_HELD = 2, /* logits that a thread keeps in registers */
};

/* In shared memory, where the vectors lie between tokens: see CF_SCHEDULE_SAMPLE_BYTES. */
struct sample_space {
    union {
        uint32_t bins[CF_DRAW_BINS];
        float sums[CF_DRAW_BINS]; /* of blocks */
    };
    cf_draw_member members[CF_DRAW_MEMBERS];
    double warp_totals[CF_SCHEDULE_N_VECTOR_WARPS];
    double target; /* within the block that has the token */
    uint32_t n_members;
    uint32_t warp_sums[CF_SCHEDULE_N_VECTOR_WARPS];
    uint32_t bin, above; /* where the need is reached; what lies over it */
    float limit;         /* what top_k and top_p keep: logits above it, */
    int32_t limit_id;    /* and ids up to this one at it */
    uint32_t reached;    /* amount of what the filter has kept */
    int32_t owner;       /* the block that has the token, */
    int32_t drawn;       /* and there, it */
};
static_assert(sizeof(sample_space) <= CF_SCHEDULE_SAMPLE_BYTES, "the layout reserves too little");

static __device__ __forceinline__ sample_space &sample_shared(const cf_token_args &args)
{
    return *block_at<sample_space>(args.model.schedule.shared.sample);
}

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
    for (int32_t i = blockIdx.x + gridDim.x * thread; i < N_WORDS;
         i += gridDim.x * N_VECTOR_THREADS)
        before[i] = 0;
}

/* ---- Logits ---- */

/* The logits to draw from: of the block's, each thread has consecutive ones, the first at hand. */
struct sample_logits {
    const float *values; /* [n_vocab] */
    int32_t begin, end;  /* this thread's ids */
    float held[SAMPLE_HELD];
    float best, lowest; /* of all */
    float unit;         /* weights in fixed point: their sum is 2^31 */
};

static __device__ __forceinline__ sample_logits sample_take(const cf_token_args &args,
                                                            const choice_part &all, uint64_t index,
                                                            int thread)
{
    own_rows own = block_rows(args);
    int32_t each = (own.n + N_VECTOR_THREADS - 1) / N_VECTOR_THREADS;
    int32_t begin = own.first + min(thread * each, own.n);
    int32_t end = min(begin + each, own.first + own.n);
    sample_logits logits = {
        is_adjusted(args.choice, index) ? args.choice.adjusted : args.session.logits, begin, end};
#pragma unroll
    for (int k = 0; k < SAMPLE_HELD; k++)
        logits.held[k] = begin + k < end ? __ldcg(logits.values + begin + k) : 0;
    logits.best = all.best;
    logits.lowest = all.lowest;
    logits.unit = 0x1p31f / all.weight;
    return logits;
}

static __device__ __forceinline__ float sample_weight(const cf_token_args &args,
                                                      const sample_logits &logits, float logit)
{
    return choice_weight(args, logit - logits.best);
}

/* Calls visit(logit, id) for the thread's own, in the order of ids. */
template <class visitor>
static __device__ __forceinline__ void sample_each(const sample_logits &logits, visitor visit)
{
#pragma unroll
    for (int k = 0; k < SAMPLE_HELD; k++)
        if (logits.begin + k < logits.end)
            visit(logits.held[k], logits.begin + k);
#pragma unroll 1
    for (int32_t id = logits.begin + SAMPLE_HELD; id < logits.end; id++)
        visit(__ldcg(logits.values + id), id);
}

static __device__ __forceinline__ bool sample_is_kept(const sample_space &space, float logit,
                                                      int32_t id)
{
    return logit > space.limit || (logit == space.limit && id <= space.limit_id);
}

/* ---- The limit of a filter ---- */

/* An interval of logits, cut into bins; the first bin has the best. */
struct sample_interval {
    float least, most, scale;

    __device__ __forceinline__ bool holds(float logit) const
    {
        return logit >= least && logit <= most;
    }

    __device__ __forceinline__ uint32_t bin(float logit) const
    {
        return min((uint32_t)((most - logit) * scale), (uint32_t)CF_DRAW_BINS - 1);
    }
};

static __device__ __forceinline__ sample_interval sample_cut(float least, float most)
{
    return {least, most, (CF_DRAW_BINS - 1) / (most - least)};
}

static __device__ __forceinline__ uint32_t sample_amount(const cf_token_args &args,
                                                         const sample_logits &logits,
                                                         bool by_weight, float logit)
{
    if (!by_weight)
        return 1;
    return __float2uint_rn(sample_weight(args, logits, logit) * logits.unit);
}

static __device__ __forceinline__ void fill_bins(const cf_token_args &args,
                                                 const sample_logits &logits, bool by_weight,
                                                 const sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    cf_draw_round *round = sample_round(args);
    sample_each(logits, [&](float logit, int32_t id) {
        if (interval.holds(logit) && sample_is_kept(space, logit, id))
            atomicAdd(&round->bins[interval.bin(logit)],
                      sample_amount(args, logits, by_weight, logit));
    });
    sample_meet(args, thread);
    for (int b = thread; b < CF_DRAW_BINS / 4; b += N_VECTOR_THREADS)
        reinterpret_cast<uint4 *>(space.bins)[b] =
            __ldcg(reinterpret_cast<const uint4 *>(round->bins) + b);
    sample_sync(); /* publishes the sums */
}

/* How much a filter keeps: an amount, or a share of all that was kept before. */
struct sample_need {
    uint32_t amount; /* 0: not yet known */
    double share;
};

/* Finds the bin in which the sum from the first on, `above` before it, reaches what is needed. */
static __device__ __forceinline__ void find_bin(sample_space &space, uint32_t above,
                                                sample_need &needed, int thread)
{
    uint32_t own = 0, total;
    for (int k = 0; k < SAMPLE_BINS_PER_THREAD; k++)
        own += space.bins[thread * SAMPLE_BINS_PER_THREAD + k];
    uint32_t sum = above + sum_threads(space.warp_sums, own, thread, total);
    if (needed.amount == 0)
        needed.amount = max((uint32_t)ceil(needed.share * total), 1u);
    uint32_t need = min(needed.amount, above + total);
    if (sum < need && need <= sum + own)
        for (int k = 0; k < SAMPLE_BINS_PER_THREAD; k++) {
            uint32_t amount = space.bins[thread * SAMPLE_BINS_PER_THREAD + k];
            if (sum < need && need <= sum + amount) {
                space.bin = thread * SAMPLE_BINS_PER_THREAD + k;
                space.above = sum;
            }
            sum += amount;
        }
    sample_sync(); /* publishes the bin */
}

/* Brings the members of the bin that was found; of too many, their number only. */
static __device__ __forceinline__ void collect(const cf_token_args &args,
                                               const sample_logits &logits, bool by_weight,
                                               const sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    cf_draw_round *round = sample_round(args);
    cf_draw_member *members = args.session.draw->members;
    sample_each(logits, [&](float logit, int32_t id) {
        if (!interval.holds(logit) || interval.bin(logit) != space.bin ||
            !sample_is_kept(space, logit, id))
            return;
        uint32_t place = atomicAdd(&round->n_members, 1);
        if (place < CF_DRAW_MEMBERS)
            members[place] = {logit, id, sample_amount(args, logits, by_weight, logit), 0};
    });
    sample_meet(args, thread);
    uint32_t n = __ldcg(&round->n_members);
    for (uint32_t i = thread; i < min(n, (uint32_t)CF_DRAW_MEMBERS); i += N_VECTOR_THREADS)
        reinterpret_cast<uint4 *>(space.members)[i] =
            __ldcg(reinterpret_cast<const uint4 *>(members) + i);
    if (thread == 0)
        space.n_members = n;
    sample_sync(); /* publishes the members */
}

/* The member with which the sum reaches `need`: it is the new limit. */
static __device__ __forceinline__ void find_member(sample_space &space, uint32_t need, int thread)
{
    for (uint32_t i = thread; i < space.n_members; i += N_VECTOR_THREADS) {
        cf_draw_member own = space.members[i];
        uint32_t before = space.above;
        for (uint32_t j = 0; j < space.n_members; j++) {
            cf_draw_member other = space.members[j];
            bool is_before =
                other.logit > own.logit || (other.logit == own.logit && other.id < own.id);
            before += is_before ? other.amount : 0;
        }
        if (before < need && need <= before + own.amount) {
            space.limit = own.logit;
            space.limit_id = own.id;
            space.reached = before + own.amount;
        }
    }
    sample_sync(); /* publishes the limit */
}

/* Unsigned numbers in the order of floats, none of them 0. */
static __device__ __forceinline__ uint32_t ordered_bits(float value)
{
    uint32_t bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float from_ordered_bits(uint32_t ordered)
{
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7FFFFFFFu : ~ordered);
}

/* The least and the best logit of the bin that was found. */
static __device__ __forceinline__ void find_extremes(const cf_token_args &args,
                                                     const sample_logits &logits,
                                                     const sample_interval &interval, float &least,
                                                     float &most, int thread)
{
    sample_space &space = sample_shared(args);
    cf_draw_round *round = sample_round(args);
    sample_each(logits, [&](float logit, int32_t id) {
        if (!interval.holds(logit) || interval.bin(logit) != space.bin ||
            !sample_is_kept(space, logit, id))
            return;
        atomicMax(&round->most, ordered_bits(logit));
        atomicMax(&round->least, ordered_bits(-logit));
    });
    sample_meet(args, thread);
    most = from_ordered_bits(__ldcg(&round->most));
    least = -from_ordered_bits(__ldcg(&round->least));
}

/* ---- A place in the order of ids ---- */

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
    int32_t n_blocks = gridDim.x, each = (n_blocks + 31) / 32, begin = min(lane * each, n_blocks);
    int32_t end = min(begin + each, n_blocks), found = -1;
    double own = 0, rest = 0;
    for (int32_t b = begin; b < end; b++)
        own += (double)space.sums[b];
    double sum = sum_lanes(own, lane), before = sum - own;
    double target = u * __shfl_sync(WARP_ALL, sum, 31);
    for (int32_t b = begin; b < end && before <= target; b++) {
        if (space.sums[b] > 0)
            found = b, rest = target - before;
        before += (double)space.sums[b];
    }
    if (lane == max(last_lane(found >= 0), 0)) {
        space.owner = max(found, 0);
        space.target = rest;
    }
}

/* The id with which, in the order of ids, the sum of amounts exceeds `u` of the total. */
template <class measure>
static __device__ __forceinline__ int32_t find_in_order(const cf_token_args &args,
                                                        const sample_logits &logits, double u,
                                                        measure amount, int thread)
{
    sample_space &space = sample_shared(args);
    double own = 0, total;
    sample_each(logits, [&](float logit, int32_t id) { own += (double)amount(logit, id); });
    double before = sum_threads(space.warp_totals, own, thread, total);
    cf_draw_round *round = sample_round(args);
    if (thread == 0) {
        round->bins[blockIdx.x] = __float_as_uint((float)total);
        space.drawn = -1;
    }
    sample_meet(args, thread);
    for (int32_t b = thread; b < (int32_t)gridDim.x; b += N_VECTOR_THREADS)
        space.sums[b] = __uint_as_float(__ldcg(&round->bins[b]));
    sample_sync(); /* publishes the sums */
    if (thread < 32)
        find_owner(space, u, thread);
    sample_sync(); /* publishes the owner */
    round = sample_round(args);
    if (space.owner == (int32_t)blockIdx.x) {
        sample_each(logits, [&](float logit, int32_t id) {
            float here = amount(logit, id);
            if (here > 0 && before <= space.target)
                atomicMax_block(&space.drawn, id);
            before += (double)here;
        });
        sample_sync(); /* gathers the threads' last ids */
        if (thread == 0)
            round->drawn = (uint32_t)space.drawn + 1;
    }
    sample_meet(args, thread);
    return (int32_t)__ldcg(&round->drawn) - 1;
}

/* More members than can be compared, all with one logit: their order is that of their ids. */
static __device__ __forceinline__ void find_tie(const cf_token_args &args,
                                                const sample_logits &logits, bool by_weight,
                                                float logit, uint32_t need, int thread)
{
    sample_space &space = sample_shared(args);
    uint32_t amount = max(sample_amount(args, logits, by_weight, logit), 1u);
    uint32_t n_wanted = (need - space.above + amount - 1) / amount, n = space.n_members;
    n_wanted = max(min(n_wanted, n), 1u);
    auto is_tie = [&](float other, int32_t id) {
        return other == logit && sample_is_kept(space, other, id) ? 1.0f : 0.0f;
    };
    int32_t id = find_in_order(args, logits, ((double)n_wanted - 0.5) / n, is_tie, thread);
    if (thread == 0) {
        space.reached = space.above + n_wanted * amount;
        space.limit = logit;
        space.limit_id = id;
    }
    sample_sync(); /* publishes the limit */
}

/* Keeps the most probable whose amounts reach `need`. */
static __device__ __forceinline__ void keep_most_probable(const cf_token_args &args,
                                                          const sample_logits &logits,
                                                          bool by_weight, sample_need need,
                                                          int thread)
{
    sample_space &space = sample_shared(args);
    float least = logits.lowest, most = logits.best;
    uint32_t above = 0;
    for (;;) {
        sample_interval interval = sample_cut(least, most);
        if (least == most)
            interval.scale = 0;
        fill_bins(args, logits, by_weight, interval, thread);
        find_bin(space, above, need, thread);
        collect(args, logits, by_weight, interval, thread);
        if (space.n_members <= CF_DRAW_MEMBERS) {
            find_member(space, need.amount, thread);
            return;
        }
        find_extremes(args, logits, interval, least, most, thread);
        above = space.above;
        if (least == most) {
            find_tie(args, logits, by_weight, least, need.amount, thread);
            return;
        }
    }
}

/* Philox4x32-10 as in base/random.c: 53 random bits, in [0, 1). */
static __device__ __forceinline__ double sample_uniform(uint64_t seed, uint64_t index)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = 0, c3 = 0;
#pragma unroll 1
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (double)(((uint64_t)c1 << 32 | c0) >> 11) * 0x1p-53;
}

/* The token at `index` of the generation. All vector threads of all blocks take part. */
static __device__ __forceinline__ int32_t sample_token(const cf_token_args &args,
                                                       const choice_part &all, uint64_t index,
                                                       int thread)
{
    const cf_token_choice &choice = args.choice;
    sample_space &space = sample_shared(args);
    sample_logits logits = sample_take(args, all, index, thread);
    if (thread == 0) {
        space.limit = -FLT_MAX;
        space.limit_id = INT32_MAX;
    }
    sample_sync(); /* nothing is filtered yet */
    if (choice.top_k < args.model.schedule.shape.n_vocab)
        keep_most_probable(args, logits, false, {(uint32_t)max(choice.top_k, 1), 0}, thread);
    if (choice.top_p < 1)
        keep_most_probable(args, logits, true, {0, (double)choice.top_p}, thread);
    auto weight = [&](float logit, int32_t id) {
        if (!sample_is_kept(space, logit, id))
            return 0.0f;
        float found = sample_weight(args, logits, logit);
        return found >= choice.min_p ? found : 0.0f;
    };
    return find_in_order(args, logits, sample_uniform(choice.seed, index), weight, thread);
}

#endif
