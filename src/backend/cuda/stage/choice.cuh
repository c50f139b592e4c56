/*
 * What the token is chosen by: each block looks at the logits that it made itself, and tells the
 * others what it found. The vector warps do this after the LM head's tiles.
 */
#ifndef CF_CUDA_STAGE_CHOICE_CUH
#define CF_CUDA_STAGE_CHOICE_CUH

#include "backend/cuda/stage/draw_space.cuh"

#include <float.h>

/* What is known of a set of logits. "Adjusted": after penalties, those of banned tokens -infinity.
 */
struct choice_part {
    float raw_max, raw_sum; /* Σ exp(raw - raw_max) */
    float best;             /* the largest adjusted one, */
    int32_t id;             /* its lowest id, */
    float weight;           /* Σ exp((adjusted - best) / temperature) */
    float lowest;           /* and the least one */
};

/* Of a part, what its sums are relative to. */
struct choice_top {
    float raw_max, best, lowest;
    int32_t id;
};

enum { CHOICE_WORDS = sizeof(choice_part) / 4 };
static_assert(CHOICE_WORDS + 1 <= CF_CHOICE_PACKETS, "a packet a word, and the host's wish");

/* In shared memory: what a block's vector warps tell each other, and all roles. */
struct choice_state {
    uint64_t judged;  /* barrier: the consumers have delivered the token's logits */
    uint64_t decided; /* barrier: the next token is known */
    cf_token token;   /* it */
    bool is_stopped;  /* no token follows: for those who have waited for `decided` */
    uint32_t round;   /* of the launch's rounds of drawing, the next one */
    uint32_t news;    /* epoch of what blocks tell each other next */
    choice_top tops[CF_SCHEDULE_N_VECTOR_WARPS];
    float2 sums[CF_SCHEDULE_N_VECTOR_WARPS];
    choice_part all;
    double uniform; /* the token's random number */
};
static_assert(sizeof(choice_state) <= CF_SCHEDULE_CHOICE_BYTES, "the layout reserves too little");

static __device__ __forceinline__ choice_state &choice_shared(const cf_token_args &args)
{
    return *block_at<choice_state>(args.model.schedule.shared.choice);
}

static __device__ __forceinline__ choice_part choice_nothing()
{
    return {-FLT_MAX, 0, -FLT_MAX, INT32_MAX, 0, FLT_MAX};
}

/* The weight of a logit whose distance to the best is `below` ≤ 0. */
static __device__ __forceinline__ float choice_weight(const cf_token_args &args, float below)
{
    return expf(below * args.choice.inverse_temperature);
}

static __device__ __forceinline__ choice_part choice_merged(const cf_token_args &args,
                                                            const choice_part &a,
                                                            const choice_part &b)
{
    bool takes_b = b.best > a.best || (b.best == a.best && b.id < a.id);
    float raw_max = fmaxf(a.raw_max, b.raw_max), best = takes_b ? b.best : a.best;
    return {raw_max,
            a.raw_sum * expf(a.raw_max - raw_max) + b.raw_sum * expf(b.raw_max - raw_max),
            best,
            takes_b ? b.id : a.id,
            a.weight * choice_weight(args, a.best - best) +
                b.weight * choice_weight(args, b.best - best),
            fminf(a.lowest, b.lowest)};
}

/* The extremes over all lanes, in each of them. Adding 0 makes -0 what it equals. */
static __device__ __forceinline__ choice_top top_of_warp(const choice_top &own)
{
    uint32_t mine = ordered_bits(own.best + 0.0f), best = __reduce_max_sync(WARP_ALL, mine);
    return {from_ordered_bits(__reduce_max_sync(WARP_ALL, ordered_bits(own.raw_max))),
            from_ordered_bits(best),
            from_ordered_bits(__reduce_min_sync(WARP_ALL, ordered_bits(own.lowest))),
            __reduce_min_sync(WARP_ALL, mine == best ? own.id : INT32_MAX)};
}

/* All vector threads' parts as one, for each of them: first what the sums are relative to, then the
 * sums, added in a fixed order. Publishes what was written before. */
