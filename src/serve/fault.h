/* What a client did wrong, or what went wrong for it: an HTTP status and OpenAI's error object. */
#ifndef CF_SERVE_FAULT_H
#define CF_SERVE_FAULT_H

#include "clusterfusion.h"

#include <jansson.h>

/* Zeroed: none. */
typedef struct cf_fault {
    int http;          /* 400 … 503; 0: no fault */
    const char *param; /* the field at fault, or NULL */
    const char *code;  /* a word for programs, or NULL */
    char message[600];
} cf_fault;

/* Fills `fault` in; returns false, for callers that pass it on. */
__attribute__((format(printf, 5, 6))) bool cf_fault_set(cf_fault *fault, int http,
                                                        const char *param, const char *code,
                                                        const char *format, ...);

/* The same for what the library reported. */
bool cf_fault_from_error(cf_fault *fault, const cf_error *error);

/* {"error": {"message", "type", "param", "code"}}; NULL when out of memory. */
json_t *cf_fault_json(const cf_fault *fault);

#endif
