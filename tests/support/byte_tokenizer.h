/* A tokenizer for tests: id 0 is <|endoftext|>, id b + 1 the byte b, further ones are pieces. */
#ifndef CF_TESTS_BYTE_TOKENIZER_H
#define CF_TESTS_BYTE_TOKENIZER_H

#include "support/support.h"

#define BYTE_TOKENIZER_PIECES 257 /* the id of the first piece */

/* `pieces` [n_pieces] are texts of whole characters. Fails the test if it cannot be made. */
cf_tokenizer *byte_tokenizer_create(const char *const *pieces, size_t n_pieces);

#endif
