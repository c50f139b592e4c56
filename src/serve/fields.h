/* Reading the fields of a JSON object by name: absent and null mean the default. */
#ifndef CF_SERVE_FIELDS_H
#define CF_SERVE_FIELDS_H

#include "serve/fault.h"

/* Each leaves *value alone where the field is absent, and on a wrong type or bound sets a fault of
 * status 400 that names the field, and returns false. */
bool cf_field_bool(const json_t *object, const char *name, bool *value, cf_fault *fault);
bool cf_field_integer(const json_t *object, const char *name, int64_t min, int64_t max,
                      int64_t *value, cf_fault *fault);
bool cf_field_real(const json_t *object, const char *name, double min, double max, float *value,
                   cf_fault *fault);

/* NULL where the field is absent or null. */
const json_t *cf_field(const json_t *object, const char *name);

/* The value's JSON kind in words, with the article. */
bool cf_field_wrong(const char *name, const char *expected, const json_t *found, cf_fault *fault);

/* A body that is one JSON object; NULL and a fault of status 400 if it is not. */
json_t *cf_body_parse(const char *body, size_t n_bytes, cf_fault *fault);

#endif
