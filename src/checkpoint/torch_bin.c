#include "checkpoint/torch_bin.h"

#include "base/memory.h"
#include "base/status.h"
#include "checkpoint/pickle.h"
#include "checkpoint/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The pickle of a model of 500 tensors takes 100 KB. */
#define MAX_PICKLE_BYTES ((size_t)16 << 20)
#define MAX_DIMS 16
#define PICKLE_ENTRY "/data.pkl"
#define DATA_FOLDER "/data/"
#define BYTE_ORDER_ENTRY "/byteorder"
#define LEGACY_PROTOCOL 1001
#define LENGTH_BYTES 8

/* How a legacy file begins: a pickle, of any protocol, of one magic integer. */
static const uint8_t legacy_magic[] = {0x8A, 0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9,
                                       0x20, 0x6A, 0xA8, 0x50, 0x19, '.'};

/* The bytes that a storage key stands for. */
typedef struct storage {
    const char *key; /* n_key bytes, not ended */
    size_t n_key;
    const uint8_t *bytes;
    uint64_t n_bytes;
    const cf_global *type; /* what the pickle says that it is; NULL: not yet said */
    const void *aligned;   /* the same bytes, suitably aligned; NULL: not yet needed */
} storage;

/* A file being read. */
typedef struct source {
    const char *file;
    const uint8_t *bytes;
    size_t n_bytes, pos;
    cf_arena scratch; /* the pickle's values and the table of storages */
    const cf_value *dict;
    storage *storages; /* sorted by key */
    size_t n_storages;
} source;

static int compare_text(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order != 0 ? order : n_a < n_b ? -1 : n_a > n_b;
}

static int compare_storages(const void *left, const void *right)
{
    const storage *a = left, *b = right;
    return compare_text(a->key, a->n_key, b->key, b->n_key);
}

static storage *find_storage(const source *from, const cf_value *key)
{
    storage wanted = {.key = key->text.bytes, .n_key = key->text.n_bytes};
    if (from->n_storages == 0)
        return NULL;
    return bsearch(&wanted, from->storages, from->n_storages, sizeof wanted, compare_storages);
}

/* ------------------------------------------------------------------------------------------- */
/* From the pickled dict to tensors                                                            */
/* ------------------------------------------------------------------------------------------- */

static cf_status check_item(const source *from, const cf_value *key, const cf_value *value,
                            cf_error *error)
{
    if (key->kind != CF_VALUE_TEXT)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: a key of the dict is %s, expected a tensor's name", from->file,
                       cf_value_kind_text(key));
    CF_TRY(cf_tensor_name_check(from->file, key->text.bytes, key->text.n_bytes, error));
    if (value->kind == CF_VALUE_TENSOR)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %.*s is %s, expected a tensor", from->file,
                   (int)key->text.n_bytes, key->text.bytes, cf_value_kind_text(value));
}

/* The dict must hold tensors by name, and nothing else. */
static cf_status check_dict(const source *from, cf_error *error)
{
    const cf_value *dict = from->dict;
    if (dict->kind != CF_VALUE_DICT)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: holds %s, expected a dict of tensors",
                       from->file, cf_value_kind_text(dict));
    for (size_t i = 1; i < dict->list.n; i += 2)
        if (dict->list.items[i]->kind == CF_VALUE_DICT)
            return cf_fail(
                error, CF_STATUS_UNSUPPORTED,
                "%s: holds a dict within the dict, expected the tensors themselves: save "
                "the model's state_dict alone",
                from->file);
    for (size_t i = 0; i < dict->list.n; i += 2)
        CF_TRY(check_item(from, dict->list.items[i], dict->list.items[i + 1], error));
    return CF_STATUS_OK;
}

/* Copies the tensor's size to `array` and its number of elements; they must lie row by row. */
static cf_status read_layout(const cf_array *array, const cf_rebuilt *tensor,
                             int64_t dims[MAX_DIMS], uint64_t *n_elements, cf_error *error)
{
    size_t n = tensor->size->list.n;
    int n_name = (int)array->n_name;
    if (n > MAX_DIMS)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %.*s has %zu dimensions, expected 1 or 2",
                       array->file, n_name, array->name, n);
    bool contiguous = true;
    *n_elements = 1;
    for (size_t i = n; i > 0; i--) {
        int64_t size = tensor->size->list.items[i - 1]->integer;
        int64_t stride = tensor->stride->list.items[i - 1]->integer;
        contiguous = contiguous && (size == 1 || (uint64_t)stride == *n_elements);
        if (__builtin_mul_overflow(*n_elements, (uint64_t)size, n_elements))
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %.*s has more than 2^64 elements",
                           array->file, n_name, array->name);
        dims[i - 1] = size;
    }
    if (!contiguous && *n_elements > 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: %.*s is not contiguous (a transposed or cut-out view), expected rows "
                       "that follow each other",
                       array->file, n_name, array->name);
    return CF_STATUS_OK;
}

