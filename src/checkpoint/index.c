#include "checkpoint/index.h"

#include "base/json.h"
#include "base/status.h"
#include "checkpoint/tensors.h"

#include <stdlib.h>
#include <string.h>

#define MAX_FILE_NAME_BYTES 255

static cf_status check_file_name(const char *index, const char *tensor, const char *file,
                                 cf_error *error)
{
    size_t n = strlen(file);
    bool plain = n > 0 && n <= MAX_FILE_NAME_BYTES && file[0] != '.' && strchr(file, '/') == NULL &&
                 strchr(file, '\\') == NULL;
    for (size_t i = 0; i < n && plain; i++)
        plain = (unsigned char)file[i] >= ' ' && file[i] != 0x7F;
    if (plain)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_BAD_FILE,
                   "%s: %s lies in \"%.80s\", expected the plain name of a file beside the index",
                   index, tensor, file);
}

static cf_status read_rows(json_t *map, const char *name, cf_arena *arena, cf_index *index,
                           cf_error *error)
{
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file)
    {
        size_t n_tensor = strlen(tensor);
        CF_TRY(cf_tensor_name_check(name, tensor, n_tensor, error));
        if (!json_is_string(file))
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s lies in %s, expected a file name",
                           name, tensor, cf_json_kind(file));
        CF_TRY(check_file_name(name, tensor, json_string_value(file), error));
        cf_index_row *row = &index->rows[index->n_rows++];
        CF_TRY(cf_arena_text(arena, &row->tensor, tensor, n_tensor, error));
        CF_TRY(cf_arena_text(arena, &row->file, json_string_value(file), json_string_length(file),
                             error));
    }
    return CF_STATUS_OK;
}

static int compare_files(const void *left, const void *right)
{
    const cf_index_row *a = left, *b = right;
    return strcmp(a->file, b->file);
}

static int compare_tensors(const void *left, const void *right)
{
    const cf_index_row *a = left, *b = right;
    return strcmp(a->tensor, b->tensor);
}

/* Lists each file once and points the rows at the list's names. */
static cf_status list_files(cf_arena *arena, cf_index *index, cf_error *error)
{
    CF_TRY(CF_ARENA_TAKE(arena, &index->files, index->n_rows, "list of files", error));
    qsort(index->rows, index->n_rows, sizeof *index->rows, compare_files);
    for (size_t i = 0; i < index->n_rows; i++) {
        const char *file = index->rows[i].file;
        if (index->n_files == 0 || strcmp(index->files[index->n_files - 1], file) != 0)
            index->files[index->n_files++] = file;
        index->rows[i].file = index->files[index->n_files - 1];
    }
    qsort(index->rows, index->n_rows, sizeof *index->rows, compare_tensors);
    return CF_STATUS_OK;
}

static void drop_buffers(cf_index *index)
{
    size_t n = 0;
    for (size_t i = 0; i < index->n_rows; i++)
        if (!cf_tensor_is_buffer(index->rows[i].tensor, strlen(index->rows[i].tensor)))
            index->rows[n++] = index->rows[i];
    index->n_rows = n;
}

static cf_status read_index(const json_t *root, const char *name, cf_arena *arena, cf_index *index,
                            cf_error *error)
{
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        return cf_fail(
            error, CF_STATUS_BAD_FILE, "%s: weight_map is %s, expected an object that names files",
            name, map == NULL ? "missing" : (json_is_object(map) ? "empty" : cf_json_kind(map)));
    CF_TRY(CF_ARENA_TAKE(arena, &index->rows, json_object_size(map), "weight map", error));
    CF_TRY(read_rows(map, name, arena, index, error));
    CF_TRY(list_files(arena, index, error));
    drop_buffers(index);
    return CF_STATUS_OK;
}

cf_status cf_index_parse(const void *data, size_t n_bytes, const char *name, cf_arena *arena,
                         cf_index *index, cf_error *error)
{
    *index = (cf_index){0};
    json_t *root;
    CF_TRY(cf_json_parse(data, n_bytes, name, &root, error));
    cf_status status = read_index(root, name, arena, index, error);
    json_decref(root);
    return status;
}

static cf_status missing(const cf_index_row *row, const char *name, cf_error *error)
{
    return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is missing, %s says that it lies here",
                   row->file, row->tensor, name);
}

cf_status cf_index_check(const cf_index *index, const char *name, const cf_tensor *tensors,
                         size_t n_tensors, cf_error *error)
{
    const cf_index_row *row = index->rows, *end = index->rows + index->n_rows;
    for (size_t i = 0; i < n_tensors; i++, row++) {
        const cf_tensor *tensor = &tensors[i];
        int order = row == end ? 1 : strcmp(row->tensor, tensor->name);
        if (order < 0)
            return missing(row, name, error);
        if (order > 0)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is not in the weight_map of %s",
                           tensor->file, tensor->name, name);
        if (strcmp(row->file, tensor->file) != 0)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s lies here, %s says in %s",
                           tensor->file, tensor->name, name, row->file);
    }
    return row == end ? CF_STATUS_OK : missing(row, name, error);
}
