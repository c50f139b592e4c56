/*
 * The kernels that a prompt's tokens go through between matrix products, as the host calls them.
 * Launches are asynchronous; errors are the runtime's. "16-bit" is the format of the model's
 * weights, F16 or BF16: what goes into a product and comes out of it. Rows are tokens.
 */
#ifndef CF_CUDA_KERNEL_PROMPT_H
#define CF_CUDA_KERNEL_PROMPT_H

#include "backend/cuda/stage/token.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where a step is in its session, in device memory: a recorded sequence of launches serves many. */
typedef struct cf_prompt_span {
    int32_t n, pos; /* tokens, the first one's position */
} cf_prompt_span;

/* The residual's rows begin as the embedding's. */
typedef struct cf_prompt_embed {
    const cf_token *ids; /* [n] on the device */
    const void *embed;   /* [n_vocab][d_model] 16-bit */
    float *residual;     /* [n][d_model] */
    int32_t n, d_model;
} cf_prompt_embed;

cudaError_t cf_prompt_gather(const cf_prompt_embed *args, cf_dtype weights, cudaStream_t stream);

/* A LayerNorm's weights and bias, and where its output goes; `to` NULL: nowhere. */
typedef struct cf_prompt_norm_output {
    const void *weights; /* [d_model] float16 */
    const float *biases; /* [d_model] */
    void *to;            /* [n][d_model] 16-bit */
} cf_prompt_norm_output;

/* Up to two LayerNorms of the same rows in one pass, after what is still to be added to them. */
typedef struct cf_prompt_norm {
    float *residual;     /* [n][d_model] */
    const float *added;  /* [n][d_model], or NULL: to the residual, in its place */
    const float *biases; /* [d_model], or NULL: to what is read, not to the residual */
    cf_prompt_norm_output outputs[2];
    float *settled; /* [n][d_model] what is normalised, or NULL */
    float *hidden;  /* [n][d_model] float32 of outputs[0], or NULL */
    int32_t n, d_model;
    float eps;
} cf_prompt_norm;

cudaError_t cf_prompt_normalise(const cf_prompt_norm *args, cf_dtype weights, cudaStream_t stream);

/*
 * Adds biases, rotates q and k, and puts q aside and k and v into the KV cache, all float16: of the
 * rows of qkv, those of the span's tokens.
 */
typedef struct cf_prompt_split {
    const void *qkv;         /* [n][n_heads][q, k, v][d_head] 16-bit */
    const float *biases;     /* [3 d_model], or NULL */
    const float *rotation;   /* [n_context][d_rotary / 2][cosine, sine] */
    uint16_t *queries;       /* [n][n_heads][d_head] */
    uint16_t *keys, *values; /* [n_heads][n_context][d_head] of one layer */
    const cf_prompt_span *span;
    int32_t n_rows; /* a multiple of 4 */
    int32_t n_heads, d_head, d_rotary, n_context;
} cf_prompt_split;

cudaError_t cf_prompt_append(const cf_prompt_split *args, cf_dtype weights, cudaStream_t stream);

/* ffn = activation(ffn + biases) */
typedef struct cf_prompt_activation {
    void *ffn;           /* [n][d_ffn] 16-bit */
    const float *biases; /* [d_ffn] */
    int32_t n, d_ffn;    /* n: a multiple of 4 */
    cf_activation activation;
} cf_prompt_activation;

cudaError_t cf_prompt_activate(const cf_prompt_activation *args, cf_dtype weights,
                               cudaStream_t stream);

/* Causal attention of the span's queries, at positions pos … pos + n - 1, to the cache's 0 …. */
typedef struct cf_prompt_attention {
    uint16_t *mixed;               /* [n][n_heads][d_head] queries; then what they found, 16-bit */
    const uint16_t *keys, *values; /* [n_heads][n_context][d_head] float16 of one layer */
    const cf_prompt_span *span;
    int32_t n_rows; /* at least the span's tokens */
    int32_t n_heads, n_context;
    cf_dtype weights; /* the format of what they found */
} cf_prompt_attention;

/* By head width. A block takes 64 to 256 queries, as suits the GPU's limits. */
cudaError_t cf_prompt_attend_32(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                cudaStream_t stream);
cudaError_t cf_prompt_attend_64(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                cudaStream_t stream);
cudaError_t cf_prompt_attend_80(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                cudaStream_t stream);
cudaError_t cf_prompt_attend_96(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                cudaStream_t stream);
cudaError_t cf_prompt_attend_128(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                 cudaStream_t stream);
cudaError_t cf_prompt_attend_256(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                 cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
