/* A request's head as bytes: whether it is one, before any other code reads it. */
#ifndef CF_SERVE_HEAD_H
#define CF_SERVE_HEAD_H

#include "serve/fault.h"

/* Bytes and fields of a head at most. */
#define CF_MAX_HEAD_BYTES 16384
#define CF_MAX_HEAD_FIELDS 128

typedef enum cf_head {
    CF_HEAD_PARTIAL, /* fine so far, more must come */
    CF_HEAD_WHOLE,   /* fine; the body begins after it */
    CF_HEAD_WRONG,   /* `fault` says why */
} cf_head;

/*
 * Looks at the first n_bytes of a connection: request line and fields by RFC 9112, lines ended by
 * CR LF or LF. What is wrong is found as soon as its line is there. Statuses: 400, and 413 for a
 * head or a declared body that is too large to be counted.
 */
cf_head cf_head_check(const char *data, size_t n_bytes, cf_fault *fault);

#endif
