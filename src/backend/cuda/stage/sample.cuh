/*
 * Drawing a token, by the vector warps of all blocks, each with the logits that it made: the
 * filters of cf_sampling, in their order, then a place in the order of ids. Every way through here
 * depends on the logits only, so all blocks take the same.
 */
#ifndef CF_CUDA_STAGE_SAMPLE_CUH
#define CF_CUDA_STAGE_SAMPLE_CUH

#include "backend/cuda/stage/draw_filter.cuh"
#include "backend/cuda/stage/draw_order.cuh"

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

/* Without any filter: the blocks' sums follow from what each found, without a round. */
static __device__ __forceinline__ void sums_from_found(const cf_token_args &args,
                                                       const sample_logits &logits, int thread)
{
    sample_space &space = sample_shared(args);
#pragma unroll 1
    for (int32_t b = thread; b < (int32_t)gridDim.x; b += N_VECTOR_THREADS)
        space.sums[b] = space.weights[b] * sample_weight(args, logits, space.bests[b]);
}

/*
 * The token, for thread 0. All vector threads of all blocks take part; the block's logits, and what
 * all blocks found in theirs, are in shared memory.
 */
static __device__ __forceinline__ int32_t sample_token(const cf_token_args &args,
                                                       const choice_part &all, uint64_t index,
                                                       uint32_t epoch, int thread)
{
    sample_space &space = sample_shared(args);
    sample_logits logits = sample_take(args, all, index, thread);
    sample_outcome outcome = SAMPLE_LIMIT;
    if (thread == 0) {
        space.n_own = 0;
        choice_shared(args).news = first_news(epoch);
    }
    if (has_top_k(args) || has_top_p(args)) {
        outcome = filter_by_rank(args, logits, thread);
        if (outcome == SAMPLE_DRAWN)
            return space.drawn;
    } else {
        keep_all(space, thread);
        if (args.choice.min_p == 0) {
            sums_from_found(args, logits, thread);
            outcome = SAMPLE_SUMS;
        }
    }
    return find_in_order(args, logits, choice_shared(args).uniform, outcome == SAMPLE_SUMS, epoch,
                         thread);
}

#endif