/* The storage that the tensor lies in must be in the file, and as large as the pickle says. */
static cf_status check_storage(const cf_array *array, const cf_stored *stored, storage *one,
                               cf_error *error)
{
    int n_name = (int)array->n_name;
    int n_key = (int)(stored->key->text.n_bytes > 40 ? 40 : stored->key->text.n_bytes);
    if (one == NULL) {
        cf_fail(error, CF_STATUS_BAD_FILE,
                "%s: %.*s lies in storage %.*s, which is not in the file", array->file, n_name,
                array->name, n_key, stored->key->text.bytes);
        return CF_STATUS_BAD_FILE;
    }
    uint64_t expected;
    if (__builtin_mul_overflow(stored->n_elements, stored->type->element_bytes, &expected) ||
        expected != one->n_bytes)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %.*s: storage %.*s has %" PRIu64 " bytes, expected %" PRIu64
                       " elements of %s",
                       array->file, n_name, array->name, n_key, stored->key->text.bytes,
                       one->n_bytes, stored->n_elements, stored->type->dtype_name);
    if (one->type == NULL)
        one->type = stored->type;
    if (one->type != stored->type)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %.*s: storage %.*s is both %s and %s",
                       array->file, n_name, array->name, n_key, stored->key->text.bytes,
                       one->type->dtype_name, stored->type->dtype_name);
    return CF_STATUS_OK;
}

static cf_status add_tensor(source *from, const cf_value *name, const cf_rebuilt *tensor,
                            cf_tensor_list *list, cf_error *error)
{
    const cf_stored *stored = tensor->storage;
    int64_t dims[MAX_DIMS];
    cf_array array = {.file = from->file,
                      .name = name->text.bytes,
                      .n_name = name->text.n_bytes,
                      .dtype = stored->type->dtype,
                      .dtype_name = stored->type->dtype_name,
                      .dims = dims,
                      .n_dims = tensor->size->list.n};
    if (cf_tensor_is_buffer(array.name, array.n_name))
        return CF_STATUS_OK;
    uint64_t n_elements = 0;
    storage *in = find_storage(from, stored->key);
    CF_TRY(read_layout(&array, tensor, dims, &n_elements, error));
    CF_TRY(check_storage(&array, stored, in, error));
    if (tensor->offset > stored->n_elements || n_elements > stored->n_elements - tensor->offset)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %.*s takes %" PRIu64 " elements from %" PRIu64
                       " on, its storage has %" PRIu64,
                       from->file, (int)array.n_name, array.name, n_elements, tensor->offset,
                       stored->n_elements);
    if (in->aligned == NULL)
        CF_TRY(cf_aligned_bytes(list->arena, in->bytes, (size_t)in->n_bytes,
                                cf_dtype_bytes(array.dtype), &in->aligned, error));
    array.data = (const uint8_t *)in->aligned + tensor->offset * stored->type->element_bytes;
    return cf_tensor_list_add(list, &array, error);
}

static cf_status add_tensors(source *from, cf_tensor_list *list, cf_error *error)
{
    const cf_value_list *items = &from->dict->list;
    for (size_t i = 0; i + 1 < items->n; i += 2)
        CF_TRY(add_tensor(from, items->items[i], &items->items[i + 1]->tensor, list, error));
    return CF_STATUS_OK;
}

/* Reads the pickle at `pos` and moves behind it. */
static cf_status next_pickle(source *from, const cf_value **value, cf_error *error)
{
    size_t n_left = from->n_bytes - from->pos, n_used;
    cf_value *read;
    CF_TRY(cf_pickle_read(from->bytes + from->pos,
                          n_left > MAX_PICKLE_BYTES ? MAX_PICKLE_BYTES : n_left, from->file,
                          &from->scratch, &read, &n_used, error));
    *value = read;
    from->pos += n_used;
    return CF_STATUS_OK;
}

/* ------------------------------------------------------------------------------------------- */
/* The zip form: NAME/data.pkl, NAME/data/KEY for each storage, NAME/byteorder                 */
/* ------------------------------------------------------------------------------------------- */

/* If `entry` is called NAME followed by `middle`, with NAME the archive's, what follows `middle`.
 */
