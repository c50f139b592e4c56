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

enum { CHOICE_WORDS = sizeof(choice_part) / 4 };
static_assert(CHOICE_WORDS + 1 <= CF_CHOICE_PACKETS, "a packet a word, and the host's wish");

/* In shared memory: what a block's vector warps tell each other, and all roles. */
struct choice_state {
    uint64_t judged;  /* barrier: the consumers have delivered the token's logits */
    uint64_t decided; /* barrier: the next token is known */
    cf_token token;   /* it */
    bool is_stopped;  /* no token follows */
    uint32_t round;   /* of the launch's rounds of drawing, the next one */
    choice_part parts[CF_SCHEDULE_N_VECTOR_WARPS];
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

/* Merges the parts of `n_lanes` lanes into lane 0's, in a fixed order. */
template <int n_lanes>
static __device__ __forceinline__ choice_part choice_of_warp(const cf_token_args &args,
                                                             choice_part part)
{
#pragma unroll 1
    for (int offset = n_lanes / 2; offset > 0; offset /= 2)
        part = choice_merged(args, part,
                             {__shfl_down_sync(WARP_ALL, part.raw_max, offset),
                              __shfl_down_sync(WARP_ALL, part.raw_sum, offset),
                              __shfl_down_sync(WARP_ALL, part.best, offset),
                              __shfl_down_sync(WARP_ALL, part.id, offset),
                              __shfl_down_sync(WARP_ALL, part.weight, offset),
                              __shfl_down_sync(WARP_ALL, part.lowest, offset)});
    return part;
}

/* Merges all vector threads' parts; warp 0's first lane gets the result. */
static __device__ __forceinline__ choice_part choice_of_block(const cf_token_args &args,
                                                              choice_part part, int thread)
{
    choice_state &state = choice_shared(args);
    part = choice_of_warp<32>(args, part);
    if (thread % 32 == 0)
        state.parts[thread / 32] = part;
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS); /* publishes the warps' parts */
    part = thread < CF_SCHEDULE_N_VECTOR_WARPS ? state.parts[thread] : choice_nothing();
    return choice_of_warp<CF_SCHEDULE_N_VECTOR_WARPS>(args, part);
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
#pragma unroll 1
    for (int32_t row = own.first + thread; row < own.first + own.n; row += N_VECTOR_THREADS) {
        float raw = __ldcg(args.session.logits + row), adjusted = raw;
        if (choice.seen != NULL)
            adjusted = penalised(choice, raw, __ldcg(choice.seen + row));
        if (bans_ends(choice, index) && is_end(choice, row))
            adjusted = -INFINITY;
        if (is_adjusted(choice, index))
            choice.adjusted[row] = adjusted;
        if (row - own.first < SAMPLE_HELD)
            space.logits[row - own.first] = adjusted;
        part = choice_merged(args, part, part_of(raw, adjusted, row));
    }
    return part;
}

static __device__ __forceinline__ uint32_t choice_epoch(const cf_token_args &args,
                                                        const token_turn &turn)
{
    return args.choice.n_before + (uint32_t)turn.index + 1;
}

/* The words of a part, and the host's wish to stop, which block 0 speaks for. */
static __device__ __forceinline__ void publish_part(const cf_token_args &args,
                                                    const choice_part &part, bool wish,
                                                    uint32_t epoch)
{
    uint64_t *packets = args.session.choices + blockIdx.x * CF_CHOICE_PACKETS;
    partial_store(packets + 0, part.raw_max, epoch);
    partial_store(packets + 1, part.raw_sum, epoch);
    partial_store(packets + 2, part.best, epoch);
    partial_store(packets + 3, __int_as_float(part.id), epoch);
    partial_store(packets + 4, part.weight, epoch);
    partial_store(packets + 5, part.lowest, epoch);
    partial_store(packets + 6, wish ? 1.0f : 0.0f, epoch);
}

static __device__ __forceinline__ choice_part read_part(const cf_token_args &args, int32_t block,
                                                        uint32_t epoch, bool &wish)
{
    const uint64_t *packets = args.session.choices + block * CF_CHOICE_PACKETS;
    uint64_t v[CHOICE_WORDS + 1], begin = watchdog_begin();
    float words[CHOICE_WORDS + 1];
    for (bool is_late = true; is_late;) {
        is_late = false;
#pragma unroll
        for (int k = 0; k <= CHOICE_WORDS; k++)
            v[k] = gpu_load(packets + k);
#pragma unroll
        for (int k = 0; k <= CHOICE_WORDS; k++) {
            is_late = is_late || !partial_is_of(v[k], epoch);
            words[k] = partial_value(v[k]);
        }
        watchdog_check(begin);
    }
    wish = words[CHOICE_WORDS] != 0;
    return {words[0], words[1], words[2], __float_as_int(words[3]), words[4], words[5]};
}

/*
 * What all blocks found together, and what each did, in shared memory, the same bits in each;
 * returns to thread 0 whether the host wishes to stop, which block 0's part says.
 */
static __device__ __forceinline__ bool gather_parts(const cf_token_args &args, uint32_t epoch,
                                                    int thread)
{
    sample_space &space = sample_shared(args);
    choice_part part = choice_nothing();
    bool wish = false, any = false;
    if (thread == 0)
        gpu_wait_count(counter_of(args, CF_COUNTER_CHOICE), epoch * gridDim.x);
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS);
#pragma unroll 1
    for (int32_t b = thread; b < (int32_t)gridDim.x; b += N_VECTOR_THREADS) {
        choice_part found = read_part(args, b, epoch, wish);
        space.weights[b] = found.weight;
        space.bests[b] = found.best;
        part = choice_merged(args, part, found);
        any = any || wish;
    }
    part = choice_of_block(args, part, thread);
    if (thread == 0)
        choice_shared(args).all = part;
    return any;
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