static __device__ __forceinline__ choice_part choice_of_block(const cf_token_args &args,
                                                              const choice_part &own, int thread)
{
    choice_state &state = choice_shared(args);
    int lane = thread % 32, warp = thread / 32;
    choice_top top = top_of_warp({own.raw_max, own.best, own.lowest, own.id});
    if (lane == 0)
        state.tops[warp] = top;
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS); /* publishes the warps' extremes */
    top = top_of_warp(state.tops[lane % CF_SCHEDULE_N_VECTOR_WARPS]);
    float raw_sum = warp_sum(own.raw_sum * expf(own.raw_max - top.raw_max));
    float weight = warp_sum(own.weight * choice_weight(args, own.best - top.best));
    if (lane == 0)
        state.sums[warp] = make_float2(raw_sum, weight);
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS); /* publishes the warps' sums */
    raw_sum = weight = 0;
#pragma unroll
    for (int w = 0; w < CF_SCHEDULE_N_VECTOR_WARPS; w++) {
        raw_sum += state.sums[w].x;
        weight += state.sums[w].y;
    }
    return {top.raw_max, raw_sum, top.best, top.id, weight, top.lowest};
}

/* The block's own logits: its rows of the LM head are consecutive. */
struct own_rows {
    int32_t first, n;

    __device__ __forceinline__ bool holds(cf_token token) const
    {
        return token >= first && token < first + n;
    }
};

static __device__ __forceinline__ own_rows block_rows(const cf_token_args &args)
{
    const cf_share &share = block_shared().share;
    const cf_tile *tiles =
        block_at<const cf_tile>(args.model.schedule.shared.tiles) + share.n_layer_tiles;
    if (share.n_head_tiles == 0)
        return {0, 0};
    const cf_tile &last = tiles[share.n_head_tiles - 1];
    return {tiles[0].row, last.row + last.n_rows - tiles[0].row};
}

/* Rounded after each step, as the CPU does. */
static __device__ __forceinline__ float penalised(const cf_token_choice &choice, float logit,
                                                  uint32_t seen)
{
    uint32_t count = seen & ~CF_SEEN;
    if (seen == 0)
        return logit;
    logit = logit > 0 ? __fdiv_rn(logit, choice.repetition_penalty)
                      : __fmul_rn(logit, choice.repetition_penalty);
    logit = __fsub_rn(logit, __fmul_rn(choice.frequency_penalty, (float)count));
    return __fsub_rn(logit, count > 0 ? choice.presence_penalty : 0);
}

static __device__ __forceinline__ bool is_end(const cf_token_choice &choice, cf_token token)
{
    bool found = false;
    for (int32_t i = 0; i < choice.n_ends; i++)
        found = found || choice.ends[i] == token;
    return found;
}

/* Whether the token at `index` of the generation must be none that ends it. */
static __device__ __forceinline__ bool bans_ends(const cf_token_choice &choice, uint64_t index)
{
    return choice.n_ends > 0 && index < choice.min_tokens;
}

/* Whether what is drawn from differs from the raw logits. */
static __device__ __forceinline__ bool is_adjusted(const cf_token_choice &choice, uint64_t index)
{
    return choice.seen != NULL || bans_ends(choice, index);
}

/* Of one logit: `adjusted` is -infinity if the token is banned. */
static __device__ __forceinline__ choice_part part_of(float raw, float adjusted, int32_t row)
{
    if (adjusted == -INFINITY)
        return {raw, 1, -FLT_MAX, INT32_MAX, 0, FLT_MAX};
    return {raw, 1, adjusted, row, 1, adjusted};
}

/* This thread's part of the block's own logits; leaves the adjusted ones for whoever draws. */
static __device__ __forceinline__ choice_part judge_own(const cf_token_args &args, uint64_t index,
                                                        int thread)
{
    const cf_token_choice &choice = args.choice;
    sample_space &space = sample_shared(args);
    own_rows own = block_rows(args);
    choice_part part = choice_nothing();
    int32_t last = own.first + own.n - 1;
    float next = own.n > 0 ? __ldcg(args.session.logits + min(own.first + thread, last)) : 0;
#pragma unroll 1
    for (int32_t first = own.first; first <= last; first += N_VECTOR_THREADS) {
        bool is_own = first + thread <= last; /* lanes beyond go along with the last row */
        int32_t row = min(first + thread, last);
        float raw = next, adjusted = raw;
        /* On its way while this one is judged. */
        next = __ldcg(args.session.logits + min(row + N_VECTOR_THREADS, last));
        if (choice.seen != NULL)
            adjusted = penalised(choice, raw, __ldcg(choice.seen + row));
        if (bans_ends(choice, index) && is_end(choice, row))
            adjusted = -INFINITY;
        if (is_adjusted(choice, index))
            choice.adjusted[row] = adjusted;
        if (row - own.first < SAMPLE_HELD)
            space.logits[row - own.first] = adjusted;
        part = choice_merged(args, part, is_own ? part_of(raw, adjusted, row) : choice_nothing());
    }
    return part;
}

