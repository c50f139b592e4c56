/* What the files of the CPU backend share: its model, its session, and the stages of a step. */
#ifndef CF_BACKEND_CPU_CPU_H
#define CF_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/team.h"
#include "backend/cpu/tiles.h"

/* From so many tokens on, products go through the BLAS. */
#define CF_CPU_MANY_TOKENS 24

/*
 * A panel of weights: as float32 it takes half of a second-level cache of 1 MB. Where a product has
 * few rows, panels are half as high, so that workers end together.
 */
#define CF_CPU_PANEL_ROWS 96
#define CF_CPU_PANEL_COLUMNS 1024
#define CF_CPU_FEW_ROWS 2048

/*
 * Pieces of weights that a worker's share is taken in where few tokens are multiplied, and how many
 * bytes they have at least and at most: beginning one costs the hardware's prefetch its stride.
 */
#define CF_CPU_SHARE_PIECES 4
#define CF_CPU_MIN_PIECE_BYTES 32768
#define CF_CPU_MAX_PIECE_BYTES 524288

/* Columns of an input that are transposed at a time. */
#define CF_CPU_TRANSPOSE_COLUMNS 32

/* A layer's vectors, in float32. Biases that the model lacks are zeros. */
typedef struct cf_cpu_layer {
    const float *ln1_weight, *ln1_bias;  /* [d_model] */
    const float *ln2_weight, *ln2_bias;  /* [d_model] */
    const float *qkv_bias;               /* [3 d_model] */
    const float *dense_bias, *down_bias; /* [d_model] */
    const float *up_bias;                /* [d_ffn] */
} cf_cpu_layer;

/*
 * How far apart the rows of n values are in what the BLAS reads and writes: an odd number of cache
 * lines, since rows a power of two apart fall into the same few sets of a cache.
 */
static inline size_t cf_cpu_stride(size_t n)
{
    return ((n + 15) / 16 | 1) * 16;
}

struct cf_backend_model {
    const cf_neox *neox;
    const cf_kernels *kernels;
    cf_cpu_layer *layers; /* [n_layers] */
    const float *final_ln_weight, *final_ln_bias;
    float *vectors;             /* all of them */
    float *inverse_frequencies; /* [d_rotary / 2] */
    bool has_tiles;             /* the process was granted them */
    char text[256];
};

struct cf_backend_session {
    cf_team team;
    atomic_bool failed; /* the BLAS ran out of memory */
    const cf_backend_model *model;
    const cf_kernels *kernels;
    cf_backend_options options;
    float *residual; /* [n_chunk][d_model] */
    float *normed;   /* [n_chunk][d_model] */
    float *normed2;  /* [n_chunk][d_model] */
    float *qkv;      /* [n_chunk][3 d_model] */
    float *attended; /* [n_chunk][d_model] */
    float *ffn;      /* [n_chunk][d_ffn], or inner: [d_ffn][stride of n] */
    float *cos_sin;  /* [n_chunk][2][d_rotary / 2] */
    float *scores;   /* [n_threads][score_stride] */
    size_t score_stride;
    float *
        transposed; /* inputs of the products at hand, [columns][stride of n] one after the other */
    float *parts;   /* the same as tiles of parts, where the process has tiles */
    float *panels;  /* [n_threads][CF_CPU_PANEL_ROWS][CF_CPU_PANEL_COLUMNS]: widened weights */
    float *products; /* [n_threads][CF_CPU_PANEL_ROWS][stride of n_chunk] */
    float *blocks;   /* [n_threads][cf_cpu_block_floats()]: attention of many tokens */
    void *keys;      /* [n_layers][n_heads][n_context][d_head] of kv_dtype */
    void *values;    /* the same */
    size_t kv_bytes; /* of each of the two */
};

/* Processors that this process may use: affinity and the control group's quota. At least 1. */
int32_t cf_cpu_count(void);

/* Memory that this process can still get without others suffering; UINT64_MAX if unknown. */
uint64_t cf_cpu_available_bytes(void);

/*
 * One term of a sum of matrix products: input weightᵀ + bias. An `inner` input or output is left in
 * the order that suits the products, [columns][cf_cpu_stride(n)] or [n][columns]: only another
 * product of the same n, which says so too, can read it.
 */
typedef struct cf_term {
    const float *input; /* [n][columns of weight] */
    const cf_tensor *weight;
    const float *bias; /* [rows of weight], or NULL */
    bool input_inner;
} cf_term;

/*
 * output = Σ terms, then the activation if `activated`; or output += Σ terms if `add`, which
 * neither goes with `activated` nor with an inner output. All weights have the same number of rows.
 */
typedef struct cf_linear {
    float *output; /* [n][rows] */
    size_t n_terms;
    cf_term terms[2];
    bool add, activated, output_inner;
} cf_linear;

/* This worker's share of `n_linears` independent products for n tokens. */
void cf_cpu_linear(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                   size_t n_linears, size_t n);

/*
 * This worker's share of rotary embedding, KV cache writes and attention of one layer, n tokens
 * from position pos: qkv → attended.
 */
void cf_cpu_attention(cf_backend_session *session, cf_worker worker, size_t layer, size_t n,
                      size_t pos);

/* Floats of one worker's work space for attention of many tokens. */
size_t cf_cpu_block_floats(const cf_shape *shape);

/* The functions of the seam, which says what they do. */
cf_status cf_cpu_model_create(const cf_neox *neox, const cf_model_options *options,
                              cf_backend_model **model, const char **text, cf_error *error);
void cf_cpu_model_free(cf_backend_model *model);
void cf_cpu_session_defaults(const cf_backend_model *model, cf_backend_options *options);
cf_status cf_cpu_session_measure(const cf_backend_model *model, const cf_backend_options *options,
                                 cf_session_memory *memory, cf_error *error);
cf_status cf_cpu_session_create(const cf_backend_model *model, const cf_backend_options *options,
                                cf_backend_session **session, cf_error *error);
void cf_cpu_session_free(cf_backend_session *session);
cf_status cf_cpu_step(cf_backend_session *session, const cf_step *step, cf_error *error);
cf_status cf_cpu_measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                         cf_ceilings *ceilings, cf_error *error);

/* Elements of a uint16_t that one term's input takes as tiles of parts, for each of its columns. */
static inline size_t cf_cpu_parts_per_column(size_t n)
{
    return CF_TILE_PARTS * CF_TILE_ROWS * ((n + CF_TILE_ROWS - 1) / CF_TILE_ROWS);
}

/* Makes a session use the kernels of `isa`: for tests and measurements. */
void cf_cpu_force_kernels(cf_backend_session *session, const cf_kernels *kernels);

#endif
