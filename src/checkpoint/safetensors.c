#include "checkpoint/safetensors.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define MAX_HEADER_BYTES 100000000 /* the format's own limit */
#define METADATA "__metadata__"

/* More dimensions than anything has; buffers have four. */
#define MAX_DIMS 16

/* A dtype of the format: ours if a weight may have it. */
typedef struct format_dtype {
    const char *name;
    uint64_t n_bytes;
    cf_dtype dtype;
} format_dtype;

static const format_dtype format_dtypes[] = {
    {"F16", 2, CF_DTYPE_F16},         {"BF16", 2, CF_DTYPE_BF16},
    {"F32", 4, CF_DTYPE_F32},         {"F64", 8, CF_DTYPE_DEFAULT},
    {"BOOL", 1, CF_DTYPE_DEFAULT},    {"U8", 1, CF_DTYPE_DEFAULT},
    {"I8", 1, CF_DTYPE_DEFAULT},      {"U16", 2, CF_DTYPE_DEFAULT},
    {"I16", 2, CF_DTYPE_DEFAULT},     {"U32", 4, CF_DTYPE_DEFAULT},
    {"I32", 4, CF_DTYPE_DEFAULT},     {"U64", 8, CF_DTYPE_DEFAULT},
    {"I64", 8, CF_DTYPE_DEFAULT},     {"F8_E4M3", 1, CF_DTYPE_DEFAULT},
    {"F8_E5M2", 1, CF_DTYPE_DEFAULT}, {"C64", 8, CF_DTYPE_DEFAULT},
};

/* One tensor of the header, and the bytes of the data that it claims. */
typedef struct entry {
    const char *name;
    const format_dtype *dtype;
    int64_t dims[MAX_DIMS];
    size_t n_dims;
    uint64_t begin, end;
} entry;

/* A file being read. */
typedef struct source {
    const char *file;
    const uint8_t *bytes; /* behind the header */
    uint64_t n_bytes;
} source;

/* The format's dtype of that name; NULL: it has none. */
static const format_dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof format_dtypes / sizeof *format_dtypes; i++)
        if (strcmp(name, format_dtypes[i].name) == 0)
            return &format_dtypes[i];
    return NULL;
}

static cf_status entry_dtype(const source *from, const json_t *info, entry *to, cf_error *error)
{
    const json_t *value = json_object_get(info, "dtype");
    if (!json_is_string(value)) {
        cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s: dtype is %s, expected a string", from->file,
                to->name, value == NULL ? "missing" : cf_json_kind(value));
        return CF_STATUS_BAD_FILE;
    }
    to->dtype = find_dtype(json_string_value(value));
    if (to->dtype != NULL)
        return CF_STATUS_OK;
    cf_fail(error, CF_STATUS_UNSUPPORTED,
            "%s: %s has the unknown dtype %.40s, expected F16, BF16 or F32", from->file, to->name,
            json_string_value(value));
    return CF_STATUS_UNSUPPORTED;
}

static cf_status entry_shape(const source *from, const json_t *info, entry *to, cf_error *error)
{
    const json_t *shape = json_object_get(info, "shape");
    if (!json_is_array(shape))
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s: shape is %s, expected an array",
                       from->file, to->name, shape == NULL ? "missing" : cf_json_kind(shape));
    to->n_dims = json_array_size(shape);
    if (to->n_dims > MAX_DIMS)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s has %zu dimensions, expected 1 or 2",
                       from->file, to->name, to->n_dims);
    for (size_t i = 0; i < to->n_dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "%s: %s: shape[%zu] is %s, expected an integer of at least 0",
                           from->file, to->name, i,
                           json_is_integer(size) ? "negative" : cf_json_kind(size));
        to->dims[i] = json_integer_value(size);
    }
    return CF_STATUS_OK;
}

/* What stands in the place of an array of two integers, for messages. */
static const char *describe_offsets(const json_t *offsets)
{
    if (offsets == NULL)
        return "missing";
    if (!json_is_array(offsets))
        return cf_json_kind(offsets);
    return json_array_size(offsets) == 2 ? "no integers" : "not two";
}

static cf_status entry_offsets(const source *from, const json_t *info, entry *to, cf_error *error)
{
    const json_t *offsets = json_object_get(info, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %s: data_offsets are %s, expected an array of two integers", from->file,
                       to->name, describe_offsets(offsets));
    json_int_t first = json_integer_value(begin), last = json_integer_value(end);
    if (first < 0 || last < first || (uint64_t)last > from->n_bytes)
        return cf_fail(
            error, CF_STATUS_BAD_FILE,
            "%s: %s: data_offsets are [%lld,%lld], expected an ascending pair within the "
            "file's %" PRIu64 " bytes of data",
            from->file, to->name, (long long)first, (long long)last, from->n_bytes);
    to->begin = (uint64_t)first;
    to->end = (uint64_t)last;
    return CF_STATUS_OK;
}

static cf_status check_bytes(const source *from, const entry *one, cf_error *error)
{
    uint64_t expected = one->dtype->n_bytes;
    for (size_t i = 0; i < one->n_dims; i++)
        if (__builtin_mul_overflow(expected, (uint64_t)one->dims[i], &expected))
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "%s: %s: its shape has more than 2^64 bytes, data_offsets hold %" PRIu64,
                           from->file, one->name, one->end - one->begin);
    if (expected != one->end - one->begin)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %s: shape and dtype %s take %" PRIu64
                       " bytes, data_offsets hold %" PRIu64,
                       from->file, one->name, one->dtype->name, expected, one->end - one->begin);
    return CF_STATUS_OK;
}

