/* Log-probabilities in the form of OpenAI's completions. */
#ifndef CF_SERVE_LOGPROBS_H
#define CF_SERVE_LOGPROBS_H

#include "clusterfusion.h"

#include <jansson.h>

/* Zeroed: closed. */
typedef struct cf_logprobs {
    const cf_tokenizer *tokenizer; /* NULL: tokens are named by their ids */
    cf_decoder *decoder;
    size_t n_characters; /* of the text of the tokens so far */
    json_t *tokens, *token_logprobs, *top_logprobs, *text_offset;
} cf_logprobs;

bool cf_logprobs_open(cf_logprobs *logprobs, const cf_tokenizer *tokenizer);
void cf_logprobs_close(cf_logprobs *logprobs);

/*
 * Adds a token with its n_top alternatives, those of id -1 left out; a NaN for `logprob` stands for
 * none. The token itself is always among its alternatives.
 */
void cf_logprobs_add(cf_logprobs *logprobs, cf_token id, float logprob, const cf_alternative *top,
                     size_t n_top);

/* What was added since the last time, as one object; NULL when out of memory. */
json_t *cf_logprobs_take(cf_logprobs *logprobs);

/*
 * A token's name: its text; "bytes:\xNN…" where that is not whole characters; "token_id:N" where it
 * has none.
 */
json_t *cf_token_name(const cf_tokenizer *tokenizer, cf_token id);

#endif
