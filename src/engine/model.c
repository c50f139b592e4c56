#include "engine/model.h"

#include "base/memory.h"
#include "engine/arguments.h"
#include "engine/backends.h"
#include "engine/hash.h"

#include <stdlib.h>
#include <string.h>

static uint64_t tensor_bytes(const cf_tensor *tensor)
{
    return cf_tensor_elements(tensor) * cf_dtype_bytes(tensor->dtype);
}

static int compare_plain_names(const void *left, const void *right)
{
    const cf_tensor *const *a = left, *const *b = right;
    return strcmp(cf_neox_plain_name((*a)->name), cf_neox_plain_name((*b)->name));
}

/* A tensor's entry in the tables counts once: a tied head is the embedding again. */
static size_t collect_used(const cf_neox *neox, const cf_tensor **used)
{
    size_t n = 0;
#define COLLECT(field, name, rows, columns, needs)                                                 \
    if (owner->field != NULL)                                                                      \
        used[n++] = owner->field;
    for (int32_t i = 0; i < neox->shape.n_layers; i++) {
        const cf_neox_layer *owner = &neox->layers[i];
        CF_NEOX_LAYER_TENSORS(COLLECT)
    }
    {
        const cf_neox *owner = neox;
        CF_NEOX_OUTER_TENSORS(COLLECT)
    }
#undef COLLECT
    qsort(used, n, sizeof *used, compare_plain_names);
    size_t n_distinct = 0;
    for (size_t i = 0; i < n; i++)
        if (i == 0 || used[i] != used[i - 1])
            used[n_distinct++] = used[i];
    return n_distinct;
}

static cf_status list_used(cf_model *model, size_t n_tensors, cf_error *error)
{
    CF_TRY(CF_ALLOC(&model->used, n_tensors + 1, "list of tensors", error));
    size_t n = collect_used(&model->neox, model->used);
    cf_model_info *info = &model->info;
    info->n_tensors = (int32_t)n;
    for (size_t i = 0; i < n; i++) {
        info->n_parameters += cf_tensor_elements(model->used[i]);
        info->weight_bytes += tensor_bytes(model->used[i]);
    }
    const cf_neox *neox = &model->neox;
    uint64_t row = tensor_bytes(neox->embed) / (uint64_t)neox->shape.n_vocab;
    uint64_t gathered = neox->shape.tied_embeddings ? 0 : tensor_bytes(neox->embed);
    info->token_bytes = info->weight_bytes - gathered + row;
    return CF_STATUS_OK;
}

/* Weights of a folder that AUTO's first choice cannot take go to the CPU, which takes all. */
static cf_status hand_over(cf_model *model, const cf_model_options *options, cf_error *error)
{
    cf_status status = model->backend->model_create(&model->neox, options, &model->prepared,
                                                    &model->info.backend_text, error);
    if (status == CF_STATUS_UNSUPPORTED && options->backend == CF_BACKEND_AUTO &&
        model->path != NULL && model->backend->id != CF_BACKEND_CPU) {
        model->backend = &cf_cpu_backend;
        status = model->backend->model_create(&model->neox, options, &model->prepared,
                                              &model->info.backend_text, error);
    }
    model->info.backend = model->backend->id;
    return status;
}

/* Binds the tensors and hands them to the backend. */
static cf_status prepare(cf_model *model, const cf_shape *shape, const cf_tensor *tensors,
                         size_t n_tensors, const cf_model_options *options, cf_error *error)
{
    CF_TRY(cf_neox_bind(shape, tensors, n_tensors, &model->neox, error));
    CF_TRY(list_used(model, n_tensors, error));
    return hand_over(model, options, error);
}

static cf_status read_options(const cf_model_options *from, cf_model_options *options,
                              cf_error *error)
{
    CF_TRY(cf_options_read(from, options, sizeof *options, "model options", error));
    options->size = sizeof *options;
    return cf_check_integer("device", options->device, 0, INT32_MAX, error);
}

static cf_status copy_text(const char *from, char **to, cf_error *error)
{
    size_t n = strlen(from) + 1;
    CF_TRY(CF_ALLOC(to, n, "path", error));
    memcpy(*to, from, n);
    return CF_STATUS_OK;
}

static cf_status open_folder(cf_model *model, const char *path, const cf_model_options *options,
                             cf_error *error)
{
    CF_TRY(cf_backend_choose(options->backend, &model->backend, error));
    CF_TRY(copy_text(path, &model->path, error));
    CF_TRY(cf_checkpoint_open(path, &model->checkpoint, error));
    const cf_checkpoint *checkpoint = &model->checkpoint;
    model->info.path = model->path;
    model->info.n_files = (int32_t)checkpoint->n_files;
    return prepare(model, &checkpoint->shape, checkpoint->tensors, checkpoint->n_tensors, options,
                   error);
}

cf_status cf_model_open(const char *path, const cf_model_options *options, cf_model **model,
                        cf_error *error)
{
    CF_NEED(model, error);
    *model = NULL;
    CF_NEED(path, error);
    cf_model_options read;
    CF_TRY(read_options(options, &read, error));
    cf_model *opened;
    CF_TRY(CF_ALLOC(&opened, 1, "model", error));
    cf_status status = open_folder(opened, path, &read, error);
    if (status == CF_STATUS_OK)
        *model = opened;
    else
        cf_model_close(opened);
    return status;
}

