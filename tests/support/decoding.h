/* Generations whose tokens a GPU chooses by itself, for the tests of that. */
#ifndef CF_TESTS_DECODING_H
#define CF_TESTS_DECODING_H

#include "engine/sample.h"
#include "support/random_model.h"
#include "support/runner.h"

enum { DECODING_N_CONTEXT = 256, DECODING_N_PROMPT = 5, DECODING_N_HEADS = 12 };

/*
 * Log-probabilities are float32 of size 10 at most, 2^-21 apart; sums of a thousand exponentials of
 * relative error 2^-22 each, in trees of some ten levels, add less than 1e-6.
 */
#define LOGPROB_TOLERANCE 4e-6

/* A session after all of a prompt but its last token. */
typedef struct decoding {
    cf_shape shape;
    test_model model;
    test_runner gpu;
    cf_token prompt[DECODING_N_PROMPT];
    float *logits; /* [n_vocab] */
} decoding;

void decoding_set_up(decoding *self, int32_t n_vocab);

/* With all tokens from n_different on alike: the LM head's rows for them are 0. */
void decoding_set_up_ties(decoding *self, int32_t n_vocab, int32_t n_different);
void decoding_tear_down(decoding *self);

/* With a fixed seed, all else off. */
cf_sampling decoding_sampling(float temperature);

/* What the engine keeps of the tokens: options with defaults, counts of the prompt. */
void decoding_sampler(const decoding *self, const cf_sampling *sampling, cf_sampler *sampler);

/* The tokens that end a generation, once it has this many. */
typedef struct decoding_ends {
    const cf_token *ids;
    size_t n, min_tokens;
} decoding_ends;

#define NO_ENDS ((decoding_ends){0})

/* Decodes n tokens after the prompt, `each` a launch; stops at an end. Returns how many came. */
size_t decoding_run(decoding *self, cf_sampler *sampler, decoding_ends ends, size_t n, size_t each,
                    cf_decoded *found);

/* The logits after token i of a generation, by a single step; i = 0: after the prompt. */
void decoding_step_to(decoding *self, const cf_decoded *tokens, size_t i);

#endif
