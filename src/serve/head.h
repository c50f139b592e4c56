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

/* What the fields of a head have said so far. Zeroed: there were none, and it is HTTP/1.1. */
typedef struct cf_head_facts {
    size_t n_fields;
    bool is_http_1_0, has_host, has_coding;
    const char *length; /* of the body, as the head has it; NULL: none */
    size_t n_length;
} cf_head_facts;

/*
 * The same check for a head that somebody else has taken apart: field by field, `value` without the
 * white space before it, and at the end. What they point to must stay until then.
 */
bool cf_head_field(cf_head_facts *found, const char *name, size_t n_name, const char *value,
                   size_t n_value, cf_fault *fault);
bool cf_head_end(const cf_head_facts *found, cf_fault *fault);

#endif
