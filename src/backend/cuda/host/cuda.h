/* What the files of the CUDA backend's host side share. */
#ifndef CF_CUDA_HOST_CUDA_H
#define CF_CUDA_HOST_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/host/device.h"
#include "backend/cuda/host/prompt.h"
#include "backend/cuda/kernel/kernels.h"

/* Tokens that one launch evaluates at most, so that it stays well below a second. */
enum { CF_MAX_LAUNCH = 256 };

struct cf_backend_model {
    const cf_neox *neox;
    cf_cuda_device device;
    cf_schedule schedule;
    cf_dtype weights;     /* of all matrices: F16 or BF16 */
    cf_cuda_grid grid;    /* the kernel of this head width and these weights */
    cf_cuda_arena arena;  /* what is not used in place */
    cf_token_model token; /* addresses in it */
    double *frequencies;  /* [d_rotary / 2] */
    cf_blaslt *blaslt;    /* NULL: prompts go token by token */
    cf_prompt_layer prompt_layers[CF_SCHEDULE_MAX_LAYERS + 1]; /* and the final LayerNorm */
    char text[384];
};

/* In the host's memory, where the GPU reads and writes it while a launch runs. */
typedef struct cf_mailbox {
    uint32_t wish; /* not 0: the launch is to end */
    uint64_t results[CF_MAX_LAUNCH];
} cf_mailbox;

struct cf_backend_session {
    const cf_backend_model *model;
    cf_backend_options options;
    cudaStream_t stream;
    cf_cuda_arena arena;
    cf_token_args args;     /* of the next launch */
    float *staging;         /* [n_vocab] pinned: a copy to it does not stop the stream */
    cf_token *tokens;       /* [CF_MAX_LAUNCH] on the device: those of the next launch */
    uint32_t *seen;         /* [n_vocab] on the device: see cf_token_choice */
    uint32_t *seen_staging; /* [n_vocab] pinned */
    cf_mailbox *mailbox;
    cf_prompt *prompt; /* for steps of many tokens, or NULL */
    size_t n_launched; /* tokens of the launch that decodes, 0: none does */
    size_t n_read;     /* of these */
    bool dead;         /* the device failed: nothing more can be evaluated */
};

cf_status cf_cuda_model_create(const cf_neox *neox, const cf_model_options *options,
                               cf_backend_model **model, const char **text, cf_error *error);
void cf_cuda_model_free(cf_backend_model *model);

void cf_cuda_session_defaults(const cf_backend_model *model, cf_backend_options *options);
cf_status cf_cuda_session_measure(const cf_backend_model *model, const cf_backend_options *options,
                                  cf_session_memory *memory, cf_error *error);
cf_status cf_cuda_session_create(const cf_backend_model *model, const cf_backend_options *options,
                                 cf_backend_session **session, cf_error *error);
void cf_cuda_session_free(cf_backend_session *session);

/*
 * Puts a launch of n ≤ CF_MAX_LAUNCH tokens into the session's stream; the logits are those of the
 * last one, if any. Hidden states need n = 1.
 */
cf_status cf_cuda_launch(cf_backend_session *session, const cf_token *tokens, size_t n, size_t pos,
                         bool want_logits, bool want_hidden, cf_error *error);

/* The same for a launch that chooses its tokens but the first, by session->args.choice. */
cf_status cf_cuda_launch_choice(cf_backend_session *session, cf_token token, size_t n, size_t pos,
                                cf_error *error);

/* Counts tokens that a launch has evaluated, without which the next one would wait in vain. */
void cf_cuda_count_tokens(cf_backend_session *session, size_t n);

/* Copies the last logits to the host, after all that is in the stream. */
cf_status cf_cuda_fetch_logits(cf_backend_session *session, float *logits, cf_error *error);

/* DEVICE when the session is dead. */
cf_status cf_cuda_check(const cf_backend_session *session, cf_error *error);

size_t cf_cuda_decode_limit(const cf_backend_session *session, const cf_decode *decode);
cf_status cf_cuda_decode_begin(cf_backend_session *session, const cf_decode *decode,
                               cf_error *error);
cf_status cf_cuda_decode_next(cf_backend_session *session, cf_decoded *decoded, cf_error *error);
cf_status cf_cuda_decode_end(cf_backend_session *session, cf_error *error);
cf_status cf_cuda_decode_logits(cf_backend_session *session, float *logits, cf_error *error);

cf_status cf_cuda_step(cf_backend_session *session, const cf_step *step, cf_error *error);

cf_status cf_cuda_measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                          cf_ceilings *ceilings, cf_error *error);

cf_status cf_cuda_trace(cf_backend_session *session, cf_token token, size_t pos, cf_span_fn span,
                        void *user, cf_error *error);

#endif
