/* Hashes of weights and logits. */
#ifndef CF_ENGINE_HASH_H
#define CF_ENGINE_HASH_H

#include "clusterfusion.h"

uint64_t cf_tensor_elements(const cf_tensor *tensor);

/* cf_model_hash() of the header, of tensors in their order. */
cf_status cf_tensors_hash(const cf_tensor *const *tensors, size_t n_tensors,
                          cf_progress_fn progress, void *progress_user, char hash[33],
                          cf_error *error);

/* XXH3-64 of `n` float32. */
uint64_t cf_floats_hash(const float *values, size_t n);

#endif
