/* Steps of many tokens: matrix products by cuBLASLt and the kernels of kernel/prompt.h. */
#ifndef CF_CUDA_HOST_PROMPT_H
#define CF_CUDA_HOST_PROMPT_H

#include "backend/backend.h"
#include "backend/cuda/host/blaslt.h"
#include "backend/cuda/kernel/prompt.h"

enum {
    CF_PROMPT_LOGITS_ROWS = 32, /* tokens whose logits are on their way at a time */
    CF_PROMPT_N_GRAPHS = 32,
};

/*
 * What is added in a layer, in the order of rows, unfolded, on the device. Biases of what goes to
 * the residual are not added to it: whoever reads it adds the sum of them all.
 */
typedef struct cf_prompt_layer {
    const float *qkv, *up;  /* biases, or NULL */
    const float *before[2]; /* [d_model], or NULL: the residual's, when a LayerNorm reads it */
    const float *shifts[2]; /* [d_model]: the LayerNorms' biases */
} cf_prompt_layer;

/* A step as the device gets it. */
typedef struct cf_prompt_request {
    cf_prompt_span all, wanted; /* the latter of the last layer's output */
    cf_token ids[];
} cf_prompt_request;

/* A step's launches up to the last layer's, for one number of rows; recorded when it comes again.
 */
typedef struct cf_prompt_graph {
    size_t n_rows;   /* 0: none */
    bool is_trimmed; /* the last layer is not in it */
    uint64_t n_uses;
    cudaGraphExec_t recorded;
} cf_prompt_graph;

/* A session's work space for them. Rows are tokens; all but the logits has room for a chunk. */
typedef struct cf_prompt {
    cf_product_plans plans;
    cf_cuda_arena arena;
    cudaStream_t side; /* the MLP, and logits on their way: beside the session's own stream */
    cudaEvent_t fork, join, copied[2];
    cf_workspace workspaces[2];    /* of the session's stream and of the other */
    cf_prompt_request *request[2]; /* on the device, and pinned */
    float *residual;               /* [n][d_model] */
    float *mixed;                  /* [n][d_model]: what attention adds to it, in place of qkv */
    void *normed[2];               /* [n][d_model] 16-bit; the first becomes q, then attention */
    void *qkv;                     /* [n][3 d_model] 16-bit */
    void *ffn;                     /* [n][d_ffn] 16-bit */
    float *logits[2], *staging[2]; /* [CF_PROMPT_LOGITS_ROWS][n_vocab]; the latter pinned */
    cf_prompt_graph graphs[CF_PROMPT_N_GRAPHS];
    int next_graph;
} cf_prompt;

/* Tokens of a step that are worth it; fewer go through the token kernel. */
size_t cf_prompt_least(const cf_backend_model *model);

/* Bytes on the device for steps of up to `n_chunk` tokens. */
size_t cf_prompt_measure(const cf_backend_model *model, size_t n_chunk);
cf_status cf_prompt_create(const cf_backend_model *model, size_t n_chunk, cf_prompt **prompt,
                           cf_error *error);
void cf_prompt_free(cf_prompt *prompt);

/* Evaluates a step of at most the chunk it was made for, and waits for it. */
cf_status cf_prompt_step(cf_backend_session *session, const cf_step *step, cf_error *error);

/*
 * Tokens that a product is computed for, of `n`: few different sizes, each asked for once, are
 * cheaper than exact ones. What is in the rows beyond n, nobody reads.
 */
size_t cf_prompt_rows(size_t n);

/* Puts a step's launches into a session's stream. */
typedef cf_status (*cf_prompt_launches)(const void *user, cf_error *error);

/* Has `launches` done, by itself or, if it was before, as it was recorded. */
cf_status cf_prompt_replay(cf_prompt *prompt, size_t n_rows, bool is_trimmed,
                           cf_prompt_launches launches, const void *user, cudaStream_t stream,
                           cf_error *error);
void cf_prompt_forget(cf_prompt *prompt);

#endif
