/* Added tokens: strings that are tokens wherever they stand in a text. */
#ifndef CF_TEXT_ADDED_H
#define CF_TEXT_ADDED_H

#include "text/buffer.h"

/* Longer added tokens are refused: the cost of a search grows with the longest. */
#define CF_ADDED_MAX_BYTES 256

/* A set of strings as a tree of their bytes. Zeroed: empty. */
typedef struct cf_added {
    cf_buffer nodes;     /* added_node; node 0 is none */
    uint32_t roots[256]; /* node of each first byte, 0: none */
} cf_added;

/* Adds a string of 1 … CF_ADDED_MAX_BYTES bytes; the first of equal ones holds. */
cf_status cf_added_insert(cf_added *added, const char *text, size_t n_bytes, cf_token id,
                          cf_error *error);

/*
 * Finds the first token in `text` from *pos on, the longest of those that begin there. Returns its
 * length and moves *pos to it; 0 if there is none.
 */
size_t cf_added_find(const cf_added *added, const char *text, size_t n_bytes, size_t *pos,
                     cf_token *id);

void cf_added_free(cf_added *added);

#endif
