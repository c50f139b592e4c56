/* Bytes that grow at their end: bodies as they come in, answers as they are written. */
#ifndef CF_SERVE_SINK_H
#define CF_SERVE_SINK_H

#include "clusterfusion.h"

/* Zeroed: empty. When memory is missing it stays as it is and says so in `is_short`. */
typedef struct cf_sink {
    char *data;
    size_t n, capacity;
    bool is_short; /* something that was to be appended is not there */
} cf_sink;

void cf_sink_append(cf_sink *sink, const void *data, size_t n_bytes);
void cf_sink_text(cf_sink *sink, const char *text);
__attribute__((format(printf, 2, 3))) void cf_sink_format(cf_sink *sink, const char *format, ...);

/* Takes a zeroed one too, and leaves a zeroed one. */
void cf_sink_free(cf_sink *sink);

/* Characters (Unicode code points) of text that is UTF-8. */
size_t cf_text_characters(const char *text, size_t n_bytes);

/* Whether these bytes are whole characters of UTF-8. */
bool cf_text_is_utf8(const char *text, size_t n_bytes);

#endif
