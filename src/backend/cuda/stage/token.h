/*
 * What the token kernel is given, as plain C: the host fills it in, the kernel reads it from
 * constant memory.
 */
#ifndef CF_CUDA_STAGE_TOKEN_H
#define CF_CUDA_STAGE_TOKEN_H

#include "schedule/schedule.h"

#include <stdint.h>

/* Counters stand apart, each on its own line of the cache: phases', then these. */
enum {
    CF_COUNTER_RESIDUAL = CF_SCHEDULE_MAX_PHASES,
    CF_COUNTER_ATTENTION,
    CF_COUNTER_CACHE, /* heads whose new keys and values are in the cache */
    CF_N_COUNTERS,
    CF_COUNTER_STRIDE = 32,
};

enum {
    CF_CHOICE_PACKETS = 8, /* room for what a block tells of its logits */
    CF_MAX_ENDS = 8,       /* tokens that end a launch */
    CF_DRAW_BINS = 2048,
    CF_DRAW_COPIES = 4, /* of the bins: so many fewer blocks add to one */
    CF_DRAW_ROUNDS = 3,
    CF_DRAW_MAX_BLOCKS = 512,  /* whose parts fit into shared memory */
    CF_DRAW_MEMBERS = 256,     /* that are compared with each other; */
    CF_DRAW_OWN_MEMBERS = 128, /* and of these, of one block */
    CF_DRAW_MEMBER_PACKETS = 4,
    CF_DRAW_NEWS_PACKETS = 3, /* what else a block tells, to each of the others */
    CF_DRAW_MAX_VOCAB =
        CF_DRAW_BINS * CF_DRAW_OWN_MEMBERS, /* so few ids in a bin can be compared */
};

/* What all blocks put together in one round of drawing a token; all bits 0 before it. */
typedef struct cf_draw_round {
    uint32_t bins[CF_DRAW_COPIES][CF_DRAW_BINS]; /* amounts */
    uint32_t most, least; /* the largest ordered_bits() of a logit, and of its negative */
    uint32_t unused[2];   /* bins are read four at a time */
} cf_draw_round;

/* In the GPU's memory, all bits 0 before a launch. A block is at most one round ahead of another.
 */
typedef struct cf_draw_table {
    uint32_t n_arrived; /* blocks, in all rounds of the launch */
    uint32_t unused[CF_COUNTER_STRIDE - 1];
    uint64_t told; /* a packet: the token that one block has found */
    uint32_t unused_too[CF_COUNTER_STRIDE - 2];
    cf_draw_round rounds[CF_DRAW_ROUNDS]; /* round r is rounds[r % CF_DRAW_ROUNDS] */
} cf_draw_table;

/* In place of a token's id: its logits are not finite numbers. No result yet: all bits set. */
#define CF_NOT_FINITE 0xFFFFFFFEu
#define CF_NO_RESULT UINT64_MAX

/* Of a token's count: it is in prompt or generation. */
#define CF_SEEN 0x80000000u

/* Moments that a trace records, in each layer and block. */
typedef enum cf_trace_event {
    CF_TRACE_RESIDUAL_THERE = 0, /* the counter says that the residual is complete */
    CF_TRACE_RESIDUAL_READ,
    CF_TRACE_NORM_READY,
    CF_TRACE_TILES_DONE,      /* by the first consumer warp */
    CF_TRACE_ATTENTION_BEGIN, /* the counter says that q, k and v are there */
    CF_TRACE_ATTENTION_DONE,
    CF_TRACE_ATTENTION_LOADED,
    CF_TRACE_FFN_LOADED, /* the last chunk */
    CF_TRACE_PUBLISHED,  /* the block's last row of the residual */
    CF_N_TRACE_EVENTS,
} cf_trace_event;

/* Device addresses of one layer. */
typedef struct cf_token_layer {
    const void *matrices[CF_N_LAYER_MATRICES]; /* by cf_matrix, 16-bit, row-major */
    const void *norm1, *norm2;                 /* [d_model] float16: the LayerNorms' weights */
} cf_token_layer;

