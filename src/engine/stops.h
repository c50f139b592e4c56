/* Finding stop strings in text that comes in pieces, and holding back what may become one. */
#ifndef CF_ENGINE_STOPS_H
#define CF_ENGINE_STOPS_H

#include "clusterfusion.h"

typedef struct cf_stop {
    char *text;
    size_t *borders; /* [n + 1]: of text[0 … i), the length of its longest border */
    size_t n;
    size_t matched; /* bytes of it that the text now ends with */
} cf_stop;

typedef struct cf_stops {
    size_t n;
    cf_stop *stops; /* [n] */
    char *text;     /* [capacity]: what was given out last, then what is held back */
    size_t n_given;
    size_t n_held;
    size_t capacity;
} cf_stops;

/*
 * Copies the strings. `most_bytes` is the longest piece that will be pushed. Errors:
 * INVALID_ARGUMENT (an empty string, or no UTF-8), OUT_OF_MEMORY; then nothing is to be freed.
 */
cf_status cf_stops_create(const char *const *texts, size_t n, size_t most_bytes, cf_stops *stops,
                          cf_error *error);
void cf_stops_free(cf_stops *stops);

/*
 * Adds a piece, whole characters. `text` becomes what is certain, valid until the next call: all
 * that is no beginning of a stop string, or all before the stop string. Of several, the one counts
 * that ends first, of those that end together the longest, so that the result does not depend on
 * how the text is cut into pieces. Returns whether one was found; with `pass` none ends the text.
 */
bool cf_stops_push(cf_stops *stops, const char *piece, size_t n_bytes, bool pass, const char **text,
                   size_t *n_text);

/* The last piece: nothing is held back any more. */
bool cf_stops_finish(cf_stops *stops, const char *piece, size_t n_bytes, bool pass,
                     const char **text, size_t *n_text);

#endif
