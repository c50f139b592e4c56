#include "engine/arguments.h"

#include <string.h>

/* No option struct will ever be larger; what is, was never initialised. */
#define MAX_OPTION_BYTES 4096

cf_status cf_options_read(const void *from, void *to, size_t n_bytes, const char *name,
                          cf_error *error)
{
    memset(to, 0, n_bytes);
    if (from == NULL)
        return CF_STATUS_OK;
    size_t size;
    memcpy(&size, from, sizeof size);
    if (size < sizeof size || size > MAX_OPTION_BYTES)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "%s: size is %zu, expected sizeof the struct, %zu", name, size, n_bytes);
    for (size_t i = n_bytes; i < size; i++)
        if (((const unsigned char *)from)[i] != 0)
            return cf_fail(error, CF_STATUS_UNSUPPORTED,
                           "%s: a field beyond byte %zu is set, which version %s does not know",
                           name, n_bytes, cf_version());
    memcpy(to, from, size < n_bytes ? size : n_bytes);
    return CF_STATUS_OK;
}

cf_status cf_check_integer(const char *name, int64_t value, int64_t low, int64_t high,
                           cf_error *error)
{
    if (value >= low && value <= high)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "%s is %lld, expected %lld to %lld", name,
                   (long long)value, (long long)low, (long long)high);
}

cf_status cf_check_real(const char *name, float value, float low, float high, cf_error *error)
{
    if (value >= low && value <= high)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "%s is %g, expected %g to %g", name,
                   (double)value, (double)low, (double)high);
}

cf_status cf_check_ids(const char *name, const cf_token *ids, size_t n, int32_t n_vocab,
                       cf_error *error)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                           "%s: token %zu has id %d, the vocabulary has 0 to %d", name, i, ids[i],
                           n_vocab - 1);
    return CF_STATUS_OK;
}
