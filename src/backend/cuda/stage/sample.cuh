/*
 * Drawing a token, by the vector warps of one block: the filters of cf_sampling, in their order,
 * over logits that all blocks made. What any filter keeps is a beginning of the order from the most
 * probable to the least, ties by the lower id; so all that it leaves is its last token, the limit.
 *
 * The limit is found by a histogram of amounts (1 for top_k, the weight in fixed point for top_p)
 * over equal intervals between the least logit and the best: counts are integers, so that the
 * order of additions does not matter. The interval in which the sum reaches what is needed has few
 * members, which are then compared with each other; or it is cut again.
 */
#ifndef CF_CUDA_STAGE_SAMPLE_CUH
#define CF_CUDA_STAGE_SAMPLE_CUH

#include "backend/cuda/stage/choice.cuh"

enum {
    SAMPLE_BINS = 2048,
    SAMPLE_BINS_PER_THREAD = SAMPLE_BINS / N_VECTOR_THREADS,
    SAMPLE_MEMBERS = 448,
    SAMPLE_CHUNK = 512, /* logits whose sum one warp makes: 16 a lane */
    SAMPLE_LOADS = SAMPLE_CHUNK / (4 * 32),
};

struct sample_member {
    float logit;
    int32_t id;
    uint32_t amount;
    uint32_t unused;
};

/* In shared memory, where the vectors lie between tokens: see CF_SCHEDULE_SAMPLE_BYTES. */
struct sample_space {
    union {
        uint32_t bins[SAMPLE_BINS];
        float sums[CF_SAMPLE_MAX_CHUNKS]; /* of chunks */
    };
    sample_member members[SAMPLE_MEMBERS];
    uint32_t n_members;
    uint32_t warp_sums[CF_SCHEDULE_N_VECTOR_WARPS];
    uint32_t bin, above; /* where the need is reached; what lies over it */
    float limit;         /* what top_k and top_p keep: logits above it, */
    int32_t limit_id;    /* and ids up to this one at it */
    uint32_t reached;    /* amount of what the filter has kept */
    float least[CF_SCHEDULE_N_VECTOR_WARPS], most[CF_SCHEDULE_N_VECTOR_WARPS];
    int32_t drawn;
};
static_assert(sizeof(sample_space) <= CF_SCHEDULE_SAMPLE_BYTES, "the layout reserves too little");
static_assert((int)CF_SAMPLE_MAX_CHUNKS <= (int)SAMPLE_BINS, "chunks lie where bins were");
static_assert((int64_t)CF_SAMPLE_MAX_CHUNKS * SAMPLE_CHUNK >= CF_SAMPLE_MAX_VOCAB, "room for all");

static __device__ __forceinline__ sample_space &sample_shared(const cf_token_args &args)
{
    return *block_at<sample_space>(args.model.schedule.shared.sample);
}

static __device__ __forceinline__ void sample_sync()
{
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS);
}

/* The logits to draw from, and what is known of them. */
struct sample_logits {
    const float *values; /* [n] */
    int32_t n;
    float best, lowest;
    float unit; /* weights in fixed point: their sum is 2^31 */
};

static __device__ __forceinline__ float sample_weight(const cf_token_args &args,
                                                      const sample_logits &logits, float logit)
{
    return choice_weight(args, logit - logits.best);
}

static __device__ __forceinline__ float4 sample_load(const sample_logits &logits, int32_t i)
{
    const float *values = logits.values + i;
    if (i + 3 < logits.n)
        return __ldcg(reinterpret_cast<const float4 *>(values));
    float4 v = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (i < logits.n)
        v.x = __ldcg(values);
    if (i + 1 < logits.n)
        v.y = __ldcg(values + 1);
    if (i + 2 < logits.n)
        v.z = __ldcg(values + 2);
    return v;
}

