/*
 * From a token's logits to the next token, by the vector warps. Greedy, all blocks come to the same
 * choice from the same packets; drawn, block 0 chooses and tells the others.
 */
#ifndef CF_CUDA_STAGE_DECIDE_CUH
#define CF_CUDA_STAGE_DECIDE_CUH

#include "backend/cuda/stage/sample.cuh"

/* What block 0 tells: the token, and whether none follows it. */
#define CHOSEN_STOPPED 0x80000000u

struct decision {
    cf_token token;
    bool is_stopped;
};

static __device__ __forceinline__ bool is_end(const cf_token_choice &choice, cf_token token)
{
    bool found = false;
    for (int32_t i = 0; i < choice.n_ends; i++)
        found = found || choice.ends[i] == token;
    return found;
}

/* By one thread of block 0. The host finds each token as soon as it is chosen. */
static __device__ __forceinline__ void report(const cf_token_args &args, const token_turn &turn,
                                              const choice_part &all, cf_token token)
{
    float log_sum = all.raw_max + logf(all.raw_sum);
    uint32_t id = CF_NOT_FINITE;
    float logprob = 0;
    if (isfinite(log_sum)) {
        float logit = token == all.id && args.choice.seen == NULL
                          ? all.best
                          : __ldcg(args.session.logits + token);
        id = (uint32_t)token;
        logprob = (logit - all.raw_max) - logf(all.raw_sum);
    }
    host_store(args.choice.results + turn.index, (uint64_t)__float_as_uint(logprob) << 32 | id);
}

/* Greedy: by thread 0 of each block, from what all have gathered. */
static __device__ __forceinline__ decision decide_best(const cf_token_args &args,
                                                       const token_turn &turn, bool wish)
{
    choice_part all = choice_shared(args).all;
    bool is_finite = isfinite(all.raw_max + logf(all.raw_sum));
    if (blockIdx.x == 0)
        report(args, turn, all, all.id);
    return {all.id, wish || !is_finite || is_end(args.choice, all.id)};
}

/* Drawn: block 0 chooses, thread 0 of each other block waits for what it says. */
static __device__ __forceinline__ decision decide_drawn(const cf_token_args &args,
                                                        const token_turn &turn, uint32_t epoch,
                                                        int thread)
{
    uint64_t *chosen = args.session.chosen;
    if (blockIdx.x != 0) {
        uint64_t v = thread == 0 ? gpu_load(chosen) : 0;
        uint64_t begin = watchdog_begin();
        while (thread == 0 && (uint32_t)(v >> 32) != epoch) {
            watchdog_check(begin);
            __nanosleep(POLL_PAUSE_NS);
            v = gpu_load(chosen);
        }
        return {(cf_token)(v & ~CHOSEN_STOPPED), (v & CHOSEN_STOPPED) != 0};
    }
    bool wish = gather_parts(args, epoch, thread);
    sample_sync(); /* publishes what was gathered */
    choice_part all = choice_shared(args).all;
    decision found = {0, true};
    if (isfinite(all.raw_max + logf(all.raw_sum)) && isfinite(all.weight)) {
        found.token = sample_token(args, all, args.choice.index + turn.index, thread);
        found.is_stopped = wish || is_end(args.choice, found.token);
    }
    if (thread == 0) {
        gpu_store(chosen, (uint64_t)epoch << 32 | (uint32_t)found.token |
                              (found.is_stopped ? CHOSEN_STOPPED : 0));
        report(args, turn, all, found.token);
    }
    return found;
}

/* Whoever makes the token's logit keeps the count of it. */
static __device__ __forceinline__ void count_seen(const cf_token_args &args, cf_token token,
                                                  int thread)
{
    const cf_share &share = block_shared().share;
    const cf_tile *tiles = block_at<const cf_tile>(args.model.schedule.shared.tiles);
    for (int32_t t = thread; t < share.n_head_tiles; t += N_VECTOR_THREADS) {
        const cf_tile &tile = tiles[share.n_layer_tiles + t];
        if (token >= tile.row && token < tile.row + tile.n_rows)
            args.choice.seen[token] = (args.choice.seen[token] | CF_SEEN) + 1;
    }
}

/*
 * Chooses the next token and tells this block's other roles; whether the launch goes on with it.
 * Once a token, and a function of its own so that it takes no registers from the layers' loop.
 */
static __device__ __noinline__ bool decide(const cf_token_args &args, token_turn turn, int thread)
{
    choice_state &state = choice_shared(args);
    const cf_token_choice &choice = args.choice;
    uint32_t epoch = choice_epoch(args, turn);
    bool is_drawn = choice.inverse_temperature > 0, wish = false;
    /* From far, but there before the last logit. */
    if (blockIdx.x == 0 && thread == 0)
        wish = host_load(choice.wish) != 0;
    barrier_wait(&state.judged, turn.index & 1); /* this block's logits are there */
    choice_part part = choice_of_block(args, judge_own(args, thread), thread);
    if (thread == 0) {
        publish_part(args, part, wish, epoch);
        /* A release where others read the logits themselves, not only what was told of them. */
        if (is_drawn || choice.seen != NULL)
            gpu_count_release(counter_of(args, CF_COUNTER_CHOICE));
        else
            gpu_count(counter_of(args, CF_COUNTER_CHOICE));
    }
    decision found = {0, true};
    if (is_drawn)
        found = decide_drawn(args, turn, epoch, thread);
    else if (wish = gather_parts(args, epoch, thread); thread == 0)
        found = decide_best(args, turn, wish);
    if (thread == 0) {
        state.token = found.token;
        state.is_stopped = found.is_stopped;
        barrier_arrive(&state.decided);
    }
    sample_sync(); /* publishes the token to the vector warps */
    if (choice.seen != NULL)
        count_seen(args, state.token, thread);
    return !state.is_stopped;
}

#endif
