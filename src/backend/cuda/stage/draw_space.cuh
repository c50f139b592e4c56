/* Where a block keeps what it draws a token from: in shared memory, where vectors lie until then.
 */
#ifndef CF_CUDA_STAGE_DRAW_SPACE_CUH
#define CF_CUDA_STAGE_DRAW_SPACE_CUH

#include "backend/cuda/stage/block.cuh"

enum {
    SAMPLE_HELD = 768, /* of the block's logits that are at hand */
};

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

/* A logit that is compared with others; one with a larger key comes before. */
struct sample_member {
    uint64_t key;    /* ordered_bits() of the logit, then of lower ids the larger number */
    uint32_t amount; /* by which filters go */
    int32_t block;

    __device__ __forceinline__ float logit() const
    {
        return from_ordered_bits((uint32_t)(key >> 32));
    }

    __device__ __forceinline__ int32_t id() const
    {
        return (int32_t) ~(uint32_t)key;
    }
};

/* Adding 0 makes -0 what it equals. */
static __device__ __forceinline__ uint64_t member_key(float logit, int32_t id)
{
    return (uint64_t)ordered_bits(logit + 0.0f) << 32 | ~(uint32_t)id;
}

/* One of few that are kept, and its weight in fixed point. */
struct sample_share {
    uint64_t amount;
    int32_t id;
};

/* All in turn; the block's logits, and what all blocks found, are there before a token is drawn. */
struct sample_space {
    float logits[SAMPLE_HELD]; /* the block's first ones, adjusted */
    union {
        uint32_t bins[CF_DRAW_BINS];
        struct { /* of blocks: what each found in its own logits */
            float weights[CF_DRAW_MAX_BLOCKS];
            float bests[CF_DRAW_MAX_BLOCKS];
        };
        struct { /* of blocks */
            float sums[CF_DRAW_MAX_BLOCKS];
            uint32_t added[CF_DRAW_MAX_BLOCKS];  /* in fixed point: not yet in the sums */
            uint32_t n_told[CF_DRAW_MAX_BLOCKS]; /* members */
            uint32_t origins[CF_DRAW_MEMBERS];   /* whose members they are, and which of its */
        };
    };
    union {
        sample_member members[CF_DRAW_MEMBERS];
        sample_share few[CF_DRAW_MEMBERS];
    };
    double warp_totals[CF_SCHEDULE_N_VECTOR_WARPS];
    uint64_t warp_news[CF_SCHEDULE_N_VECTOR_WARPS];
    double target; /* within the block that has the token */
    uint32_t warp_sums[CF_SCHEDULE_N_VECTOR_WARPS];
    uint32_t bin, above; /* where the need is reached; what lies over it */
    float limit;         /* what top_k and top_p keep: logits above it, */
    int32_t limit_id;    /* and ids up to this one at it */
    uint32_t reached;    /* amount of what the filter has kept */
    int32_t owner;       /* the block that has the token, */
    int32_t drawn;       /* and it */
    uint32_t n_own;      /* members that this block has told */
};
static_assert(sizeof(sample_space) <= CF_SCHEDULE_SAMPLE_BYTES, "the layout reserves too little");
static_assert(CF_DRAW_MEMBERS == N_VECTOR_THREADS, "a thread has one member");

static __device__ __forceinline__ sample_space &sample_shared(const cf_token_args &args)
{
    return *block_at<sample_space>(args.model.schedule.shared.sample);
}

#endif