static const char *name_behind(const cf_zip_entry *entry, const cf_zip_entry *pickle,
                               const char *middle, size_t *n_rest)
{
    size_t n_archive = pickle->n_name - strlen(PICKLE_ENTRY), n_middle = strlen(middle);
    if (entry->n_name < n_archive + n_middle || memcmp(entry->name, pickle->name, n_archive) != 0 ||
        memcmp(entry->name + n_archive, middle, n_middle) != 0)
        return NULL;
    *n_rest = entry->n_name - n_archive - n_middle;
    return entry->name + n_archive + n_middle;
}

static const cf_zip_entry *find_pickle(const cf_zip *zip)
{
    size_t n = strlen(PICKLE_ENTRY);
    for (size_t i = 0; i < zip->n_entries; i++) {
        const cf_zip_entry *entry = &zip->entries[i];
        if (entry->n_name > n && memcmp(entry->name + entry->n_name - n, PICKLE_ENTRY, n) == 0)
            return entry;
    }
    return NULL;
}

static cf_status check_byte_order(const source *from, const cf_zip *zip, const cf_zip_entry *entry,
                                  cf_error *error)
{
    const uint8_t *text;
    CF_TRY(cf_zip_bytes(zip, entry, &text, error));
    if (entry->n_bytes == 6 && memcmp(text, "little", 6) == 0)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_UNSUPPORTED, "%s: byte order is not little, as expected",
                   from->file);
}

/* Lists what lies in the archive's data folder. */
static cf_status list_entries(source *from, const cf_zip *zip, const cf_zip_entry *pickle,
                              cf_error *error)
{
    CF_TRY(
        CF_ARENA_TAKE(&from->scratch, &from->storages, zip->n_entries, "table of storages", error));
    for (size_t i = 0; i < zip->n_entries; i++) {
        const cf_zip_entry *entry = &zip->entries[i];
        storage *one = &from->storages[from->n_storages];
        size_t n_rest;
        const char *order = name_behind(entry, pickle, BYTE_ORDER_ENTRY, &n_rest);
        if (order != NULL && n_rest == 0)
            CF_TRY(check_byte_order(from, zip, entry, error));
        one->key = name_behind(entry, pickle, DATA_FOLDER, &one->n_key);
        if (one->key == NULL)
            continue;
        one->n_bytes = entry->n_bytes;
        CF_TRY(cf_zip_bytes(zip, entry, &one->bytes, error));
        from->n_storages++;
    }
    return CF_STATUS_OK;
}

static cf_status sort_storages(source *from, cf_error *error)
{
    if (from->n_storages > 0)
        qsort(from->storages, from->n_storages, sizeof *from->storages, compare_storages);
    for (size_t i = 1; i < from->n_storages; i++)
        if (compare_storages(&from->storages[i - 1], &from->storages[i]) == 0)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: storage %.*s is there twice", from->file,
                           (int)(from->storages[i].n_key > 40 ? 40 : from->storages[i].n_key),
                           from->storages[i].key);
    return CF_STATUS_OK;
}

static cf_status read_zip(source *from, cf_tensor_list *list, cf_error *error)
{
    cf_zip zip;
    CF_TRY(cf_zip_open(from->bytes, from->n_bytes, from->file, &from->scratch, &zip, error));
    const cf_zip_entry *pickle = find_pickle(&zip);
    if (pickle == NULL)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: zip archive without data.pkl, expected what torch.save writes",
                       from->file);
    source inner = {.file = from->file, .n_bytes = (size_t)pickle->n_bytes};
    CF_TRY(cf_zip_bytes(&zip, pickle, &inner.bytes, error));
    inner.scratch = from->scratch;
    cf_status status = next_pickle(&inner, &from->dict, error);
    from->scratch = inner.scratch;
    if (status != CF_STATUS_OK)
        return status;
    CF_TRY(check_dict(from, error));
    CF_TRY(list_entries(from, &zip, pickle, error));
    CF_TRY(sort_storages(from, error));
    return add_tensors(from, list, error);
}

/* ------------------------------------------------------------------------------------------- */
/* The legacy form: pickles (magic, protocol, system, dict, keys), then the storages            */
/* ------------------------------------------------------------------------------------------- */

static cf_status read_legacy_head(source *from, cf_error *error)
{
    const cf_value *magic, *protocol, *system;
    CF_TRY(next_pickle(from, &magic, error));
    CF_TRY(next_pickle(from, &protocol, error));
    if (protocol->kind != CF_VALUE_INT || protocol->integer != LEGACY_PROTOCOL)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: legacy form of another protocol, expected %d", from->file,
                       LEGACY_PROTOCOL);
    CF_TRY(next_pickle(from, &system, error));
    const cf_value *little = cf_value_get(system, "little_endian");
    if (little == NULL || little->kind != CF_VALUE_BOOL || little->integer != 1)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "%s: little_endian is not True, as expected",
                       from->file);
    return CF_STATUS_OK;
}

