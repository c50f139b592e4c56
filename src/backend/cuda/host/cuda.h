/* What the files of the CUDA backend's host side share. */
#ifndef CF_CUDA_HOST_CUDA_H
#define CF_CUDA_HOST_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/host/device.h"
#include "backend/cuda/host/prompt.h"
#include "backend/cuda/kernel/kernels.h"

struct cf_backend_model {
    const cf_neox *neox;
    cf_cuda_device device;
    cf_schedule schedule;
    cf_dtype weights;     /* of all matrices: F16 or BF16 */
    const void *kernel;   /* of this head width and these weights */
    bool has_bulk_copies; /* the kernel's code: else cp.async */
    cf_cuda_arena arena;  /* what is not used in place */
    cf_token_model token; /* addresses in it */
    double *frequencies;  /* [d_rotary / 2] */
    cf_blaslt *blaslt;    /* NULL: prompts go token by token */
    cf_prompt_layer prompt_layers[CF_SCHEDULE_MAX_LAYERS];
    char text[384];
};

struct cf_backend_session {
    const cf_backend_model *model;
    cf_backend_options options;
    cudaStream_t stream;
    cf_cuda_arena arena;
    cf_token_args args; /* of the next launch */
    float *staging;     /* [n_vocab] pinned: a copy to it does not stop the stream */
    cf_token *tokens;   /* [CF_MAX_LAUNCH] on the device: those of the next launch */
    cf_prompt *prompt;  /* for steps of many tokens, or NULL */
    bool dead;          /* the device failed: nothing more can be evaluated */
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

/* Tokens that one launch evaluates at most, so that it stays well below a second. */
enum { CF_MAX_LAUNCH = 256 };

/*
 * Puts a launch of n ≤ CF_MAX_LAUNCH tokens into the session's stream; the logits are those of the
 * last one, if any. Hidden states need n = 1.
 */
cf_status cf_cuda_launch(cf_backend_session *session, const cf_token *tokens, size_t n, size_t pos,
                         bool want_logits, bool want_hidden, cf_error *error);

cf_status cf_cuda_step(cf_backend_session *session, const cf_step *step, cf_error *error);

cf_status cf_cuda_measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                          cf_ceilings *ceilings, cf_error *error);

cf_status cf_cuda_trace(cf_backend_session *session, cf_token token, size_t pos, cf_span_fn span,
                        void *user, cf_error *error);

#endif
