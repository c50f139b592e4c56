#include "checkpoint/tensors.h"

#include "base/status.h"

#include <string.h>

#define MAX_NAME_BYTES 255

cf_status cf_tensor_name_check(const char *file, const char *name, size_t n_name, cf_error *error)
{
    if (n_name == 0 || n_name > MAX_NAME_BYTES)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: a tensor's name has %zu bytes, expected 1 to %d: %.*s", file, n_name,
                       MAX_NAME_BYTES, n_name > 60 ? 0 : (int)n_name, name);
    for (size_t i = 0; i < n_name; i++)
        if (name[i] <= ' ' || name[i] > '~')
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "%s: a tensor's name has byte 0x%02X at %zu, expected printable ASCII: "
                           "%.*s…",
                           file, (unsigned)(unsigned char)name[i], i, (int)i, name);
    return CF_STATUS_OK;
}

bool cf_tensor_is_buffer(const char *name, size_t n_name)
{
    static const char *const ends[] = {".attention.bias", ".attention.masked_bias",
                                       "rotary_emb.inv_freq"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]);
        if (n_name >= n && memcmp(name + n_name - n, ends[i], n) == 0)
            return true;
    }
    return false;
}

cf_status cf_tensor_list_add(cf_tensor_list *list, const cf_array *array, cf_error *error)
{
    if (cf_tensor_is_buffer(array->name, array->n_name))
        return CF_STATUS_OK;
    int n_shown = (int)array->n_name;
    if (cf_dtype_bytes(array->dtype) == 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: %.*s has dtype %s, expected F16, BF16 or F32", array->file, n_shown,
                       array->name, array->dtype_name);
    if (array->n_dims < 1 || array->n_dims > 2)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %.*s has %zu dimensions, expected 1 or 2",
                       array->file, n_shown, array->name, array->n_dims);
    const char *name;
    CF_TRY(cf_arena_text(list->arena, &name, array->name, array->n_name, error));
    void *tensors = list->tensors;
    CF_TRY(cf_arena_grow(list->arena, &tensors, list->n, &list->capacity, sizeof(cf_tensor),
                         "list of tensors", error));
    list->tensors = tensors;
    list->tensors[list->n++] = (cf_tensor){
        .name = name,
        .file = array->file,
        .data = array->data,
        .dtype = array->dtype,
        .device = -1,
        .n_dims = (int32_t)array->n_dims,
        .dims = {array->dims[0], array->n_dims == 2 ? array->dims[1] : 1},
    };
    return CF_STATUS_OK;
}

cf_status cf_aligned_bytes(cf_arena *arena, const void *bytes, size_t n_bytes, size_t alignment,
                           const void **aligned, cf_error *error)
{
    *aligned = bytes;
    if (alignment <= 1 || (uintptr_t)bytes % alignment == 0)
        return CF_STATUS_OK;
    void *copy;
    CF_TRY(cf_arena_take(arena, &copy, n_bytes, 1, "copy of misaligned weights", error));
    memcpy(copy, bytes, n_bytes);
    *aligned = copy;
    return CF_STATUS_OK;
}
