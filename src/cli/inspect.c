/* clusterfusion inspect: what a model is made of and what it will take. */
#include "base/status.h"
#include "cli/command.h"
#include "cli/open.h"
#include "cli/output.h"
#include "cli/report.h"

#include <stdio.h>
#include <string.h>

typedef struct inspect_args {
    cf_model_args model;
    bool no_hash, tensors;
    size_t json;
} inspect_args;

static const cf_option inspect_options[] = {
    CF_ROW_MODEL(inspect_args),
    {.name = "no-hash",
     .kind = CF_OPTION_FLAG,
     .offset = offsetof(inspect_args, no_hash),
     .help = "Leave out the hash of the weights, which reads all of them."},
    {.name = "tensors",
     .kind = CF_OPTION_FLAG,
     .offset = offsetof(inspect_args, tensors),
     .help = "List each tensor too: name, type, shape, file."},
    CF_ROW_CONTEXT(inspect_args, "the model's"),
    CF_ROW_THREADS(inspect_args),
    CF_ROW_BACKEND(inspect_args),
    CF_ROW_KV(inspect_args),
    {.name = "format",
     .kind = CF_OPTION_CHOICE,
     .value = "FORM",
     .offset = offsetof(inspect_args, json),
     .choices = {"text", "json"},
     .preset = "text",
     .help = "Lines for the eye, or one JSON object."},
    {0},
};

#define N_DTYPES (CF_DTYPE_BF16 + 1)

/* What was found out about a model. */
typedef struct facts {
    const cf_model *model;
    const cf_shape *shape;
    const cf_model_info *info;
    cf_session_memory memory;
    int32_t n_context;
    cf_dtype kv_dtype;
    size_t n_tensors[N_DTYPES]; /* by dtype */
    char hash[33];              /* "": not asked for, or not to be had */
} facts;

static const char *const activation_names[] = {
    [CF_ACTIVATION_GELU_ERF] = "gelu",
    [CF_ACTIVATION_GELU_TANH] = "gelu_tanh",
    [CF_ACTIVATION_RELU] = "relu",
    [CF_ACTIVATION_SILU] = "silu",
};

static cf_status collect(const inspect_args *args, const cf_model *model, facts *found,
                         cf_error *error)
{
    cf_session_options options = cf_open_session_options(&args->model);
    *found = (facts){
        .model = model,
        .shape = cf_model_shape(model),
        .info = cf_model_info_get(model),
        .kv_dtype = options.kv_dtype,
    };
    found->n_context = options.n_context != 0 ? options.n_context : found->shape->n_context;
    for (int32_t i = 0; i < found->info->n_tensors; i++)
        found->n_tensors[cf_model_tensor(model, (size_t)i)->dtype % N_DTYPES]++;
    CF_TRY(cf_session_measure(model, &options, &found->memory, error));
    if (args->no_hash)
        return CF_STATUS_OK;
    cf_progress progress = {0};
    cf_status status = cf_model_hash(model, cf_progress_update, &progress, found->hash, error);
    cf_progress_clear(&progress);
    if (status == CF_STATUS_UNSUPPORTED) {
        found->hash[0] = 0;
        return CF_STATUS_OK;
    }
    return status;
}

static void print_dtypes(const facts *found)
{
    printf("tensors      %d:", found->info->n_tensors);
    const char *separator = " ";
    for (int i = 0; i < N_DTYPES; i++) {
        if (found->n_tensors[i] == 0)
            continue;
        printf("%s%zu %s", separator, found->n_tensors[i], cf_dtype_name((cf_dtype)i));
        separator = ", ";
    }
    putchar('\n');
}