static cf_status check_memory(const cf_tensor *tensor, const cf_backend_interface *backend,
                              cf_error *error)
{
    if (backend->id != CF_BACKEND_CUDA && tensor->device != -1)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "tensor %s is on device %d, backend %s reads host memory, device -1",
                       tensor->name, tensor->device, cf_backend_name(backend->id));
    size_t bytes = cf_dtype_bytes(tensor->dtype);
    if (bytes != 0 && (uintptr_t)tensor->data % bytes != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "tensor %s lies at %p, expected a multiple of %zu bytes", tensor->name,
                       tensor->data, bytes);
    return CF_STATUS_OK;
}

/* The descriptions and their names; the data stays the caller's. */
static cf_status copy_descriptions(cf_model *model, const cf_tensor *tensors, size_t n_tensors,
                                   cf_error *error)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        if (tensors[i].name == NULL)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "tensor %zu has no name", i);
        CF_TRY(check_memory(&tensors[i], model->backend, error));
        n_bytes += strlen(tensors[i].name) + 1;
    }
    CF_TRY(CF_ALLOC(&model->copies, n_tensors, "tensor descriptions", error));
    CF_TRY(CF_ALLOC(&model->names, n_bytes, "tensor names", error));
    char *name = model->names;
    for (size_t i = 0; i < n_tensors; i++) {
        size_t n = strlen(tensors[i].name) + 1;
        memcpy(name, tensors[i].name, n);
        model->copies[i] = tensors[i];
        model->copies[i].name = name;
        model->copies[i].file = NULL;
        if (tensors[i].n_dims == 1)
            model->copies[i].dims[1] = 1;
        name += n;
    }
    return CF_STATUS_OK;
}

static cf_status create_from(cf_model *model, const cf_shape *shape, const cf_tensor *tensors,
                             size_t n_tensors, const cf_model_options *options, cf_error *error)
{
    CF_TRY(copy_descriptions(model, tensors, n_tensors, error));
    return prepare(model, shape, model->copies, n_tensors, options, error);
}

cf_status cf_model_create_with(const cf_backend_interface *backend, const cf_shape *shape,
                               const cf_tensor *tensors, size_t n_tensors,
                               const cf_model_options *options, cf_model **model, cf_error *error)
{
    *model = NULL;
    cf_model_options read;
    CF_TRY(read_options(options, &read, error));
    cf_model *created;
    CF_TRY(CF_ALLOC(&created, 1, "model", error));
    created->backend = backend;
    cf_status status = create_from(created, shape, tensors, n_tensors, &read, error);
    if (status == CF_STATUS_OK)
        *model = created;
    else
        cf_model_close(created);
    return status;
}

cf_status cf_model_create(const cf_shape *shape, const cf_tensor *tensors, size_t n_tensors,
                          const cf_model_options *options, cf_model **model, cf_error *error)
{
    CF_NEED(model, error);
    *model = NULL;
    CF_NEED(shape, error);
    CF_NEED(tensors, error);
    cf_model_options read;
    CF_TRY(read_options(options, &read, error));
    const cf_backend_interface *backend;
    CF_TRY(cf_backend_choose(read.backend, &backend, error));
    return cf_model_create_with(backend, shape, tensors, n_tensors, options, model, error);
}

void cf_model_close(cf_model *model)
{
    if (model == NULL)
        return;
    if (model->prepared != NULL)
        model->backend->model_free(model->prepared);
    cf_neox_unbind(&model->neox);
    cf_checkpoint_close(&model->checkpoint);
    cf_dealloc(model->used);
    cf_dealloc(model->copies);
    cf_dealloc(model->names);
    cf_dealloc(model->path);
    cf_dealloc(model);
}

const cf_shape *cf_model_shape(const cf_model *model)
{
    return model != NULL ? &model->neox.shape : NULL;
}

const cf_model_info *cf_model_info_get(const cf_model *model)
{
    return model != NULL ? &model->info : NULL;
}

const cf_file_info *cf_model_file(const cf_model *model, size_t index)
{
    bool there = model != NULL && index < model->checkpoint.n_files;
    return there ? &model->checkpoint.files[index] : NULL;
}

const cf_tensor *cf_model_tensor(const cf_model *model, size_t index)
{
    bool there = model != NULL && index < (size_t)model->info.n_tensors;
    return there ? model->used[index] : NULL;
}

cf_status cf_model_hash(const cf_model *model, cf_progress_fn progress, void *progress_user,
                        char hash[33], cf_error *error)
{
    CF_NEED(hash, error);
    hash[0] = 0;
    CF_NEED(model, error);
    return cf_tensors_hash(model->used, (size_t)model->info.n_tensors, progress, progress_user,
                           hash, error);
}

cf_status cf_model_measure(const cf_model *model, int32_t n_threads, size_t n_tokens,
                           cf_ceilings *ceilings, cf_error *error)
{
    CF_NEED(ceilings, error);
    *ceilings = (cf_ceilings){0};
    CF_NEED(model, error);
    CF_TRY(cf_check_integer("n_threads", n_threads, 0, CF_MAX_THREADS, error));
    CF_TRY(cf_check_integer("n_tokens", (int64_t)(n_tokens > INT32_MAX ? INT32_MAX : n_tokens), 0,
                            CF_MAX_CONTEXT, error));
    cf_backend_options defaults = {.n_context = (size_t)model->neox.shape.n_context,
                                   .n_threads = n_threads};
    model->backend->session_defaults(model->prepared, &defaults);
    cf_ceilings measured = {0};
    CF_TRY(
        model->backend->measure(model->prepared, defaults.n_threads, n_tokens, &measured, error));
    *ceilings = measured;
    return CF_STATUS_OK;
}