/*
 * A model on the device. The LayerNorms' biases are folded into the biases of the matrices that
 * read them, which lie in the order of the tiles: they travel with their tile.
 */
typedef struct cf_token_model {
    cf_token_layer layers[CF_SCHEDULE_MAX_LAYERS];
    const void *embed, *head; /* [n_vocab][d_model] 16-bit */
    const void *final_norm;   /* [d_model] float16 */
    const float *final_shift; /* [d_model]: the final LayerNorm's bias, for those who ask for it */
    const float *biases;    /* [n_layers][n_blocks][max_tiles][bias_rows]; the head's in layer 0 */
    const cf_tile *tiles;   /* [n_blocks][max_tiles] */
    const cf_share *shares; /* [n_blocks] */
    cf_schedule schedule;   /* its pointers are the host's */
} cf_token_model;

/* A session on the device. All but the KV cache is scratch whose contents a launch leaves behind.
 */
typedef struct cf_token_session {
    uint16_t *keys, *values; /* [n_layers][n_heads][n_context][d_head] float16 */
    uint32_t *residual;      /* [d_model] packets, as the next three */
    uint32_t *qkv;           /* [3 d_model] */
    uint32_t *attention;     /* [d_model] */
    uint32_t *ffn;           /* [d_ffn] */
    uint64_t *partials;      /* [n_heads][max_splits][d_head + 2] packets */
    uint32_t *counters;      /* [CF_N_COUNTERS][CF_COUNTER_STRIDE], only ever growing */
    float *logits;           /* [n_vocab] */
    float *hidden;           /* [n_layers + 1][d_model] */
    uint64_t *choices;       /* [CF_CHOICE_PACKETS][n_blocks] packets */
    cf_draw_table *draw;     /* for drawing a token; */
    uint64_t *news;          /* [2][CF_DRAW_NEWS_PACKETS][n_blocks] packets; and */
    uint64_t *members;     /* [2][n_blocks][CF_DRAW_OWN_MEMBERS][CF_DRAW_MEMBER_PACKETS] packets */
    const float *rotation; /* [n_context][d_rotary / 2][2]: cosine, sine */
    int32_t n_context;
} cf_token_session;

/* The tokens of one launch. */
typedef struct cf_token_step {
    cf_token token;         /* the first */
    const cf_token *tokens; /* [n_tokens] in device memory: all of them, where there are more */
    int32_t n_tokens;
    int32_t n_without_logits; /* the first ones, whose logits nobody wants */
    int32_t pos;              /* of the first */
    uint32_t epoch;           /* layers that this session has evaluated before */
    uint32_t n_before;        /* tokens, likewise */
    bool want_hidden;
    bool has_pairs;  /* blocks 2 i and 2 i + 1 reach each other's shared memory */
    uint64_t *trace; /* [n_layers + 1][n_blocks][CF_N_TRACE_EVENTS] nanoseconds, or NULL */
} cf_token_step;

/*
 * How a launch chooses its tokens, as cf_sampling says, with every default filled in. Where tokens
 * are seen, `seen` counts for each how often it was chosen; its highest bit says that it is in
 * prompt or generation at all.
 */
typedef struct cf_token_choice {
    bool is_wanted;
    float inverse_temperature; /* 0: greedy */
    float top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k;
    int32_t n_ends;
    cf_token ends[CF_MAX_ENDS]; /* the launch ends with one of these */
    uint64_t min_tokens;        /* of the generation, before which none of these is chosen */
    uint64_t seed, index;       /* of the random numbers; `index` is the first token's */
    uint32_t n_before;          /* tokens that this session has chosen before */
    uint32_t *seen;             /* [n_vocab], or NULL: no penalties */
    float *adjusted;            /* [n_vocab]: the logits after penalties */
    const uint32_t *wish;       /* in the host's memory: not 0 when the launch is to end */
    uint64_t *results; /* [n_tokens] in the host's memory: log-probability, id; 32 bits each */
} cf_token_choice;

typedef struct cf_token_args {
    cf_token_model model;
    cf_token_session session;
    cf_token_step step;
    cf_token_choice choice;
} cf_token_args;

#endif
