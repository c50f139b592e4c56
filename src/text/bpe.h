/* Byte-pair encoding: joining the bytes of a word into tokens, the earliest learnt merge first. */
#ifndef CF_TEXT_BPE_H
#define CF_TEXT_BPE_H

#include "text/buffer.h"

typedef struct cf_merge {
    cf_token left, right, result;
    uint32_t rank; /* lower merges first */
} cf_merge;

typedef struct cf_bpe {
    cf_token byte_tokens[256]; /* -1: no token */
    cf_merge *merges;          /* [n_merges], sorted by left, then right */
    size_t n_merges;
    uint32_t *first_merge; /* [n_ids + 1]: where the merges of each left token begin */
    size_t n_ids;
} cf_bpe;

/* Memory that is used again from word to word. Zeroed: empty. */
typedef struct cf_bpe_scratch {
    cf_buffer symbols;
    cf_buffer queue;
} cf_bpe_scratch;

/*
 * Takes over `merges` (of cf_alloc) also on failure, all their tokens in 0 … n_ids − 1; of several
 * merges of one pair the last holds, as in the reference. Errors: OUT_OF_MEMORY.
 */
cf_status cf_bpe_init(cf_bpe *bpe, cf_merge *merges, size_t n_merges, size_t n_ids,
                      cf_error *error);
void cf_bpe_free(cf_bpe *bpe);

/*
 * Joins the bytes of `word`. The tokens lie in *ids, memory of `scratch`, until its next use. Bytes
 * without a token are left out. Errors: OUT_OF_MEMORY. Cost: n log n for n bytes.
 */
cf_status cf_bpe_encode(const cf_bpe *bpe, cf_bpe_scratch *scratch, const char *word,
                        size_t n_bytes, const cf_token **ids, size_t *n_ids, cf_error *error);

void cf_bpe_scratch_free(cf_bpe_scratch *scratch);

#endif
