#include "cli/open.h"

#include "base/file.h"
#include "base/status.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The bundled model, seen from the program's folder: in a source tree, and where it is installed.
 */
static const char *const bundled_models[] = {
    "../../models/classics",
    "../share/clusterfusion/models/classics",
};

static cf_status find_program_folder(char *folder, size_t capacity, cf_error *error)
{
    ssize_t n = readlink("/proc/self/exe", folder, capacity);
    if (n <= 0 || (size_t)n >= capacity)
        return cf_fail(
            error, CF_STATUS_NOT_FOUND,
            "no --model DIR given, and the bundled one cannot be looked for: /proc/self/exe cannot "
            "be read");
    folder[n] = 0;
    *strrchr(folder, '/') = 0;
    return CF_STATUS_OK;
}

/* `path` has room for PATH_MAX bytes. */
static cf_status find_bundled_model(char *path, cf_error *error)
{
    char folder[PATH_MAX], candidate[PATH_MAX];
    CF_TRY(find_program_folder(folder, sizeof folder, error));
    for (size_t i = 0; i < sizeof bundled_models / sizeof *bundled_models; i++) {
        CF_TRY(cf_path_join(candidate, sizeof candidate, folder, bundled_models[i], error));
        if (realpath(candidate, path) != NULL)
            return CF_STATUS_OK;
    }
    return cf_fail(error, CF_STATUS_NOT_FOUND,
                   "no --model DIR given, and the bundled one is neither %s/%s nor %s/%s", folder,
                   bundled_models[0], folder, bundled_models[1]);
}

/* The folder that the options name, or else the bundled one, whose path `path` then holds. */
static cf_status resolve_model(const cf_model_args *args, char *path, const char **resolved,
                               cf_error *error)
{
    *resolved = args->model != NULL ? args->model : path;
    return args->model != NULL ? CF_STATUS_OK : find_bundled_model(path, error);
}

cf_status cf_open_model(const cf_model_args *args, cf_progress *progress, cf_model **model,
                        cf_error *error)
{
    *model = NULL;
    char found[PATH_MAX];
    const char *path;
    CF_TRY(resolve_model(args, found, &path, error));
    cf_model_options options = {
        .size = sizeof options,
        .backend = (cf_backend)args->backend,
        .progress = cf_progress_update,
        .progress_user = progress,
    };
    cf_status status = cf_model_open(path, &options, model, error);
    cf_progress_clear(progress);
    return status;
}

cf_status cf_open_tokenizer(const cf_model_args *args, const char *needed_for,
                            cf_tokenizer **tokenizer, cf_error *error)
{
    *tokenizer = NULL;
    if (args->tokenizer != NULL)
        return cf_tokenizer_open(args->tokenizer, tokenizer, error);
    char found[PATH_MAX], path[PATH_MAX];
    const char *folder;
    CF_TRY(resolve_model(args, found, &folder, error));
    CF_TRY(cf_path_join(path, sizeof path, folder, "tokenizer.json", error));
    if (cf_path_exists(path))
        return cf_tokenizer_open(path, tokenizer, error);
    if (needed_for != NULL)
        return cf_fail(error, CF_STATUS_NOT_FOUND, "%s: not found, and %s", path, needed_for);
    return CF_STATUS_OK;
}

cf_session_options cf_open_session_options(const cf_model_args *args)
{
    return (cf_session_options){
        .size = sizeof(cf_session_options),
        .n_context = (int32_t)args->n_context,
        .n_threads = (int32_t)args->n_threads,
        .kv_dtype = args->kv == 1 ? CF_DTYPE_F32 : CF_DTYPE_F16,
    };
}

cf_status cf_open_all(const cf_model_args *args, const cf_source *source, const char *needed_for,
                      cf_input *input, cf_opened *opened, cf_error *error)
{
    cf_progress progress = {0};
    cf_session_options options = cf_open_session_options(args);
    *opened = (cf_opened){0};
    CF_TRY(cf_source_read(source, input, error));
    cf_interrupt_catch();
    CF_TRY(cf_open_model(args, &progress, &opened->model, error));
    CF_TRY(cf_open_tokenizer(args, needed_for, &opened->tokenizer, error));
    CF_TRY(cf_source_encode(source, opened->tokenizer, input, error));
    return cf_session_create(opened->model, &options, &opened->session, error);
}

void cf_open_close(cf_opened *opened)
{
    cf_session_free(opened->session);
    cf_tokenizer_close(opened->tokenizer);
    cf_model_close(opened->model);
}
