#include "checkpoint/pickle_calls.h"

#include "base/status.h"

#include <string.h>

#define STORAGE(name, dtype, text, bytes)                                                          \
    {                                                                                              \
        "torch." name "Storage", CF_GLOBAL_STORAGE, dtype, text, bytes                             \
    }
#define OTHER CF_DTYPE_DEFAULT

static const cf_global known_globals[] = {
    {"collections.OrderedDict", CF_GLOBAL_ORDERED_DICT, OTHER, "", 0},
    {"torch._utils._rebuild_tensor", CF_GLOBAL_REBUILD_TENSOR, OTHER, "", 0},
    {"torch._utils._rebuild_tensor_v2", CF_GLOBAL_REBUILD_TENSOR, OTHER, "", 0},
    {"torch._utils._rebuild_parameter", CF_GLOBAL_REBUILD_PARAMETER, OTHER, "", 0},
    STORAGE("Half", CF_DTYPE_F16, "F16", 2),
    STORAGE("BFloat16", CF_DTYPE_BF16, "BF16", 2),
    STORAGE("Float", CF_DTYPE_F32, "F32", 4),
    STORAGE("Double", OTHER, "F64", 8),
    STORAGE("Long", OTHER, "I64", 8),
    STORAGE("Int", OTHER, "I32", 4),
    STORAGE("Short", OTHER, "I16", 2),
    STORAGE("Char", OTHER, "I8", 1),
    STORAGE("Byte", OTHER, "U8", 1),
    STORAGE("Bool", OTHER, "BOOL", 1),
};

const cf_global *cf_global_find(const char *module, size_t n_module, const char *name,
                                size_t n_name)
{
    for (size_t i = 0; i < sizeof known_globals / sizeof *known_globals; i++) {
        const char *known = known_globals[i].name;
        if (strlen(known) == n_module + 1 + n_name && memcmp(known, module, n_module) == 0 &&
            known[n_module] == '.' && memcmp(known + n_module + 1, name, n_name) == 0)
            return &known_globals[i];
    }
    return NULL;
}

static cf_status wrong(const char *file, const char *what, const cf_value *found,
                       const char *expected, cf_error *error)
{
    return cf_fail(error, CF_STATUS_BAD_FILE, "%s: pickle: %s is %s, expected %s", file, what,
                   found == NULL ? "missing" : cf_value_kind_text(found), expected);
}

static const cf_value *argument(const cf_value *arguments, size_t i)
{
    return i < arguments->list.n ? arguments->list.items[i] : NULL;
}

static bool is_count(const cf_value *value)
{
    return value != NULL && value->kind == CF_VALUE_INT && value->integer >= 0;
}

static bool is_counts(const cf_value *value)
{
    if (value == NULL || value->kind != CF_VALUE_TUPLE)
        return false;
    for (size_t i = 0; i < value->list.n; i++)
        if (!is_count(value->list.items[i]))
            return false;
    return true;
}

/* (storage, offset, size, stride, …): what follows concerns training. */
static cf_status rebuild_tensor(const cf_value *arguments, const char *file, cf_value *result,
                                cf_error *error)
{
    const cf_value *storage = argument(arguments, 0), *offset = argument(arguments, 1);
    const cf_value *size = argument(arguments, 2), *stride = argument(arguments, 3);
    if (storage == NULL || storage->kind != CF_VALUE_STORAGE)
        return wrong(file, "a tensor's storage", storage, "a storage", error);
    if (!is_count(offset))
        return wrong(file, "a tensor's offset", offset, "an integer of at least 0", error);
    if (!is_counts(size))
        return wrong(file, "a tensor's size", size, "a tuple of integers of at least 0", error);
    if (!is_counts(stride) || stride->list.n != size->list.n)
        return wrong(file, "a tensor's stride", stride, "a tuple of integers, as long as its size",
                     error);
    result->kind = CF_VALUE_TENSOR;
    result->tensor = (cf_rebuilt){.storage = &storage->storage,
                                  .offset = (uint64_t)offset->integer,
                                  .size = size,
                                  .stride = stride};
    return CF_STATUS_OK;
}

cf_status cf_global_call(const cf_global *global, const cf_value *arguments, const char *file,
                         cf_value *result, cf_error *error)
{
    const cf_value *first;
    switch (global->kind) {
    case CF_GLOBAL_ORDERED_DICT:
        if (arguments->list.n != 0)
            return wrong(file, "OrderedDict's argument", arguments->list.items[0], "none", error);
        result->kind = CF_VALUE_DICT;
        return CF_STATUS_OK;
    case CF_GLOBAL_REBUILD_TENSOR:
        return rebuild_tensor(arguments, file, result, error);
    case CF_GLOBAL_REBUILD_PARAMETER:
        first = argument(arguments, 0);
        if (first == NULL || first->kind != CF_VALUE_TENSOR)
            return wrong(file, "a parameter", first, "a tensor", error);
        *result = *first;
        return CF_STATUS_OK;
    case CF_GLOBAL_STORAGE:
        break;
    }
    return cf_fail(error, CF_STATUS_UNSUPPORTED,
                   "%s: pickle: calls %s, expected it in a persistent id only", file, global->name);
}

/* ("storage", type, key, location, number of elements[, view]) */
cf_status cf_storage_from_id(const cf_value *id, const char *file, cf_value *result,
                             cf_error *error)
{
    if (id->kind != CF_VALUE_TUPLE)
        return wrong(file, "a persistent id", id, "a tuple", error);
    const cf_value *tag = argument(id, 0), *type = argument(id, 1), *key = argument(id, 2);
    const cf_value *n_elements = argument(id, 4), *view = argument(id, 5);
    if (tag == NULL || !cf_value_is_text(tag, "storage"))
        return wrong(file, "a persistent id's first item", tag, "\"storage\"", error);
    if (type == NULL || type->kind != CF_VALUE_GLOBAL || type->global->kind != CF_GLOBAL_STORAGE)
        return wrong(file, "a storage's type", type, "one such as torch.HalfStorage", error);
    if (key == NULL || key->kind != CF_VALUE_TEXT)
        return wrong(file, "a storage's key", key, "a string", error);
    if (!is_count(n_elements))
        return wrong(file, "a storage's length", n_elements, "an integer of at least 0", error);
    if (view != NULL && view->kind != CF_VALUE_NONE)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: pickle: storage %.*s is a view of another, expected a whole one", file,
                       (int)(key->text.n_bytes > 40 ? 40 : key->text.n_bytes), key->text.bytes);
    result->kind = CF_VALUE_STORAGE;
    result->storage =
        (cf_stored){.type = type->global, .key = key, .n_elements = (uint64_t)n_elements->integer};
    return CF_STATUS_OK;
}