/* Lists the storages that the dict's tensors name, each once. */
static cf_status list_named_storages(source *from, cf_error *error)
{
    const cf_value_list *items = &from->dict->list;
    CF_TRY(
        CF_ARENA_TAKE(&from->scratch, &from->storages, items->n / 2, "table of storages", error));
    for (size_t i = 1; i < items->n; i += 2) {
        const cf_stored *stored = items->items[i]->tensor.storage;
        from->storages[from->n_storages++] = (storage){.key = stored->key->text.bytes,
                                                       .n_key = stored->key->text.n_bytes,
                                                       .type = stored->type};
    }
    if (from->n_storages == 0)
        return CF_STATUS_OK;
    qsort(from->storages, from->n_storages, sizeof *from->storages, compare_storages);
    size_t n = 1;
    for (size_t i = 1; i < from->n_storages; i++)
        if (compare_storages(&from->storages[n - 1], &from->storages[i]) != 0)
            from->storages[n++] = from->storages[i];
    from->n_storages = n;
    return CF_STATUS_OK;
}

/* Finds the bytes of the storage `key`, which begin with their number of elements. */
static cf_status locate_storage(source *from, const cf_value *key, cf_error *error)
{
    int n_key = key->kind == CF_VALUE_TEXT && key->text.n_bytes < 40 ? (int)key->text.n_bytes : 0;
    storage *one = key->kind == CF_VALUE_TEXT ? find_storage(from, key) : NULL;
    if (one == NULL || one->bytes != NULL)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: storage %.*s is listed twice or in no tensor", from->file, n_key,
                       n_key > 0 ? key->text.bytes : "");
    if (from->n_bytes - from->pos < LENGTH_BYTES)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: ends before storage %.*s; truncated or damaged", from->file, n_key,
                       key->text.bytes);
    uint64_t n_elements = 0;
    for (size_t i = LENGTH_BYTES; i > 0; i--)
        n_elements = n_elements << 8 | from->bytes[from->pos + i - 1];
    from->pos += LENGTH_BYTES;
    if (__builtin_mul_overflow(n_elements, one->type->element_bytes, &one->n_bytes) ||
        one->n_bytes > from->n_bytes - from->pos)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: storage %.*s has %" PRIu64 " elements of %s, but %zu bytes are left; "
                       "truncated or damaged",
                       from->file, n_key, key->text.bytes, n_elements, one->type->dtype_name,
                       from->n_bytes - from->pos);
    one->bytes = from->bytes + from->pos;
    from->pos += (size_t)one->n_bytes;
    return CF_STATUS_OK;
}

static cf_status read_legacy(source *from, cf_tensor_list *list, cf_error *error)
{
    const cf_value *keys;
    CF_TRY(read_legacy_head(from, error));
    CF_TRY(next_pickle(from, &from->dict, error));
    CF_TRY(check_dict(from, error));
    CF_TRY(next_pickle(from, &keys, error));
    if (keys->kind != CF_VALUE_LIST)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: storage keys are %s, expected a list",
                       from->file, cf_value_kind_text(keys));
    CF_TRY(list_named_storages(from, error));
    for (size_t i = 0; i < keys->list.n; i++)
        CF_TRY(locate_storage(from, keys->list.items[i], error));
    for (size_t i = 0; i < from->n_storages; i++)
        if (from->storages[i].bytes == NULL)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: storage %.*s is not listed", from->file,
                           (int)(from->storages[i].n_key > 40 ? 40 : from->storages[i].n_key),
                           from->storages[i].key);
    if (from->pos != from->n_bytes)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %zu bytes follow the last storage",
                       from->file, from->n_bytes - from->pos);
    return add_tensors(from, list, error);
}

cf_status cf_torch_bin_read(const void *data, size_t n_bytes, const char *file,
                            cf_tensor_list *list, const char **format, cf_error *error)
{
    source from = {.file = file, .bytes = data, .n_bytes = n_bytes};
    cf_status status;
    if (n_bytes >= 4 && memcmp(data, "PK\x03\x04", 4) == 0) {
        *format = "pytorch zip";
        status = read_zip(&from, list, error);
    } else if (n_bytes >= 2 + sizeof legacy_magic && from.bytes[0] == 0x80 &&
               memcmp(from.bytes + 2, legacy_magic, sizeof legacy_magic) == 0) {
        *format = "pytorch legacy";
        status = read_legacy(&from, list, error);
    } else {
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %zu bytes that are neither a zip archive nor PyTorch's legacy form",
                       file, n_bytes);
    }
    cf_arena_release(&from.scratch);
    return status;
}
