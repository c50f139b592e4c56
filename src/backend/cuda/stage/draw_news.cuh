/*
 * What blocks tell each other while a token is drawn: sums over their logits and, of few, the
 * logits themselves. All of it goes in packets, so that telling needs no release and hearing no
 * acquire. A token's news go to two places in turn: what a block tells overwrites what it told the
 * time before last, and that all have heard, since they have told something after it; or it was of
 * the token before, of which all have gone through the layers since.
 */
#ifndef CF_CUDA_STAGE_DRAW_NEWS_CUH
#define CF_CUDA_STAGE_DRAW_NEWS_CUH

#include "backend/cuda/stage/draw_round.cuh"

/* The epoch of a token's first news. Those that follow count on: each cut of an interval, of which
 * a filter needs five at most, takes one. They are the same again after 2^26 tokens of a session.
 */
static __device__ __forceinline__ uint32_t first_news(uint32_t choice_epoch)
{
    return choice_epoch << 6;
}

static __device__ __forceinline__ uint64_t *news_packet(const cf_token_args &args, uint32_t epoch,
                                                        int k, int32_t block)
{
    int32_t place = (int32_t)(epoch & 1) * CF_DRAW_NEWS_PACKETS + k;
    return args.session.news + place * (int32_t)gridDim.x + block;
}

static __device__ __forceinline__ uint64_t *member_packets(const cf_token_args &args,
                                                           uint32_t epoch, int32_t block,
                                                           uint32_t member)
{
    int32_t place = (int32_t)(epoch & 1) * (int32_t)gridDim.x + block;
    return args.session.members +
           (place * CF_DRAW_OWN_MEMBERS + (int32_t)member) * CF_DRAW_MEMBER_PACKETS;
}

/* Tells the logits that are wanted, in no order; too many only count. */
template <class condition>
static __device__ __forceinline__ void tell_members(const cf_token_args &args,
                                                    const sample_logits &logits, bool by_weight,
                                                    condition is_wanted)
{
    sample_space &space = sample_shared(args);
    uint32_t epoch = choice_shared(args).news;
    sample_each(space, logits, [&](float logit, int32_t id) {
        if (!is_wanted(logit, id))
            return;
        uint32_t place = atomicAdd_block(&space.n_own, 1);
        if (place >= CF_DRAW_OWN_MEMBERS)
            return;
        uint64_t *packets = member_packets(args, epoch, (int32_t)blockIdx.x, place);
        word_store(packets + 0, __float_as_uint(logit), epoch);
        word_store(packets + 1, sample_amount(args, logits, by_weight, logit), epoch);
        word_store(packets + 2, (uint32_t)id, epoch);
    });
}

/* By one thread, when the members have been told: how many they are, and the block's sums. */
static __device__ __forceinline__ void tell_sums(const cf_token_args &args, float sum,
                                                 uint32_t amount)
{
    sample_space &space = sample_shared(args);
    uint32_t epoch = choice_shared(args).news, n = space.n_own;
    int32_t block = (int32_t)blockIdx.x;
    n = n <= CF_DRAW_OWN_MEMBERS ? n : CF_DRAW_MEMBERS + 1;
    word_store(news_packet(args, epoch, 0, block), n, epoch);
    word_store(news_packet(args, epoch, 1, block), __float_as_uint(sum), epoch);
    word_store(news_packet(args, epoch, 2, block), amount, epoch);
    space.n_own = 0;
}

static __device__ __forceinline__ sample_member hear_member(const cf_token_args &args,
                                                            uint32_t epoch, uint32_t origin)
{
    int32_t block = (int32_t)(origin / CF_DRAW_OWN_MEMBERS);
    const uint64_t *packets = member_packets(args, epoch, block, origin % CF_DRAW_OWN_MEMBERS);
    float2 first = partials_await(packets, epoch); /* logit, amount */
    uint32_t id = word_await(packets + 2, epoch);
    return {member_key(first.x, (int32_t)id), __float_as_uint(first.y), block};
}

/* Brings the blocks' sums into shared memory; returns how many members there are, and their place
 * among them to each thread: of those of the blocks that it looks after. */
static __device__ __forceinline__ uint32_t hear_sums(const cf_token_args &args, uint32_t epoch,
                                                     uint32_t &total, uint32_t &place, int thread)
{
    enum { COUNT_SHIFT = 40 }; /* amounts are below: of all together 2^31, and what rounding adds */
    sample_space &space = sample_shared(args);
    uint64_t own = 0, all;
#pragma unroll 1
    for (int32_t first = 0; first < (int32_t)gridDim.x; first += N_VECTOR_THREADS) {
        int32_t b = min(first + thread, (int32_t)gridDim.x - 1); /* lanes beyond go along */
        uint32_t n = word_await(news_packet(args, epoch, 0, b), epoch);
        float sum = __uint_as_float(word_await(news_packet(args, epoch, 1, b), epoch));
        uint32_t amount = word_await(news_packet(args, epoch, 2, b), epoch);
        if (first + thread != b)
            continue;
        own += (uint64_t)n << COUNT_SHIFT | amount;
        space.sums[b] = sum;
        space.added[b] = 0;
        space.n_told[b] = n;
    }
    place = (uint32_t)(sum_threads(space.warp_news, own, thread, all) >> COUNT_SHIFT);
    total = (uint32_t)all;
    return (uint32_t)(all >> COUNT_SHIFT);
}

