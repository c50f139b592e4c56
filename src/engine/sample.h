/* Choosing a token from logits, as cf_sampling of the header says. */
#ifndef CF_ENGINE_SAMPLE_H
#define CF_ENGINE_SAMPLE_H

#include "engine/candidates.h"

typedef struct cf_sampler {
    cf_sampling options; /* with its own copy of the bias */
    size_t n_vocab;
    cf_candidates candidates; /* room for n_vocab; NULLs when greedy on the raw logits */
    /* What penalties need; NULLs without them. */
    uint32_t *counts; /* [n_vocab]: how often each was generated */
    uint8_t *is_seen; /* [n_vocab]: in prompt or generation */
    cf_token *seen;   /* [n_seen]: each once */
    size_t n_seen;
} cf_sampler;

/*
 * Checks the options and reserves all that choosing needs. `may_ban` says that cf_sampler_choose()
 * will be given banned tokens. Errors: INVALID_ARGUMENT, UNSUPPORTED, OUT_OF_MEMORY; then nothing
 * is to be freed. cf_sampler_free() takes a zeroed one, too.
 */
cf_status cf_sampler_create(const cf_sampling *options, int32_t n_vocab, bool may_ban,
                            cf_sampler *sampler, cf_error *error);
void cf_sampler_free(cf_sampler *sampler);

/* Counts a token of the prompt or of the generation. */
void cf_sampler_see(cf_sampler *sampler, cf_token id, bool is_generated);

/*
 * Chooses from finite `logits` the token at `index` of the generation; never a banned one. Errors:
 * INVALID_ARGUMENT if bias and bans leave none. Allocates nothing.
 */
cf_status cf_sampler_choose(cf_sampler *sampler, const float *logits, const cf_token *banned,
                            size_t n_banned, size_t index, cf_token *token, cf_error *error);

#endif
