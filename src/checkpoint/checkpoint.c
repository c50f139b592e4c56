#include "checkpoint/checkpoint.h"

#include "base/status.h"
#include "checkpoint/config.h"
#include "checkpoint/index.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_bin.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_NAME "config.json"
#define MAX_CONFIG_BYTES ((size_t)1 << 20)
#define MAX_INDEX_BYTES ((size_t)64 << 20)
#define LFS_POINTER "version https://git-lfs"

typedef cf_status (*weights_reader)(const void *data, size_t n_bytes, const char *file,
                                    cf_tensor_list *list, const char **format, cf_error *error);

/* The weight files that a folder may have, in order of preference. */
typedef struct layout {
    const char *file;
    bool is_index; /* the file only names those that hold the weights */
    weights_reader read;
} layout;

/* What is being opened. */
typedef struct opening {
    const char *folder;
    cf_checkpoint *checkpoint;
    cf_tensor_list list;
    const layout *layout;
} opening;

static cf_status read_safetensors(const void *data, size_t n_bytes, const char *file,
                                  cf_tensor_list *list, const char **format, cf_error *error)
{
    *format = "safetensors";
    return cf_safetensors_read(data, n_bytes, file, list, error);
}

static const layout layouts[] = {
    {"model.safetensors", false, read_safetensors},
    {"model.safetensors.index.json", true, read_safetensors},
    {"pytorch_model.bin", false, cf_torch_bin_read},
    {"pytorch_model.bin.index.json", true, cf_torch_bin_read},
};

/* Maps a small JSON file of the folder. */
static cf_status map_text(const char *folder, const char *name, size_t max_bytes, cf_file *file,
                          cf_error *error)
{
    char path[PATH_MAX];
    CF_TRY(cf_path_join(path, sizeof path, folder, name, error));
    CF_TRY(cf_file_map(path, file, error));
    if (file->n_bytes <= max_bytes)
        return CF_STATUS_OK;
    cf_status status = cf_fail(error, CF_STATUS_BAD_FILE, "%s: %zu bytes, expected at most %zu",
                               name, file->n_bytes, max_bytes);
    cf_file_unmap(file);
    return status;
}

static cf_status open_config(opening *what, cf_error *error)
{
    cf_file file;
    CF_TRY(map_text(what->folder, CONFIG_NAME, MAX_CONFIG_BYTES, &file, error));
    cf_checkpoint *checkpoint = what->checkpoint;
    cf_status status = cf_config_parse(file.data, file.n_bytes, CONFIG_NAME, &checkpoint->shape,
                                       &checkpoint->more_ends, error);
    cf_file_unmap(&file);
    return status;
}

/* Maps one weight file and appends its tensors; `name` lives as long as the checkpoint. */
static cf_status open_file(opening *what, const char *name, cf_error *error)
{
    char path[PATH_MAX];
    CF_TRY(cf_path_join(path, sizeof path, what->folder, name, error));
    cf_checkpoint *checkpoint = what->checkpoint;
    cf_file *map = &checkpoint->maps[checkpoint->n_files];
    cf_status status = cf_file_map(path, map, error);
    if (status == CF_STATUS_NOT_FOUND && what->layout->is_index)
        return cf_fail(error, status, "%s: no such file, named by %s", path, what->layout->file);
    if (status != CF_STATUS_OK)
        return status;
    cf_file_info *info = &checkpoint->files[checkpoint->n_files++];
    *info = (cf_file_info){.name = name, .bytes = map->n_bytes};
    size_t n_pointer = strlen(LFS_POINTER);
    if (map->n_bytes > n_pointer && memcmp(map->data, LFS_POINTER, n_pointer) == 0)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: a Git LFS pointer, the weights themselves were not fetched", name);
    return what->layout->read(map->data, map->n_bytes, name, &what->list, &info->format, error);
}