/* Of the blocks that a thread looks after, where each member lies, from its `place` on. */
static __device__ __forceinline__ void note_origins(sample_space &space, uint32_t place, int thread)
{
#pragma unroll 1
    for (int32_t first = 0; first < (int32_t)gridDim.x; first += N_VECTOR_THREADS) {
        uint32_t b = (uint32_t)(first + thread), n = b < gridDim.x ? space.n_told[b] : 0;
#pragma unroll 1
        for (uint32_t i = 0; __any_sync(WARP_ALL, i < n); i++)
            if (i < n)
                space.origins[place++] = b * CF_DRAW_OWN_MEMBERS + i;
    }
}

/*
 * Returns when all blocks have told their news: the sums are in shared memory, the amount of all in
 * `total`, and the members too, if they are not more than can be compared. Returns their number.
 */
static __device__ __forceinline__ uint32_t hear_news(const cf_token_args &args, uint32_t &total,
                                                     int thread)
{
    sample_space &space = sample_shared(args);
    uint32_t epoch = choice_shared(args).news, place;
    uint32_t n = hear_sums(args, epoch, total, place, thread);
    if (n <= CF_DRAW_MEMBERS)
        note_origins(space, place, thread);
    sample_sync(); /* publishes where members come from */
    sample_member member = {};
    if (n <= CF_DRAW_MEMBERS && (uint32_t)thread / 32 * 32 < n)
        member = hear_member(args, epoch, space.origins[min((uint32_t)thread, n - 1)]);
    if (n <= CF_DRAW_MEMBERS)
        space.members[thread] = (uint32_t)thread < n ? member : sample_member{};
    if (thread == 0)
        choice_shared(args).news = epoch + 1;
    sample_sync(); /* publishes the members and the sums */
    return n;
}

/* ---- The members' order ---- */

/* One of them, with those that come before it. */
struct sample_rank {
    sample_member own;
    uint32_t rank, before; /* how many they are, and their amount */
    bool is_mine;          /* of the threads that share a member, one has it */
};

/* Threads that share each of n members: a power of two. */
static __device__ __forceinline__ uint32_t member_sharers(uint32_t n)
{
    return n <= N_VECTOR_THREADS / 4 ? 4 : n <= N_VECTOR_THREADS / 2 ? 2 : 1;
}

enum { MEMBERS_A_TURN = 4 };
static_assert(CF_DRAW_MEMBERS % (4 * MEMBERS_A_TURN) == 0, "whole turns");

/* Each of n members, 1 to 256, is compared with all; those beyond them come last. */
static __device__ __forceinline__ sample_rank rank_members(const sample_space &space, uint32_t n,
                                                           int thread)
{
    uint32_t n_sharers = member_sharers(n), member = (uint32_t)thread / n_sharers;
    uint32_t share = (uint32_t)thread % n_sharers, rank = 0, before = 0;
    sample_member own = space.members[member];
    const sample_member *others = space.members + share;
#pragma unroll 1
    for (uint32_t first = 0; first < n; first += MEMBERS_A_TURN * n_sharers) {
#pragma unroll
        for (uint32_t i = 0; i < MEMBERS_A_TURN; i++) {
            sample_member other = others[i * n_sharers];
            bool is_before = other.key > own.key;
            rank += is_before ? 1 : 0;
            before += is_before ? other.amount : 0;
        }
        others += MEMBERS_A_TURN * n_sharers;
    }
#pragma unroll 1
    for (uint32_t step = 1; step < n_sharers; step *= 2) {
        rank += __shfl_xor_sync(WARP_ALL, rank, step);
        before += __shfl_xor_sync(WARP_ALL, before, step);
    }
    return {own, rank, before, member < n && share == 0};
}

/* Of n members, the one with which the sum reaches `need`: it is the new limit. */
static __device__ __forceinline__ void find_member(sample_space &space, uint32_t n, uint32_t need,
                                                   int thread)
{
    sample_rank found = rank_members(space, n, thread);
    uint32_t before = space.above + found.before;
    if (found.is_mine && before < need && need <= before + found.own.amount) {
        space.limit = found.own.logit();
        space.limit_id = found.own.id();
        space.reached = before + found.own.amount;
    }
    sample_sync(); /* publishes the limit */
}

#endif
