/* What the warps of a block share, and how they find it. */
#ifndef CF_CUDA_STAGE_BLOCK_CUH
#define CF_CUDA_STAGE_BLOCK_CUH

#include "backend/cuda/device/barrier.cuh"
#include "backend/cuda/device/cluster.cuh"
#include "backend/cuda/device/copy.cuh"
#include "backend/cuda/device/memory.cuh"
#include "backend/cuda/device/packet.cuh"
#include "backend/cuda/device/ring.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/stage/token.h"

#define N_ATTENTION_THREADS(d_head) (32 * CF_SCHEDULE_N_ATTENTION_WARPS(d_head))
#define N_VECTOR_THREADS (32 * CF_SCHEDULE_N_VECTOR_WARPS)

/* What consumers need of a phase, at hand: one load, where the schedule takes five in turn. */
struct phase_entry {
    int32_t vector; /* where its input lies */
    int32_t n_columns;
    int16_t input; /* cf_vector */
    int16_t part;
    int32_t matrix;
};

static_assert(sizeof(warp_counter) <= CF_SCHEDULE_COUNTER_BYTES, "the layout reserves too little");

/* The fixed part of shared memory, at its beginning. */
struct block_state {
    uint64_t full[CF_SCHEDULE_MAX_SLOTS];  /* a tile is there */
    uint64_t empty[CF_SCHEDULE_MAX_SLOTS]; /* a tile has been used */
    uint64_t ready[CF_N_VECTORS];          /* a layer's vector is there */
    uint64_t query;                        /* a layer's rotated query is there */
    uint64_t attended;                     /* consumers have gone through the layer's KV tiles */
    uint64_t published;                    /* all units of the block's residual are out */
    uint64_t partner;                      /* the paired block's part of the head is there */
    uint64_t stopped;                      /* no token follows, for those who do not wait for it */
    phase_entry phases[CF_SCHEDULE_MAX_PHASES];
    uint32_t n_done[CF_SCHEDULE_MAX_PHASES]; /* tiles of this layer's phase */
    uint32_t n_published;                    /* units of the residual */
    cf_share share;
    float2 norm_sums[2][CF_SCHEDULE_N_VECTOR_WARPS]; /* of every other LayerNorm */
};
static_assert(sizeof(block_state) <= CF_SCHEDULE_FIXED_BYTES, "the layout reserves too little");

static __device__ __forceinline__ char *block_memory()
{
    extern __shared__ __align__(128) char memory[];
    return memory;
}

static __device__ __forceinline__ block_state &block_shared()
{
    return *reinterpret_cast<block_state *>(block_memory());
}

template <class element> static __device__ __forceinline__ element *block_at(int32_t offset)
{
    return reinterpret_cast<element *>(block_memory() + offset);
}

static __device__ __forceinline__ uint32_t *counter_of(const cf_token_args &args, int32_t counter)
{
    return args.session.counters + counter * CF_COUNTER_STRIDE;
}

/*
 * One of the launch's tokens. Each role walks them on its own. All else follows from the index, and
 * is worked out where it is needed: registers are scarce.
 */
struct token_turn {
    int32_t index;

    __device__ __forceinline__ int32_t pos(const cf_token_args &args) const
    {
        return args.step.pos + index;
    }

    __device__ __forceinline__ bool wants_logits(const cf_token_args &args) const
    {
        return index >= args.step.n_without_logits;
    }

    /* Layers that the launch has evaluated before. */
    __device__ __forceinline__ int32_t n_layers(const cf_token_args &args) const
    {
        return index * args.model.schedule.shape.n_layers;
    }
};

/* Goes on to the next token; false after the last. */
static __device__ __forceinline__ bool next_turn(const cf_token_args &args, token_turn &turn)
{
    return ++turn.index < args.step.n_tokens;
}

/* Whether vector warps normalise the last residual. Hidden states are of launches of one token. */
static __device__ __forceinline__ bool has_last(const cf_token_args &args, const token_turn &turn)
{
    return turn.wants_logits(args) || args.step.want_hidden;
}

/* The epoch of what a layer makes; 1 for a session's first layer. */
static __device__ __forceinline__ uint32_t layer_epoch(const cf_token_args &args,
                                                       const token_turn &turn, int32_t layer)
{
    return args.step.epoch + (uint32_t)(turn.n_layers(args) + layer) + 1;
}

