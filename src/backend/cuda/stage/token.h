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
    const float *rotation;   /* [n_context][d_rotary / 2][2]: cosine, sine */
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
    uint64_t *trace; /* [n_layers + 1][n_blocks][CF_N_TRACE_EVENTS] nanoseconds, or NULL */
} cf_token_step;

typedef struct cf_token_args {
    cf_token_model model;
    cf_token_session session;
    cf_token_step step;
} cf_token_args;

#endif
