/* safetensors: a length, a JSON header, the tensors' bytes. */
#ifndef CF_CHECKPOINT_SAFETENSORS_H
#define CF_CHECKPOINT_SAFETENSORS_H

#include "checkpoint/tensors.h"
#include "clusterfusion.h"

/*
 * Appends the tensors of a file's `n_bytes` to `list`; they point into `data`, or to copies where
 * that lies misaligned for their dtype. `file` begins messages and becomes the tensors' file.
 * BAD_FILE: damaged, or not safetensors; as in the format's own rules the tensors must cover the
 * data without gap or overlap. UNSUPPORTED: a weight that is not F16, BF16 or F32. Reads the header
 * only.
 */
cf_status cf_safetensors_read(const void *data, size_t n_bytes, const char *file,
                              cf_tensor_list *list, cf_error *error);

#endif