static void print_tensors(const cf_model *model, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        const cf_tensor *tensor = cf_model_tensor(model, (size_t)i);
        char shape[48];
        if (tensor->n_dims == 2)
            snprintf(shape, sizeof shape, "[%lld,%lld]", (long long)tensor->dims[0],
                     (long long)tensor->dims[1]);
        else
            snprintf(shape, sizeof shape, "[%lld]", (long long)tensor->dims[0]);
        printf("%-4s  %-16s  %s  (%s)\n", cf_dtype_name(tensor->dtype), shape, tensor->name,
               tensor->file != NULL ? tensor->file : "memory");
    }
}

static void print_shape(const cf_shape *shape)
{
    printf("shape        %d layers, hidden %d, %d heads of %d, rotary %d, ffn %d\n",
           shape->n_layers, shape->d_model, shape->n_heads, shape->d_head, shape->d_rotary,
           shape->d_ffn);
    printf("vocabulary   %d rows, begin-of-text %d, end-of-text %d\n", shape->n_vocab,
           shape->bos_token, shape->eos_token);
    printf("context      %d tokens\n", shape->n_context);
    printf("arithmetic   %s, %s residual, rope theta %g, layer norm eps %g%s%s\n",
           activation_names[shape->activation],
           shape->parallel_residual ? "parallel" : "sequential", (double)shape->rope_theta,
           (double)shape->layer_norm_eps, shape->attention_bias ? "" : ", no attention bias",
           shape->tied_embeddings ? ", tied embeddings" : "");
}

static void print_text(const facts *found, bool tensors)
{
    const cf_model_info *info = found->info;
    printf("model        %s\n", info->path);
    print_shape(found->shape);
    for (int32_t i = 0; i < info->n_files; i++) {
        const cf_file_info *file = cf_model_file(found->model, (size_t)i);
        printf("file         %s, %s, %llu bytes\n", file->name, file->format,
               (unsigned long long)file->bytes);
    }
    print_dtypes(found);
    printf("parameters   %llu\n", (unsigned long long)info->n_parameters);
    printf("weights      %llu bytes, %llu of them read for each token\n",
           (unsigned long long)info->weight_bytes, (unsigned long long)info->token_bytes);
    if (found->hash[0] != 0)
        printf("hash         %s\n", found->hash);
    printf("session      %d tokens: %llu bytes of KV cache (%s), %llu bytes of scratch\n",
           found->n_context, (unsigned long long)found->memory.kv_bytes,
           cf_dtype_name(found->kv_dtype), (unsigned long long)found->memory.scratch_bytes);
    printf("backend      %s\n", info->backend_text);
    if (tensors)
        print_tensors(found->model, info->n_tensors);
}

static json_t *make_shape(const cf_shape *shape)
{
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:s, s:b, s:b, s:b, s:i, "
                     "s:i}",
                     "n_layers", shape->n_layers, "d_model", shape->d_model, "n_heads",
                     shape->n_heads, "d_head", shape->d_head, "d_rotary", shape->d_rotary, "d_ffn",
                     shape->d_ffn, "n_vocab", shape->n_vocab, "n_context", shape->n_context,
                     "rope_theta", cf_json_real((double)shape->rope_theta), "layer_norm_eps",
                     cf_json_real((double)shape->layer_norm_eps), "activation",
                     activation_names[shape->activation], "parallel_residual",
                     shape->parallel_residual, "attention_bias", shape->attention_bias,
                     "tied_embeddings", shape->tied_embeddings, "bos_token", shape->bos_token,
                     "eos_token", shape->eos_token);
}

static json_t *make_files(const facts *found)
{
    json_t *files = json_array();
    for (int32_t i = 0; i < found->info->n_files; i++) {
        const cf_file_info *file = cf_model_file(found->model, (size_t)i);
        json_array_append_new(files,
                              json_pack("{s:o, s:s, s:I}", "name", cf_json_path(file->name),
                                        "format", file->format, "bytes", (json_int_t)file->bytes));
    }
    return files;
}

