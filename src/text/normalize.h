/* Normalization Form C, in time linear in the text whatever it holds. */
#ifndef CF_TEXT_NORMALIZE_H
#define CF_TEXT_NORMALIZE_H

#include "text/buffer.h"

/* Memory that is used again from text to text. Zeroed: empty. */
typedef struct cf_normalizer {
    cf_buffer text;   /* char: the result */
    cf_buffer codes;  /* int32_t: a segment, decomposed */
    cf_buffer sorted; /* int32_t: a run of marks in canonical order */
} cf_normalizer;

/*
 * `text` is valid UTF-8. The result is `text` itself where nothing changes, else memory of
 * `normalizer`, valid until its next use. Characters that Unicode gained after version 9 neither
 * move nor compose, as in the reference tokenizer. Errors: OUT_OF_MEMORY.
 */
cf_status cf_normalize(cf_normalizer *normalizer, const char *text, size_t n_bytes,
                       const char **normalized, size_t *n_normalized, cf_error *error);

void cf_normalizer_free(cf_normalizer *normalizer);

#endif