/* Calls visit(logit, id) for all, several loads under way; beyond the end logits are -INFINITY. */
template <class visitor>
static __device__ __forceinline__ void sample_each(const sample_logits &logits, int thread,
                                                   visitor visit)
{
#pragma unroll 1
    for (int32_t first = 4 * thread; first < logits.n;
         first += 4 * SAMPLE_LOADS * N_VECTOR_THREADS) {
        float4 v[SAMPLE_LOADS];
#pragma unroll
        for (int k = 0; k < SAMPLE_LOADS; k++)
            v[k] = sample_load(logits, first + 4 * k * N_VECTOR_THREADS);
#pragma unroll
        for (int k = 0; k < SAMPLE_LOADS; k++) {
            int32_t i = first + 4 * k * N_VECTOR_THREADS;
            visit(v[k].x, i);
            visit(v[k].y, i + 1);
            visit(v[k].z, i + 2);
            visit(v[k].w, i + 3);
        }
    }
}

static __device__ __forceinline__ bool sample_is_kept(const sample_space &space, float logit,
                                                      int32_t id)
{
    return logit > space.limit || (logit == space.limit && id <= space.limit_id);
}

/* An interval of logits, cut into bins; the first bin has the best. */
struct sample_interval {
    float least, most, scale;

    __device__ __forceinline__ bool holds(float logit) const
    {
        return logit >= least && logit <= most;
    }

    __device__ __forceinline__ uint32_t bin(float logit) const
    {
        return min((uint32_t)((most - logit) * scale), (uint32_t)SAMPLE_BINS - 1);
    }
};

static __device__ __forceinline__ sample_interval sample_cut(float least, float most)
{
    return {least, most, (SAMPLE_BINS - 1) / (most - least)};
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
    for (int b = thread; b < SAMPLE_BINS; b += N_VECTOR_THREADS)
        space.bins[b] = 0;
    sample_sync(); /* all bins are empty */
    sample_each(logits, thread, [&](float logit, int32_t id) {
        if (interval.holds(logit) && sample_is_kept(space, logit, id))
            atomicAdd_block(&space.bins[interval.bin(logit)],
                            sample_amount(args, logits, by_weight, logit));
    });
    sample_sync(); /* publishes the sums */
}

/* The sums of the bins before this thread's own, and of all. */
static __device__ __forceinline__ uint32_t sum_before(sample_space &space, uint32_t own, int thread,
                                                      uint32_t &total)
{
    uint32_t sum = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        uint32_t before = __shfl_up_sync(WARP_ALL, sum, offset);
        sum += thread % 32 >= offset ? before : 0;
    }
    if (thread % 32 == 31)
        space.warp_sums[thread / 32] = sum;
    sample_sync(); /* publishes the warps' sums */
    uint32_t before = sum - own;
    total = 0;
    for (int w = 0; w < CF_SCHEDULE_N_VECTOR_WARPS; w++) {
        before += w < thread / 32 ? space.warp_sums[w] : 0;
        total += space.warp_sums[w];
    }
    return before;
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
    uint32_t sum = above + sum_before(space, own, thread, total);
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
    if (thread == 0)
        space.n_members = 0;
    sample_sync(); /* publishes the bin */
}

/* Brings the members of the bin that was found; of too many, their number only. */
static __device__ __forceinline__ void collect(const cf_token_args &args,
                                               const sample_logits &logits, bool by_weight,
                                               const sample_interval &interval, int thread)
{
    sample_space &space = sample_shared(args);
    sample_each(logits, thread, [&](float logit, int32_t id) {
        if (!interval.holds(logit) || interval.bin(logit) != space.bin ||
            !sample_is_kept(space, logit, id))
            return;
        uint32_t place = atomicAdd_block(&space.n_members, 1);
        if (place < SAMPLE_MEMBERS)
            space.members[place] = {logit, id, sample_amount(args, logits, by_weight, logit), 0};
    });
    sample_sync(); /* publishes the members */
}