static cf_status open_files(opening *what, const char *const *names, size_t n, cf_error *error)
{
    cf_arena *arena = &what->checkpoint->arena;
    CF_TRY(CF_ARENA_TAKE(arena, &what->checkpoint->files, n, "list of files", error));
    CF_TRY(CF_ARENA_TAKE(arena, &what->checkpoint->maps, n, "list of files", error));
    for (size_t i = 0; i < n; i++)
        CF_TRY(open_file(what, names[i], error));
    return CF_STATUS_OK;
}

static int compare_names(const void *left, const void *right)
{
    const cf_tensor *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static cf_status sort_tensors(opening *what, cf_error *error)
{
    cf_tensor *tensors = what->list.tensors;
    size_t n = what->list.n;
    if (n > 0)
        qsort(tensors, n, sizeof *tensors, compare_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(tensors[i - 1].name, tensors[i].name) == 0)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is there twice, also in %s",
                           tensors[i].file, tensors[i].name, tensors[i - 1].file);
    what->checkpoint->tensors = tensors;
    what->checkpoint->n_tensors = n;
    return CF_STATUS_OK;
}

static cf_status parse_index(opening *what, cf_index *index, cf_error *error)
{
    cf_file file;
    const char *name = what->layout->file;
    CF_TRY(map_text(what->folder, name, MAX_INDEX_BYTES, &file, error));
    cf_status status =
        cf_index_parse(file.data, file.n_bytes, name, &what->checkpoint->arena, index, error);
    cf_file_unmap(&file);
    return status;
}

static cf_status open_weights(opening *what, cf_error *error)
{
    if (!what->layout->is_index) {
        CF_TRY(open_files(what, &what->layout->file, 1, error));
        return sort_tensors(what, error);
    }
    cf_index index;
    CF_TRY(parse_index(what, &index, error));
    CF_TRY(open_files(what, index.files, index.n_files, error));
    CF_TRY(sort_tensors(what, error));
    return cf_index_check(&index, what->layout->file, what->list.tensors, what->list.n, error);
}

static cf_status choose_layout(opening *what, cf_error *error)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        char path[PATH_MAX];
        CF_TRY(cf_path_join(path, sizeof path, what->folder, layouts[i].file, error));
        what->layout = &layouts[i];
        if (cf_path_exists(path))
            return CF_STATUS_OK;
    }
    return cf_fail(error, CF_STATUS_NOT_FOUND,
                   "%s: no weights, expected model.safetensors, model.safetensors.index.json, "
                   "pytorch_model.bin or pytorch_model.bin.index.json",
                   what->folder);
}

static cf_status open_folder(opening *what, cf_error *error)
{
    if (what->folder[0] == 0)
        return cf_fail(error, CF_STATUS_NOT_FOUND, "the model's path is empty, expected a folder");
    if (!cf_path_exists(what->folder))
        return cf_fail(error, CF_STATUS_NOT_FOUND, "%s: no such folder", what->folder);
    if (!cf_path_is_folder(what->folder))
        return cf_fail(error, CF_STATUS_IO, "%s: not a folder", what->folder);
    CF_TRY(open_config(what, error));
    CF_TRY(choose_layout(what, error));
    CF_TRY(open_weights(what, error));
    if (what->list.n == 0)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: holds no weights", what->layout->file);
    return CF_STATUS_OK;
}

cf_status cf_checkpoint_open(const char *path, cf_checkpoint *checkpoint, cf_error *error)
{
    *checkpoint = (cf_checkpoint){0};
    opening what = {.folder = path, .checkpoint = checkpoint};
    what.list.arena = &checkpoint->arena;
    cf_status status = open_folder(&what, error);
    if (status != CF_STATUS_OK)
        cf_checkpoint_close(checkpoint);
    return status;
}

void cf_checkpoint_close(cf_checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->n_files; i++)
        cf_file_unmap(&checkpoint->maps[i]);
    cf_arena_release(&checkpoint->arena);
    *checkpoint = (cf_checkpoint){0};
}
