/*
 * From a token's logits to the next token, by the vector warps. All blocks come to the same choice:
 * greedy from the same packets, drawn by the same steps in all.
 */
#ifndef CF_CUDA_STAGE_DECIDE_CUH
#define CF_CUDA_STAGE_DECIDE_CUH

#include "backend/cuda/stage/sample.cuh"

/* The host finds each token as soon as it is chosen. */
static __device__ __forceinline__ void report(const cf_token_args &args, const token_turn &turn,
                                              uint32_t id, float logprob)
{
    host_store(args.choice.results + turn.index, (uint64_t)__float_as_uint(logprob) << 32 | id);
}

/* By one thread of each block; the one whose block made the token's logit reports it. */
static __device__ __forceinline__ void report_token(const cf_token_args &args,
                                                    const token_turn &turn, const choice_part &all,
                                                    cf_token token)
{
    if (!block_rows(args).holds(token))
        return;
    float logit = __ldcg(args.session.logits + token);
    report(args, turn, (uint32_t)token, (logit - all.raw_max) - logf(all.raw_sum));
    if (args.choice.seen != NULL)
        args.choice.seen[token] = (args.choice.seen[token] | CF_SEEN) + 1;
}

static __device__ __forceinline__ bool is_finite(const choice_part &all)
{
    return isfinite(all.raw_max + logf(all.raw_sum)) && isfinite(all.weight) && all.weight > 0;
}

/*
 * Chooses the next token and tells this block's other roles; whether the launch goes on with it.
 * Not a function of its own: it would read the arguments by their address, as memory that others
 * write, instead of as constants.
 */
static __device__ __forceinline__ bool decide(const cf_token_args &args, token_turn turn,
                                              int thread)
{
    choice_state &state = choice_shared(args);
    uint32_t epoch = choice_epoch(args, turn);
    uint64_t index = args.choice.index + turn.index; /* in the generation */
    bool wish = false, draws = args.choice.inverse_temperature > 0;
    /* From far, but there before the last logit; so is the random number. */
    if (blockIdx.x == 0 && thread == 0)
        wish = host_load(args.choice.wish) != 0;
    if (draws && thread == N_VECTOR_THREADS - 1)
        state.uniform = sample_uniform(args.choice.seed, index);
    barrier_wait(&state.judged, turn.index & 1); /* this block's logits are there */
    choice_part part = choice_of_block(args, judge_own(args, index, thread), thread);
    if (thread == 0)
        publish_part(args, part, wish, epoch);
    choice_part all = gather_parts(args, epoch, wish, thread);
    bool can_choose = is_finite(all);
    cf_token token = all.id;
    if (can_choose && draws)
        token = sample_token(args, all, index, epoch, thread);
    if (thread == 0) {
        state.token = token;
        state.is_stopped = wish || !can_choose || is_end(args.choice, token);
        barrier_arrive(&state.decided);
        if (state.is_stopped)
            barrier_arrive(&block_shared().stopped);
        if (can_choose)
            report_token(args, turn, all, token);
        else if (blockIdx.x == 0)
            report(args, turn, CF_NOT_FINITE, 0);
    }
    sample_sync(); /* publishes the token to the vector warps */
    return !state.is_stopped;
}

#endif