/* The member with which the sum reaches `need`: it is the new limit. */
static __device__ __forceinline__ void find_member(sample_space &space, uint32_t need, int thread)
{
    for (uint32_t i = thread; i < space.n_members; i += N_VECTOR_THREADS) {
        sample_member own = space.members[i];
        uint32_t before = space.above;
        for (uint32_t j = 0; j < space.n_members; j++) {
            sample_member other = space.members[j];
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

/* The least and the best logit of the bin that was found. */
static __device__ __forceinline__ void find_extremes(const cf_token_args &args,
                                                     const sample_logits &logits,
                                                     const sample_interval &interval, float &least,
                                                     float &most, int thread)
{
    sample_space &space = sample_shared(args);
    float low = FLT_MAX, high = -FLT_MAX;
    sample_each(logits, thread, [&](float logit, int32_t id) {
        bool is_in = interval.holds(logit) && interval.bin(logit) == space.bin &&
                     sample_is_kept(space, logit, id);
        low = is_in ? fminf(low, logit) : low;
        high = is_in ? fmaxf(high, logit) : high;
    });
    for (int offset = 16; offset > 0; offset /= 2) {
        low = fminf(low, __shfl_xor_sync(WARP_ALL, low, offset));
        high = fmaxf(high, __shfl_xor_sync(WARP_ALL, high, offset));
    }
    if (thread % 32 == 0)
        space.least[thread / 32] = low, space.most[thread / 32] = high;
    sample_sync(); /* publishes the warps' extremes */
    least = FLT_MAX, most = -FLT_MAX;
    for (int w = 0; w < CF_SCHEDULE_N_VECTOR_WARPS; w++) {
        least = fminf(least, space.least[w]);
        most = fmaxf(most, space.most[w]);
    }
}

/* Sums of amount(logit, id) over chunks of ids, a warp each. */
template <class measure>
static __device__ __forceinline__ void sum_chunks(const sample_logits &logits, sample_space &space,
                                                  measure amount, int thread)
{
    int lane = thread % 32;
#pragma unroll 1
    for (int32_t chunk = thread / 32; chunk * SAMPLE_CHUNK < logits.n;
         chunk += CF_SCHEDULE_N_VECTOR_WARPS) {
        int32_t first = chunk * SAMPLE_CHUNK + 4 * lane;
        float4 v[SAMPLE_LOADS];
        float sum = 0;
#pragma unroll
        for (int k = 0; k < SAMPLE_LOADS; k++)
            v[k] = sample_load(logits, first + 128 * k);
#pragma unroll
        for (int k = 0; k < SAMPLE_LOADS; k++) {
            int32_t i = first + 128 * k;
            sum += (amount(v[k].x, i) + amount(v[k].y, i + 1)) +
                   (amount(v[k].z, i + 2) + amount(v[k].w, i + 3));
        }
        sum = warp_sum(sum);
        if (lane == 0)
            space.sums[chunk] = sum;
    }
    sample_sync(); /* publishes the sums */
}

/* The sum over the lanes before this one and itself. */
static __device__ __forceinline__ double sum_lanes(double value, int lane)
{
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        double before = __shfl_up_sync(WARP_ALL, value, offset);
        value += lane >= offset ? before : 0;
    }
    return value;
}

/* The last lane for which `condition` holds, -1 for none. */
static __device__ __forceinline__ int last_lane(bool condition)
{
    return 31 - __clz((int)__ballot_sync(WARP_ALL, condition));
}

/*
 * By one warp: the chunk in which the sum over all before it exceeds `u` of the total; `target`
 * becomes what is left of that within it. Lanes take consecutive chunks.
 */
static __device__ __forceinline__ int32_t find_chunk(const sample_space &space, int32_t n_chunks,
                                                     double u, double &target, int lane)
{
    int32_t each = (n_chunks + 31) / 32, begin = min(lane * each, n_chunks);
    int32_t end = min(begin + each, n_chunks), found = -1;
    double own = 0;
    for (int32_t c = begin; c < end; c++)
        own += (double)space.sums[c];
    double sum = sum_lanes(own, lane), before = sum - own;
    target = u * __shfl_sync(WARP_ALL, sum, 31);
    double rest = 0;
    for (int32_t c = begin; c < end && before <= target; c++) {
        if (space.sums[c] > 0)
            found = c, rest = target - before;
        before += (double)space.sums[c];
    }
    int lane_found = max(last_lane(found >= 0), 0);
    target = __shfl_sync(WARP_ALL, rest, lane_found);
    return max(__shfl_sync(WARP_ALL, found, lane_found), 0);
}

/* By one warp: the first id of the chunk with which the sum exceeds `target`, else the last. */
template <class measure>
static __device__ __forceinline__ int32_t find_id(const sample_logits &logits, int32_t chunk,
                                                  double target, measure amount, int lane)
{
    int32_t begin = chunk * SAMPLE_CHUNK + 4 * SAMPLE_LOADS * lane, found = -1;
    float amounts[4 * SAMPLE_LOADS];
    double own = 0;
#pragma unroll
    for (int k = 0; k < SAMPLE_LOADS; k++) {
        float4 v = sample_load(logits, begin + 4 * k);
        amounts[4 * k] = amount(v.x, begin + 4 * k);
        amounts[4 * k + 1] = amount(v.y, begin + 4 * k + 1);
        amounts[4 * k + 2] = amount(v.z, begin + 4 * k + 2);
        amounts[4 * k + 3] = amount(v.w, begin + 4 * k + 3);
    }
#pragma unroll
    for (int k = 0; k < 4 * SAMPLE_LOADS; k++)
        own += (double)amounts[k];
    double before = sum_lanes(own, lane) - own;
#pragma unroll
    for (int k = 0; k < 4 * SAMPLE_LOADS; k++) {
        if (amounts[k] > 0 && before <= target)
            found = begin + k;
        before += (double)amounts[k];
    }
    int lane_found = max(last_lane(found >= 0), 0);
    return __shfl_sync(WARP_ALL, found, lane_found);
}

/* The id with which, in the order of ids, the sum of amounts exceeds `u` of the total. */
template <class measure>
static __device__ __forceinline__ int32_t find_in_order(const sample_logits &logits,
                                                        sample_space &space, double u,
                                                        measure amount, int thread)
{
    sum_chunks(logits, space, amount, thread);
    if (thread < 32) {
        double target;
        int32_t n_chunks = (logits.n + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK;
        int32_t chunk = find_chunk(space, n_chunks, u, target, thread);
        int32_t id = find_id(logits, chunk, target, amount, thread);
        if (thread == 0)
            space.drawn = id;
    }
    sample_sync(); /* publishes the id */
    return space.drawn;
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
    int32_t id = find_in_order(logits, space, ((double)n_wanted - 0.5) / n, is_tie, thread);
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
        if (space.n_members <= SAMPLE_MEMBERS) {
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

/* The token at `index` of the generation. All vector threads of the block take part. */
static __device__ __forceinline__ int32_t sample_token(const cf_token_args &args,
                                                       const choice_part &all, uint64_t index,
                                                       int thread)
{
    const cf_token_choice &choice = args.choice;
    sample_space &space = sample_shared(args);
    sample_logits logits = {choice.seen != NULL ? choice.adjusted : args.session.logits,
                            args.model.schedule.shape.n_vocab, all.best, all.lowest,
                            0x1p31f / all.weight};
    if (thread == 0) {
        space.limit = -FLT_MAX;
        space.limit_id = INT32_MAX;
    }
    sample_sync(); /* nothing is filtered yet */
    if (choice.top_k < logits.n)
        keep_most_probable(args, logits, false, {(uint32_t)max(choice.top_k, 1), 0}, thread);
    if (choice.top_p < 1)
        keep_most_probable(args, logits, true, {0, (double)choice.top_p}, thread);
    auto weight = [&](float logit, int32_t id) {
        if (!sample_is_kept(space, logit, id))
            return 0.0f;
        float found = sample_weight(args, logits, logit);
        return found >= choice.min_p ? found : 0.0f;
    };
    return find_in_order(logits, space, sample_uniform(choice.seed, index), weight, thread);
}

#endif
