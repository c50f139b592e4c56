/* The globals that a pickle may name, and what calling them gives. */
#ifndef CF_CHECKPOINT_PICKLE_CALLS_H
#define CF_CHECKPOINT_PICKLE_CALLS_H

#include "checkpoint/pickle.h"

/* The known global of that module and name; NULL: refuse it. */
const cf_global *cf_global_find(const char *module, size_t n_module, const char *name,
                                size_t n_name);

/* Fills `result` with what `global(*arguments)` gives. Errors: BAD_FILE for wrong arguments. */
cf_status cf_global_call(const cf_global *global, const cf_value *arguments, const char *file,
                         cf_value *result, cf_error *error);

/* Fills `result` with the storage that the persistent id `id` names. Errors: BAD_FILE. */
cf_status cf_storage_from_id(const cf_value *id, const char *file, cf_value *result,
                             cf_error *error);

#endif