static __device__ __forceinline__ uint32_t choice_epoch(const cf_token_args &args,
                                                        const token_turn &turn)
{
    return args.choice.n_before + (uint32_t)turn.index + 1;
}

/* Word k of what a block tells, so that neighbouring blocks' lie side by side. */
static __device__ __forceinline__ uint64_t *choice_packet(const cf_token_args &args, int k,
                                                          int32_t block)
{
    return args.session.choices + k * (int32_t)gridDim.x + block;
}

/* The words of a part, and the host's wish to stop, which block 0 speaks for. */
static __device__ __forceinline__ void publish_part(const cf_token_args &args,
                                                    const choice_part &part, bool wish,
                                                    uint32_t epoch)
{
    const float words[] = {part.raw_max, part.raw_sum, part.best,         __int_as_float(part.id),
                           part.weight,  part.lowest,  wish ? 1.0f : 0.0f};
#pragma unroll
    for (int k = 0; k <= CHOICE_WORDS; k++)
        partial_store(choice_packet(args, k, (int32_t)blockIdx.x), words[k], epoch);
}

/* Returns when the lanes' blocks have told their parts. */
static __device__ __forceinline__ choice_part read_part(const cf_token_args &args, int32_t block,
                                                        uint32_t epoch, bool &wish)
{
    uint64_t begin = watchdog_begin();
    float words[CHOICE_WORDS + 1];
    for (bool is_late = true; __any_sync(WARP_ALL, is_late);) {
        uint64_t v[CHOICE_WORDS + 1];
        is_late = false;
#pragma unroll
        for (int k = 0; k <= CHOICE_WORDS; k++)
            v[k] = gpu_load(choice_packet(args, k, block));
#pragma unroll
        for (int k = 0; k <= CHOICE_WORDS; k++) {
            is_late = is_late || !partial_is_of(v[k], epoch);
            words[k] = partial_value(v[k]);
        }
        if (is_late)
            __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
    }
    wish = words[CHOICE_WORDS] != 0;
    return {words[0], words[1], words[2], __float_as_int(words[3]), words[4], words[5]};
}

/*
 * What all blocks found together, the same bits in each; what each did is in shared memory. Says
 * thread 0 whether the host wishes to stop, which block 0's part tells.
 */
static __device__ __forceinline__ choice_part gather_parts(const cf_token_args &args,
                                                           uint32_t epoch, bool &wish, int thread)
{
    sample_space &space = sample_shared(args);
    choice_part part = choice_nothing();
    wish = false;
#pragma unroll 1
    for (int32_t first = 0; first < (int32_t)gridDim.x; first += N_VECTOR_THREADS) {
        bool is_own = first + thread < (int32_t)gridDim.x, says_wish;
        int32_t b = min(first + thread, (int32_t)gridDim.x - 1); /* lanes beyond go along */
        choice_part found = read_part(args, b, epoch, says_wish);
        space.weights[b] = found.weight;
        space.bests[b] = found.best;
        part = choice_merged(args, part, is_own ? found : choice_nothing());
        wish = wish || (is_own && says_wish);
    }
    part = choice_of_block(args, part, thread);
    if (thread == 0)
        choice_shared(args).all = part;
    return part;
}

/* For all roles but the producer: waits for the next token; false if there is none. */
static __device__ __forceinline__ bool await_turn(const cf_token_args &args, token_turn &turn)
{
    choice_state &state = choice_shared(args);
    if (turn.index + 1 == args.step.n_tokens)
        return false;
    if (args.choice.is_wanted) {
        barrier_wait(&state.decided, turn.index & 1);
        if (state.is_stopped)
            return false;
    }
    return next_turn(args, turn);
}

#endif