static json_t *make_dtypes(const facts *found)
{
    json_t *dtypes = json_object();
    for (int i = 0; i < N_DTYPES; i++) {
        if (found->n_tensors[i] > 0)
            json_object_set_new(dtypes, cf_dtype_name((cf_dtype)i),
                                json_integer((json_int_t)found->n_tensors[i]));
    }
    return dtypes;
}

static json_t *make_tensors(const facts *found)
{
    json_t *tensors = json_array();
    for (int32_t i = 0; i < found->info->n_tensors; i++) {
        const cf_tensor *tensor = cf_model_tensor(found->model, (size_t)i);
        json_t *shape = json_array();
        for (int32_t k = 0; k < tensor->n_dims; k++)
            json_array_append_new(shape, json_integer(tensor->dims[k]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:o}", "name", tensor->name,
                                                 "dtype", cf_dtype_name(tensor->dtype), "shape",
                                                 shape, "file", cf_json_path(tensor->file)));
    }
    return tensors;
}

static json_t *make_json(const facts *found, bool tensors)
{
    const cf_model_info *info = found->info;
    json_t *session =
        json_pack("{s:i, s:s, s:I, s:I}", "n_context", found->n_context, "kv_dtype",
                  cf_dtype_name(found->kv_dtype), "kv_bytes", (json_int_t)found->memory.kv_bytes,
                  "scratch_bytes", (json_int_t)found->memory.scratch_bytes);
    json_t *object =
        json_pack("{s:o, s:o, s:o, s:o, s:i, s:I, s:I, s:I, s:s?, s:o, s:s, s:s}", "path",
                  cf_json_path(info->path), "shape", make_shape(found->shape), "files",
                  make_files(found), "dtypes", make_dtypes(found), "n_tensors", info->n_tensors,
                  "n_parameters", (json_int_t)info->n_parameters, "weight_bytes",
                  (json_int_t)info->weight_bytes, "token_bytes", (json_int_t)info->token_bytes,
                  "hash", found->hash[0] != 0 ? found->hash : NULL, "session", session, "backend",
                  cf_backend_name(info->backend), "backend_text", info->backend_text);
    if (object != NULL && tensors)
        json_object_set_new(object, "tensors", make_tensors(found));
    return object;
}

static cf_status inspect(const inspect_args *args, cf_error *error)
{
    cf_model *model;
    cf_progress progress = {0};
    cf_interrupt_catch();
    CF_TRY(cf_open_model(&args->model, &progress, &model, error));
    facts found;
    cf_status status = collect(args, model, &found, error);
    if (status == CF_STATUS_OK && args->json)
        status = cf_json_print(make_json(&found, args->tensors), error);
    else if (status == CF_STATUS_OK)
        print_text(&found, args->tensors);
    cf_model_close(model);
    return status;
}

static int run(int argc, char **argv)
{
    inspect_args args = {0};
    int code = cf_options_parse(&cf_command_inspect, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    cf_error error;
    return inspect(&args, &error) == CF_STATUS_OK ? CF_EXIT_OK : cf_report_error(&error);
}

const cf_command cf_command_inspect = {
    .name = "inspect",
    .summary = "say what a model is made of and what it will take",
    .synopsis = "[-m DIR] [OPTION]...",
    .description =
        "Prints the model's shape, files, number formats, parameters and bytes, a hash of\n"
        "its weights, the memory that a session with the given options will take, and\n"
        "what the backend will do on this machine. The hash depends on names, types,\n"
        "shapes and values of the weights, not on the format of the files.\n"
        "\n"
        "--format json prints one object: path, shape, files, dtypes (tensors of each),\n"
        "n_tensors, n_parameters, weight_bytes, token_bytes (read for each token), hash\n"
        "(null if left out), session, backend, backend_text.\n",
    .options = inspect_options,
    .examples = "  clusterfusion inspect\n"
                "  clusterfusion inspect -m pythia-2.8b --no-hash -c 4096 --kv f32\n"
                "  clusterfusion inspect --tensors --format json\n",
    .run = run,
};
