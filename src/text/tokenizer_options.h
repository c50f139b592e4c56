/* The parts of tokenizer.json that say how its tokens are used. */
#ifndef CF_TEXT_TOKENIZER_OPTIONS_H
#define CF_TEXT_TOKENIZER_OPTIONS_H

#include "text/tokenizer.h"

/*
 * Sets the tokenizer's options, or refuses those that would change its ids and are not understood.
 * Truncation and padding are left to the caller, as the reference's clients do. Errors: BAD_FILE,
 * UNSUPPORTED, each naming `path` and the option.
 */
cf_status cf_tokenizer_read_options(cf_tokenizer *tokenizer, const json_t *root, const char *path,
                                    cf_error *error);

#endif
