#include "text/buffer.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

cf_status cf_buffer_reserve(cf_buffer *buffer, size_t n_bytes, const char *what, cf_error *error)
{
    if (n_bytes <= buffer->capacity)
        return CF_STATUS_OK;
    size_t capacity = buffer->capacity > SIZE_MAX / 2 ? SIZE_MAX : buffer->capacity * 2;
    if (capacity < n_bytes)
        capacity = n_bytes;
    void *data = realloc(buffer->data, capacity);
    if (data == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%s: %zu bytes", what, capacity);
    buffer->data = data;
    buffer->capacity = capacity;
    return CF_STATUS_OK;
}

cf_status cf_buffer_append(cf_buffer *buffer, const void *data, size_t n_bytes, const char *what,
                           cf_error *error)
{
    size_t total;
    if (__builtin_add_overflow(buffer->n_bytes, n_bytes, &total))
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%s: more than %zu bytes", what, SIZE_MAX);
    CF_TRY(cf_buffer_reserve(buffer, total, what, error));
    if (n_bytes > 0)
        memcpy((char *)buffer->data + buffer->n_bytes, data, n_bytes);
    buffer->n_bytes = total;
    return CF_STATUS_OK;
}

void cf_buffer_free(cf_buffer *buffer)
{
    free(buffer->data);
    *buffer = (cf_buffer){0};
}
