/* A Hugging Face folder as plain structs: a shape, and tensors that lie in mapped files. */
#ifndef CF_CHECKPOINT_CHECKPOINT_H
#define CF_CHECKPOINT_CHECKPOINT_H

#include "base/file.h"
#include "clusterfusion.h"

typedef struct cf_checkpoint {
    cf_shape shape;
    size_t n_tensors;
    cf_tensor *tensors; /* [n_tensors], sorted by name; buffers are not among them */
    size_t n_files;
    cf_file_info *files; /* [n_files] */
    cf_file *maps;       /* [n_files] */
    char *text;          /* all names */
    void **copies;       /* tensors whose place in the file does not suit their type, copied */
    size_t n_copies;
} cf_checkpoint;

/*
 * Opens the folder `path` in the order of preference that cf_model_open() states. Errors: those of
 * cf_model_open(). The tensors are valid until cf_checkpoint_close(), which takes a zeroed one too.
 */
cf_status cf_checkpoint_open(const char *path, cf_checkpoint *checkpoint, cf_error *error);
void cf_checkpoint_close(cf_checkpoint *checkpoint);

#endif
