/* Checking what callers hand over. */
#ifndef CF_ENGINE_ARGUMENTS_H
#define CF_ENGINE_ARGUMENTS_H

#include "base/status.h"
#include "clusterfusion.h"

/* Answers a NULL where a pointer is required. */
#define CF_NEED(pointer, error)                                                                    \
    do {                                                                                           \
        if ((pointer) == NULL) {                                                                   \
            cf_fail((error), CF_STATUS_INVALID_ARGUMENT, "%s is NULL", #pointer);                  \
            return CF_STATUS_INVALID_ARGUMENT;                                                     \
        }                                                                                          \
    } while (0)

/*
 * Copies the option struct `from`, which begins with its size, to `to` of `n_bytes`. The caller's
 * may be shorter, of an older header, or longer, of a newer one, as long as what is unknown here is
 * zero. NULL gives all zeros. Errors: INVALID_ARGUMENT (a size that cannot be), UNSUPPORTED (a
 * field set that this library does not know).
 */
cf_status cf_options_read(const void *from, void *to, size_t n_bytes, const char *name,
                          cf_error *error);

/* INVALID_ARGUMENT unless low ≤ value ≤ high; NaN never is. */
cf_status cf_check_integer(const char *name, int64_t value, int64_t low, int64_t high,
                           cf_error *error);
cf_status cf_check_real(const char *name, float value, float low, float high, cf_error *error);

/* INVALID_ARGUMENT, naming position and id, unless each id is one of `n_vocab`. */
cf_status cf_check_ids(const char *name, const cf_token *ids, size_t n, int32_t n_vocab,
                       cf_error *error);

#endif
