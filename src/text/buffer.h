/* Memory that grows with what is put into it. */
#ifndef CF_TEXT_BUFFER_H
#define CF_TEXT_BUFFER_H

#include "clusterfusion.h"

/* Zeroed: empty. */
typedef struct cf_buffer {
    void *data;
    size_t n_bytes;  /* in use */
    size_t capacity; /* bytes */
} cf_buffer;

/* Makes room for `n_bytes` in all; the bytes in use are kept. OUT_OF_MEMORY names `what`. */
cf_status cf_buffer_reserve(cf_buffer *buffer, size_t n_bytes, const char *what, cf_error *error);

cf_status cf_buffer_append(cf_buffer *buffer, const void *data, size_t n_bytes, const char *what,
                           cf_error *error);

void cf_buffer_free(cf_buffer *buffer);

#endif
