/* A Hugging Face folder as plain structs: a shape, and tensors that lie in mapped files. */
#ifndef CF_CHECKPOINT_CHECKPOINT_H
#define CF_CHECKPOINT_CHECKPOINT_H

#include "base/file.h"
#include "checkpoint/arena.h"
#include "checkpoint/config.h"
#include "clusterfusion.h"

typedef struct cf_checkpoint {
    cf_shape shape;
    cf_more_ends more_ends;
    size_t n_tensors;
    cf_tensor *tensors; /* [n_tensors], sorted by name; buffers are not among them */
    size_t n_files;
    cf_file_info *files; /* [n_files] */
    cf_file *maps;       /* [n_files] */
    cf_arena arena;      /* all arrays and names, and copies of weights that lie misaligned */
} cf_checkpoint;

/*
 * Opens the folder `path` in the order of preference that cf_model_open() states. Errors: those of
 * cf_model_open(), but whether the tensors fit the shape is cf_neox_bind()'s to say. The tensors
 * are valid until cf_checkpoint_close(), which takes a zeroed one too. Cost: reads headers only;
 * weights are copied only where they lie misaligned for their dtype.
 */
cf_status cf_checkpoint_open(const char *path, cf_checkpoint *checkpoint, cf_error *error);
void cf_checkpoint_close(cf_checkpoint *checkpoint);

#endif