/* Layers whose tiles are streamed: the LM head counts as one more, where it is wanted. */
static __device__ __forceinline__ int32_t n_rounds(const cf_token_args &args,
                                                   const token_turn &turn)
{
    return args.model.schedule.shape.n_layers + (turn.wants_logits(args) ? 1 : 0);
}

/* The block's part of one head, the same in all layers of a token. */
struct head_task {
    int32_t head, split; /* head -1: none */
    int32_t begin, end;  /* positions in the cache, the new one not included */
    bool has_new;        /* the new position belongs to this part */
    int32_t per_tile;    /* positions that a tile of the stream holds */
    int32_t n_tiles;
    int32_t n_layers_before; /* in this launch, in which the block had a part */
    int32_t n_splits;        /* of each head */

    /* Of the barriers that only blocks with a part complete phases of. */
    __device__ __forceinline__ uint32_t parity(int32_t layer) const
    {
        return (uint32_t)(n_layers_before + layer) & 1;
    }
};

/* Blocks that share a head while the token at `pos` is evaluated. */
static __device__ __forceinline__ int32_t splits_at(const cf_token_args &args, int32_t pos)
{
    const cf_schedule &schedule = args.model.schedule;
    return min((pos + schedule.split_positions) / schedule.split_positions, schedule.max_splits);
}

static __device__ __forceinline__ head_task block_task(const cf_token_args &args,
                                                       const token_turn &turn)
{
    const cf_schedule &schedule = args.model.schedule;
    int32_t n_pos = turn.pos(args) + 1, n_splits = splits_at(args, turn.pos(args));
    int32_t per_split = (n_pos + n_splits - 1) / n_splits;
    int32_t head = blockIdx.x / n_splits, split = blockIdx.x % n_splits;
    if (head >= schedule.shape.n_heads)
        return {-1, 0, 0, 0, false, 1, 0, 0, n_splits};
    int32_t begin = split * per_split, end = min(n_pos, begin + per_split);
    int32_t n = min(end, n_pos - 1) - begin, n_consumers = schedule.n_consumers;
    /* Few positions are spread over the consumers, if each has enough of them. */
    int32_t per_tile = max((n + n_consumers - 1) / n_consumers, schedule.kv_least);
    per_tile = min(per_tile, schedule.kv_positions);
    /* Splits only grow in number: from here on the block has had a part. */
    int32_t first_pos = (int32_t)blockIdx.x / schedule.shape.n_heads * schedule.split_positions;
    int32_t n_turns = turn.pos(args) - max(first_pos, args.step.pos);
    return {head,
            split,
            begin,
            begin + n,
            end == n_pos,
            per_tile,
            (n + per_tile - 1) / per_tile,
            n_turns * schedule.shape.n_layers,
            n_splits};
}

/* A block's stream in one round: tiles of the schedule, and amid them those of the KV cache. */
struct round_stream {
    int32_t first;    /* in the block's tiles */
    int32_t n;        /* tiles of both kinds */
    int32_t kv_begin; /* the KV cache's are kv_begin … kv_end - 1 */
    int32_t kv_end;

    __device__ __forceinline__ bool is_kv(int32_t t) const
    {
        return t >= kv_begin && t < kv_end;
    }

    /* The block's tile that the stream's t-th is, if not of the KV cache. */
    __device__ __forceinline__ int32_t tile(int32_t t) const
    {
        return first + (t < kv_end ? t : t - (kv_end - kv_begin));
    }
};

static __device__ __forceinline__ round_stream open_round(const cf_token_args &args,
                                                          const head_task &task, int32_t round)
{
    const cf_schedule &schedule = args.model.schedule;
    const cf_share &share = block_shared().share;
    if (round == schedule.shape.n_layers)
        return {share.n_layer_tiles, share.n_head_tiles, 0, 0};
    return {0, share.n_layer_tiles + task.n_tiles, share.kv_place, share.kv_place + task.n_tiles};
}

static __device__ __forceinline__ void trace(const cf_token_args &args, int32_t layer,
                                             cf_trace_event event)
{
    if (args.step.trace == NULL)
        return;
    args.step.trace[(layer * gridDim.x + blockIdx.x) * CF_N_TRACE_EVENTS + event] = clock_ns();
}

#endif
