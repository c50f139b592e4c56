/* A tokenizer in memory; what its file says, checked. */
#ifndef CF_TEXT_TOKENIZER_H
#define CF_TEXT_TOKENIZER_H

#include "text/added.h"
#include "text/bpe.h"

#include <jansson.h>

typedef struct cf_token_entry {
    size_t offset; /* of its bytes in `bytes` */
    size_t n_bytes;
    bool present; /* false: an id without text */
    bool added;
    bool special;
    bool spelled; /* in the byte-level alphabet throughout */
} cf_token_entry;

struct cf_tokenizer {
    cf_token_entry *entries; /* [n_vocab] */
    size_t n_vocab;
    char *bytes;          /* of all tokens, a zero byte behind each */
    size_t longest_bytes; /* of the longest token */
    cf_bpe bpe;
    cf_token *by_bytes; /* [n_by_bytes]: vocabulary ids in the order of their bytes */
    size_t n_by_bytes;
    cf_added raw_tokens;        /* found in the text as it comes */
    cf_added normalized_tokens; /* found in the normalized text */
    bool normalize;             /* to Normalization Form C */
    bool split_words;           /* by GPT-2's rule */
    bool ignore_merges;         /* a word that is a token is that token */
};

/*
 * Fills a zeroed tokenizer from the parsed tokenizer.json; `path` begins the errors' messages. On
 * failure the caller closes what is there. Errors: BAD_FILE, UNSUPPORTED, OUT_OF_MEMORY.
 */
cf_status cf_tokenizer_load(cf_tokenizer *tokenizer, const json_t *root, const char *path,
                            cf_error *error);

/* The vocabulary's token of exactly these bytes; -1: none. Added tokens are not looked at. */
cf_token cf_tokenizer_find_bytes(const cf_tokenizer *tokenizer, const char *bytes, size_t n_bytes);

#endif