static cf_status read_entry(const source *from, const char *name, const json_t *info, entry *to,
                            cf_error *error)
{
    *to = (entry){.name = name};
    CF_TRY(cf_tensor_name_check(from->file, name, strlen(name), error));
    if (!json_is_object(info))
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is %s, expected an object", from->file,
                       name, cf_json_kind(info));
    CF_TRY(entry_dtype(from, info, to, error));
    CF_TRY(entry_shape(from, info, to, error));
    CF_TRY(entry_offsets(from, info, to, error));
    return check_bytes(from, to, error);
}

static int compare_offsets(const void *left, const void *right)
{
    const entry *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

/* The format's rule: every byte of the data belongs to one tensor. */
static cf_status check_cover(const source *from, entry *entries, size_t n, cf_error *error)
{
    qsort(entries, n, sizeof *entries, compare_offsets);
    uint64_t covered = 0;
    for (size_t i = 0; i < n; i++) {
        if (entries[i].begin < covered)
            return cf_fail(
                error, CF_STATUS_BAD_FILE,
                "%s: %s begins at byte %" PRIu64 " of the data, inside %s, which ends at "
                "%" PRIu64,
                from->file, entries[i].name, entries[i].begin, entries[i - 1].name, covered);
        if (entries[i].begin > covered)
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "%s: %s begins at byte %" PRIu64 " of the data, expected %" PRIu64
                           ": the bytes between belong to no tensor",
                           from->file, entries[i].name, entries[i].begin, covered);
        covered = entries[i].end;
    }
    if (covered != from->n_bytes)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %" PRIu64 " bytes of data, its tensors take %" PRIu64, from->file,
                       from->n_bytes, covered);
    return CF_STATUS_OK;
}

static cf_status add_entry(const source *from, const entry *one, cf_tensor_list *list,
                           cf_error *error)
{
    size_t n_name = strlen(one->name);
    const void *data = from->bytes + one->begin;
    if (!cf_tensor_is_buffer(one->name, n_name))
        CF_TRY(cf_aligned_bytes(list->arena, data, (size_t)(one->end - one->begin),
                                cf_dtype_bytes(one->dtype->dtype), &data, error));
    cf_array array = {
        .file = from->file,
        .name = one->name,
        .n_name = n_name,
        .dtype = one->dtype->dtype,
        .dtype_name = one->dtype->name,
        .dims = one->dims,
        .n_dims = one->n_dims,
        .data = data,
    };
    return cf_tensor_list_add(list, &array, error);
}

/* An object of strings: of no use here, but a file that has it otherwise is damaged. */
static cf_status check_metadata(const source *from, json_t *metadata, cf_error *error)
{
    const char *name;
    json_t *value;
    if (!json_is_object(metadata))
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: " METADATA " is %s, expected an object",
                       from->file, cf_json_kind(metadata));
    json_object_foreach(metadata, name, value)
    {
        if (!json_is_string(value))
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "%s: " METADATA ": %.100s is %s, expected a string", from->file, name,
                           cf_json_kind(value));
    }
    return CF_STATUS_OK;
}

static cf_status read_entries(const source *from, json_t *header, entry *entries,
                              cf_tensor_list *list, cf_error *error)
{
    size_t n = 0;
    const char *name;
    json_t *info;
    json_object_foreach(header, name, info)
    {
        if (strcmp(name, METADATA) != 0)
            CF_TRY(read_entry(from, name, info, &entries[n++], error));
        else
            CF_TRY(check_metadata(from, info, error));
    }
    CF_TRY(check_cover(from, entries, n, error));
    for (size_t i = 0; i < n; i++)
        CF_TRY(add_entry(from, &entries[i], list, error));
    return CF_STATUS_OK;
}

static cf_status read_header(const source *from, json_t *header, cf_tensor_list *list,
                             cf_error *error)
{
    if (!json_is_object(header))
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: the header is %s, expected an object",
                       from->file, cf_json_kind(header));
    entry *entries;
    CF_TRY(CF_ALLOC(&entries, json_object_size(header), "table of tensors", error));
    cf_status status = read_entries(from, header, entries, list, error);
    cf_dealloc(entries);
    return status;
}

static uint64_t little_endian_u64(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

cf_status cf_safetensors_read(const void *data, size_t n_bytes, const char *file,
                              cf_tensor_list *list, cf_error *error)
{
    if (n_bytes < LENGTH_BYTES)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %zu bytes, expected at least the %d of the header's length", file,
                       n_bytes, LENGTH_BYTES);
    uint64_t n_header = little_endian_u64(data);
    size_t n_rest = n_bytes - LENGTH_BYTES;
    if (n_header > n_rest || n_header > MAX_HEADER_BYTES)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: the header's length is %" PRIu64 " bytes, expected at most %zu", file,
                       n_header, n_rest < MAX_HEADER_BYTES ? n_rest : MAX_HEADER_BYTES);
    const uint8_t *text = (const uint8_t *)data + LENGTH_BYTES;
    source from = {.file = file, .bytes = text + n_header, .n_bytes = n_rest - n_header};
    char name[300];
    snprintf(name, sizeof name, "%s: header", file);
    json_t *header;
    CF_TRY(cf_json_parse(text, (size_t)n_header, name, &header, error));
    cf_status status = read_header(&from, header, list, error);
    json_decref(header);
    return status;
}
