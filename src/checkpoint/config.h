/* config.json → cf_shape, in every spelling that transformers has used for GPT-NeoX. */
#ifndef CF_CHECKPOINT_CONFIG_H
#define CF_CHECKPOINT_CONFIG_H

#include "clusterfusion.h"

/* Ids that eos_token_id may list. */
#define CF_CONFIG_MAX_ENDS 8

/* The tokens that end a text beside the shape's eos_token, which is the first that is listed. */
typedef struct cf_more_ends {
    cf_token ids[CF_CONFIG_MAX_ENDS - 1];
    size_t n;
} cf_more_ends;

/*
 * Parses `n_bytes` of a config.json; `name` begins the error's message. Errors: BAD_FILE (not JSON,
 * a field missing, of the wrong type or out of bounds, sizes that contradict each other),
 * UNSUPPORTED (another model_type, rope scaling, an activation or option that changes the
 * arithmetic; named).
 */
cf_status cf_config_parse(const void *data, size_t n_bytes, const char *name, cf_shape *shape,
                          cf_more_ends *ends, cf_error *error);

#endif
