/* The index of a sharded checkpoint: which tensor lies in which file. */
#ifndef CF_CHECKPOINT_INDEX_H
#define CF_CHECKPOINT_INDEX_H

#include "checkpoint/arena.h"
#include "clusterfusion.h"

typedef struct cf_index_row {
    const char *tensor;
    const char *file; /* one of the index's files: the same pointer for the same file */
} cf_index_row;

typedef struct cf_index {
    size_t n_rows;
    cf_index_row *rows; /* [n_rows], sorted by tensor; without buffers */
    size_t n_files;
    const char **files; /* [n_files], sorted; plain names without a folder */
} cf_index;

/*
 * Parses `n_bytes` of an index; `name` begins messages. Everything lies in `arena`. BAD_FILE: not
 * JSON, no weight_map, or a file name that is not a plain name in the same folder.
 */
cf_status cf_index_parse(const void *data, size_t n_bytes, const char *name, cf_arena *arena,
                         cf_index *index, cf_error *error);

/*
 * Checks that the index `name` and the tensors that its files hold, sorted by name, agree: the same
 * tensors in the same files. BAD_FILE names the first that does not.
 */
cf_status cf_index_check(const cf_index *index, const char *name, const cf_tensor *tensors,
                         size_t n_tensors, cf_error *error);

#endif
