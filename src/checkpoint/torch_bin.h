/* pytorch_model.bin: a pickled dict of tensors, as a zip archive or in the form before PyTorch 1.6.
 */
#ifndef CF_CHECKPOINT_TORCH_BIN_H
#define CF_CHECKPOINT_TORCH_BIN_H

#include "checkpoint/tensors.h"
#include "clusterfusion.h"

/*
 * Appends the tensors of a file's `n_bytes` to `list`; they point into `data`, or to copies where
 * their storage lies misaligned. `file` begins messages and becomes the tensors' file; *format is
 * "pytorch zip" or "pytorch legacy". The pickle inside is read by cf_pickle_read(): nothing in the
 * file is ever executed. BAD_FILE: damaged, or not such a file. UNSUPPORTED: what the pickle names
 * beyond plain tensors, a dict within the dict, tensors that are not contiguous, a weight that is
 * not F16, BF16 or F32, big-endian data. Reads headers only, unless weights lie misaligned.
 */
cf_status cf_torch_bin_read(const void *data, size_t n_bytes, const char *file,
                            cf_tensor_list *list, const char **format, cf_error *error);

#endif
