/* The list that every reader of a weight file appends to, and what all of them check. */
#ifndef CF_CHECKPOINT_TENSORS_H
#define CF_CHECKPOINT_TENSORS_H

#include "checkpoint/arena.h"
#include "clusterfusion.h"

typedef struct cf_tensor_list {
    cf_arena *arena; /* of the list, its names and its copies */
    cf_tensor *tensors;
    size_t n, capacity;
} cf_tensor_list;

/* An array in a weight file, before it is known to be a tensor that a model can use. */
typedef struct cf_array {
    const char *file;
    const char *name; /* n_name bytes, not ended */
    size_t n_name;
    cf_dtype dtype;         /* CF_DTYPE_DEFAULT: one that no weight has */
    const char *dtype_name; /* for messages */
    const int64_t *dims;    /* [n_dims], slowest first, each ≥ 0 */
    size_t n_dims;
    const void *data; /* its bytes, aligned for its dtype */
} cf_array;

/*
 * BAD_FILE unless the name is 1 to 255 bytes of printable ASCII, so that it can stand in messages.
 */
cf_status cf_tensor_name_check(const char *file, const char *name, size_t n_name, cf_error *error);

/*
 * Whether the tensor called `name` (with or without the "gpt_neox." prefix) is a buffer, not a
 * weight: attention.bias, attention.masked_bias, rotary_emb.inv_freq.
 */
bool cf_tensor_is_buffer(const char *name, size_t n_name);

/*
 * Appends `array`, whose name has been checked; a buffer is passed over, whatever it is.
 * UNSUPPORTED for a dtype that no weight has, BAD_FILE unless it has one or two dimensions.
 */
cf_status cf_tensor_list_add(cf_tensor_list *list, const cf_array *array, cf_error *error);

/* `bytes` themselves where they lie suitably for `dtype`, else a copy that the arena holds. */
cf_status cf_aligned_bytes(cf_arena *arena, const void *bytes, size_t n_bytes, size_t alignment,
                           const void **aligned, cf_error *error);

#endif
