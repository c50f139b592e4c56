#include "base/memory.h"

#include "base/status.h"

#include <stdlib.h>
#include <string.h>

cf_status cf_alloc(void **memory, size_t count, size_t n_bytes, const char *what, cf_error *error)
{
    *memory = NULL;
    size_t total, rounded;
    if (__builtin_mul_overflow(count, n_bytes, &total) ||
        __builtin_add_overflow(total, (size_t)CF_ALIGNMENT, &rounded))
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%s: %zu times %zu bytes", what, count,
                       n_bytes);
    rounded -= rounded % CF_ALIGNMENT;
    *memory = aligned_alloc(CF_ALIGNMENT, rounded);
    if (*memory == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%s: %zu bytes", what, total);
    memset(*memory, 0, rounded);
    return CF_STATUS_OK;
}

void cf_dealloc(void *memory)
{
    free(memory);
}
