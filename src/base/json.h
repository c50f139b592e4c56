/* JSON from outside, strictly: RFC 8259, valid UTF-8, no duplicate keys, nothing after the value.
 */
#ifndef CF_BASE_JSON_H
#define CF_BASE_JSON_H

#include "clusterfusion.h"

#include <jansson.h>

/*
 * Parses `n_bytes`; `name` begins the error's message. The caller releases *value with json_decref.
 * Errors: BAD_FILE with line and column. Nesting beyond 2,048 levels is refused by the parser.
 */
cf_status cf_json_parse(const void *data, size_t n_bytes, const char *name, json_t **value,
                        cf_error *error);

/* Maps and parses a whole file of at most `max_bytes`. Errors: as cf_file_map(), BAD_FILE. */
cf_status cf_json_load(const char *path, size_t max_bytes, json_t **value, cf_error *error);

/* "an object", "an array", "a string", …: for messages. */
const char *cf_json_kind(const json_t *value);

#endif
