/* Writing errors: one message, where the fault is found. */
#ifndef CF_BASE_STATUS_H
#define CF_BASE_STATUS_H

#include "clusterfusion.h"

/* Fills `error` (if not NULL) in the form "what, which, expected, found"; returns `status`. */
__attribute__((format(printf, 3, 4))) cf_status cf_fail(cf_error *error, cf_status status,
                                                        const char *format, ...);

/* Puts "prefix: " before the message that a lower floor wrote; returns `status`. */
cf_status cf_fail_within(cf_error *error, cf_status status, const char *prefix);

/* Passes a failure on to the caller. */
#define CF_TRY(expression)                                                                         \
    do {                                                                                           \
        cf_status cf_try_status = (expression);                                                    \
        if (cf_try_status != CF_STATUS_OK)                                                         \
            return cf_try_status;                                                                  \
    } while (0)

#endif
