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

typedef struct cf_token_slot {
    uint32_t tag;      /* the upper half of the hash */
    uint32_t id_and_1; /* 0: free */
} cf_token_slot;

struct cf_tokenizer {
    cf_token_entry *entries; /* [n_vocab] */
    size_t n_vocab;
    char *bytes;          /* of all tokens, a zero byte behind each */
    size_t longest_bytes; /* of the longest token */
    cf_bpe bpe;
    cf_token_slot *slots; /* [n_slots]: hash table of the vocabulary's tokens by their bytes */
    size_t n_slots;       /* a power of two */
    uint64_t hash_seed;
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

/*
 * Makes the table that cf_tokenizer_find_bytes() looks into, of all entries that are there and
 * spelled in the byte-level alphabet. Errors: OUT_OF_MEMORY.
 */
cf_status cf_tokenizer_index(cf_tokenizer *tokenizer, cf_error *error);

/* The indexed token of exactly these bytes; -1: none. */
cf_token cf_tokenizer_find_bytes(const cf_tokenizer *tokenizer, const char *bytes, size_t n_bytes);

#endif
