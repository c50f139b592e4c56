/* Where a block keeps what it draws a token from: in shared memory, where vectors lie until then.
 */
#ifndef CF_CUDA_STAGE_DRAW_SPACE_CUH
#define CF_CUDA_STAGE_DRAW_SPACE_CUH

#include "backend/cuda/stage/block.cuh"

enum {
    SAMPLE_HELD = 768, /* of the block's logits that are at hand */
    SAMPLE_MAX_BLOCKS = CF_DRAW_BINS / 2,
};

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
            float weights[SAMPLE_MAX_BLOCKS];
            float bests[SAMPLE_MAX_BLOCKS];
        };
        struct { /* of blocks */
            float sums[SAMPLE_MAX_BLOCKS];
            uint32_t added[SAMPLE_MAX_BLOCKS]; /* in fixed point: not yet in the sums */
        };
    };
    union {
        cf_draw_member members[CF_DRAW_MEMBERS];
        sample_share few[CF_DRAW_MEMBERS];
    };
    double warp_totals[CF_SCHEDULE_N_VECTOR_WARPS];
    double target; /* within the block that has the token */
    uint32_t warp_sums[CF_SCHEDULE_N_VECTOR_WARPS];
    uint32_t bin, above; /* where the need is reached; what lies over it */
    float limit;         /* what top_k and top_p keep: logits above it, */
    int32_t limit_id;    /* and ids up to this one at it */
    uint32_t reached;    /* amount of what the filter has kept */
    int32_t owner;       /* the block that has the token, */
    int32_t drawn;       /* and it */
};
static_assert(sizeof(sample_space) <= CF_SCHEDULE_SAMPLE_BYTES, "the layout reserves too little");
static_assert(sizeof(cf_draw_member) == sizeof(uint4), "members are moved whole");
static_assert(CF_DRAW_MEMBERS == N_VECTOR_THREADS, "a thread has one member");

static __device__ __forceinline__ sample_space &sample_shared(const cf_token_args &args)
{
    return *block_at<sample_space>(args.model.schedule.shared.sample);
}

#endif
