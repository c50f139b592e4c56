/*
 * The seam between what a model is and how it is computed.
 *
 * A backend takes a bound model and evaluates steps: n ≥ 1 tokens of a session in, logits out. A
 * step is the unit because one launch may hold the whole model; there is no operator below it that
 * all backends share.
 */
#ifndef CF_BACKEND_BACKEND_H
#define CF_BACKEND_BACKEND_H

#include "clusterfusion.h"
#include "model/neox.h"

/* Each backend's own types; only that backend sees inside. */
typedef struct cf_backend_model cf_backend_model;
typedef struct cf_backend_session cf_backend_session;

/*
 * One evaluation. The caller has checked it: 1 ≤ n ≤ n_chunk, pos + n ≤ n_context, ids inside the
 * vocabulary, n_logits ≤ n. Keys and values of positions pos … pos + n - 1 are written; those
 * before pos are what earlier steps wrote; those beyond are never read.
 */
typedef struct cf_step {
    const cf_token *ids; /* [n] */
    size_t n;
    size_t pos;    /* position of ids[0]: the number of tokens in the KV cache before it */
    float *logits; /* [n_logits][n_vocab] of the last n_logits tokens, or NULL */
    size_t n_logits;
    float *hidden; /* [n_layers + 1][hidden_rows][d_model]: rows hidden_row … of each, or NULL */
    size_t hidden_rows;
    size_t hidden_row;
} cf_step;

/*
 * Tokens that a backend chooses by itself, one after the other, each evaluated to choose the next.
 * The caller has checked it: pos + n ≤ n_context, ids inside the vocabulary.
 */
typedef struct cf_decode {
    cf_token token;              /* evaluated first */
    size_t pos;                  /* its position */
    size_t n;                    /* tokens to choose, at most what decode_limit() says */
    size_t index;                /* of the first of them in the generation: counts random numbers */
    const cf_sampling *sampling; /* with every default filled in */
    const cf_token *ends;        /* [n_ends]: after one of these no more are chosen */
    size_t n_ends;
    size_t min_tokens;    /* of the generation, before which none of `ends` is chosen */
    const cf_token *seen; /* [n_seen]: each token of prompt and generation once; for penalties */
    size_t n_seen;
    const uint32_t *counts; /* [n_vocab]: how often each was generated */
} cf_decode;

typedef struct cf_decoded {
    cf_token id;   /* -1: the logits are not finite numbers */
    float logprob; /* of the raw logits */
} cf_decoded;

/* A session's options with every default filled in, within their bounds. */
typedef struct cf_backend_options {
    size_t n_context;
    size_t n_chunk; /* the largest step */
    int32_t n_threads;
    cf_dtype kv_dtype;
} cf_backend_options;

typedef struct cf_backend_interface {
    cf_backend id;

    /* Whether it can run on this machine: OK, NO_DEVICE, UNSUPPORTED. */
    cf_status (*check)(cf_error *error);

    /*
     * Prepares `neox`, which outlives it, for evaluation. `text` is one line for people: what will
     * run on this machine; valid as long as the model.
     */
    cf_status (*model_create)(const cf_neox *neox, const cf_model_options *options,
                              cf_backend_model **model, const char **text, cf_error *error);
    void (*model_free)(cf_backend_model *model);

    /* Fills in the zero fields of `options`: n_threads, n_chunk, kv_dtype. */
    void (*session_defaults)(const cf_backend_model *model, cf_backend_options *options);
    cf_status (*session_measure)(const cf_backend_model *model, const cf_backend_options *options,
                                 cf_session_memory *memory, cf_error *error);
    cf_status (*session_create)(const cf_backend_model *model, const cf_backend_options *options,
                                cf_backend_session **session, cf_error *error);
    void (*session_free)(cf_backend_session *session);

    /* Allocates nothing. After an error the KV cache before pos is as it was, unless DEVICE. */
    cf_status (*step)(cf_backend_session *session, const cf_step *step, cf_error *error);

    /* cf_model_measure() of the header. */
    cf_status (*measure)(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                         cf_ceilings *ceilings, cf_error *error);

    /* cf_session_trace() of the header, for the position `pos`; NULL: there is no clock. */
    cf_status (*trace)(cf_backend_session *session, cf_token token, size_t pos, cf_span_fn span,
                       void *user, cf_error *error);
    /*
     * NULL, all of them, where a backend leaves choosing to its caller. decode_limit: how many
     * tokens it would choose in one go, a fraction of a second's worth; 0: not with these options.
     * begin returns at once; next waits for each of the n tokens in turn, while later ones are
     * being chosen; end makes an end of it, within a token or two, and must come before anything
     * else is asked of the session. Of the tokens chosen, each that was followed by another that
     * next gave, and `token`, are then in the KV cache. The same tokens as by n steps and the
     * engine's own choice, up to rounding; and the same bits for any n.
     */
    size_t (*decode_limit)(const cf_backend_session *session, const cf_decode *decode);
    cf_status (*decode_begin)(cf_backend_session *session, const cf_decode *decode,
                              cf_error *error);
    cf_status (*decode_next)(cf_backend_session *session, cf_decoded *decoded, cf_error *error);
    cf_status (*decode_end)(cf_backend_session *session, cf_error *error);
    /* After the end: the logits that the last token was chosen from, [n_vocab]. */
    cf_status (*decode_logits)(cf_backend_session *session, float *logits, cf_error *error);
} cf_backend_interface;

extern const cf_backend_interface cf_cpu_backend;

#ifdef CF_HAVE_CUDA
extern const cf_backend_interface cf_cuda_backend;
#endif

#endif
