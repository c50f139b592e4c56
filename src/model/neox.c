#include "model/neox.h"

#include "base/memory.h"
#include "base/status.h"
#include "checkpoint/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "gpt_neox."
#define LAYER_PREFIX "layers."
#define HEAD_NAME "embed_out.weight"
#define HEAD_ALIAS "lm_head.weight" /* what transformers 5 calls it */

/* When a tensor must be there: a row's last column in the tables. */
typedef enum needs { ALWAYS, ATTENTION_BIAS, UNTIED } needs;

/* A row of the tables with its sizes worked out, and where its tensor is to be put. */
typedef struct slot {
    const char *name;
    int64_t rows, columns;
    bool required;
    const cf_tensor **place;
} slot;

enum {
#define COUNT(field, name, rows, columns, needs) +1
    N_LAYER_SLOTS = 0 CF_NEOX_LAYER_TENSORS(COUNT),
    N_OUTER_SLOTS = 0 CF_NEOX_OUTER_TENSORS(COUNT),
#undef COUNT
};

/* The largest size of any dimension: products of two then fit in 64 bits with room to spare. */
#define MAX_SIZE (1 << 24)
#define MAX_LAYERS 4096

const char *cf_neox_plain_name(const char *name)
{
    if (strcmp(name, HEAD_ALIAS) == 0)
        return HEAD_NAME;
    size_t n = strlen(PREFIX);
    return strncmp(name, PREFIX, n) == 0 ? name + n : name;
}

bool cf_neox_is_buffer(const char *name)
{
    return cf_tensor_is_buffer(name, strlen(name));
}

static cf_status check_size(const char *name, int64_t size, int64_t low, int64_t high,
                            cf_error *error)
{
    if (size >= low && size <= high)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "shape: %s is %lld, expected %lld to %lld",
                   name, (long long)size, (long long)low, (long long)high);
}

cf_status cf_shape_check(const cf_shape *shape, cf_error *error)
{
    CF_TRY(check_size("n_layers", shape->n_layers, 1, MAX_LAYERS, error));
    CF_TRY(check_size("d_model", shape->d_model, 1, MAX_SIZE, error));
    CF_TRY(check_size("n_heads", shape->n_heads, 1, shape->d_model, error));
    CF_TRY(check_size("d_head", shape->d_head, 1, shape->d_model, error));
    CF_TRY(check_size("d_rotary", shape->d_rotary, 0, shape->d_head, error));
    CF_TRY(check_size("d_ffn", shape->d_ffn, 1, MAX_SIZE, error));
    CF_TRY(check_size("n_vocab", shape->n_vocab, 1, MAX_SIZE, error));
    CF_TRY(check_size("n_context", shape->n_context, 1, MAX_SIZE, error));
    if ((int64_t)shape->n_heads * shape->d_head != shape->d_model)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "shape: d_model is %d, expected n_heads %d times d_head %d", shape->d_model,
                       shape->n_heads, shape->d_head);
    if (shape->d_rotary % 2 != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "shape: d_rotary is %d, expected even",
                       shape->d_rotary);
    if (!(shape->rope_theta > 0) || !(shape->rope_theta <= 1e30f))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "shape: rope_theta is %g, expected positive and finite",
                       (double)shape->rope_theta);
    if (!(shape->layer_norm_eps >= 0) || !(shape->layer_norm_eps < 1))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "shape: layer_norm_eps is %g, expected at least 0 and less than 1",
                       (double)shape->layer_norm_eps);
    return check_size("activation", (int64_t)shape->activation, CF_ACTIVATION_GELU_ERF,
                      CF_ACTIVATION_SILU, error);
}

static bool is_required(const cf_shape *shape, needs when)
{
    switch (when) {
    case ATTENTION_BIAS:
        return shape->attention_bias;
    case UNTIED:
        return !shape->tied_embeddings;
    case ALWAYS:
        break;
    }
    return true;
}

#define SLOT(field, text, n_rows, n_columns, when)                                                 \
    slots[n++] = (slot){.name = text,                                                              \
                        .rows = n_rows,                                                            \
                        .columns = n_columns,                                                      \
                        .required = is_required(shape, when),                                      \
                        .place = &owner->field};

static void layer_slots(const cf_shape *shape, cf_neox_layer *owner, slot slots[N_LAYER_SLOTS])
{
    int64_t D = shape->d_model, F = shape->d_ffn;
    size_t n = 0;
    CF_NEOX_LAYER_TENSORS(SLOT)
}

static void outer_slots(const cf_shape *shape, cf_neox *owner, slot slots[N_OUTER_SLOTS])
{
    int64_t D = shape->d_model, V = shape->n_vocab;
    size_t n = 0;
    CF_NEOX_OUTER_TENSORS(SLOT)
}

/* Splits "layers.12.mlp.x" into 12 and "mlp.x"; false for a name outside the layers. */
static bool split_layer_name(const char *name, long *layer, const char **rest)
{
    size_t n = strlen(LAYER_PREFIX);
    if (strncmp(name, LAYER_PREFIX, n) != 0 || name[n] < '0' || name[n] > '9')
        return false;
    if (name[n] == '0' && name[n + 1] != '.')
        return false; /* 007 is no layer's number */
    char *end;
    *layer = strtol(name + n, &end, 10);
    *rest = end + 1;
    return *end == '.';
}

static const char *file_of(const cf_tensor *tensor)
{
    return tensor->file != NULL ? tensor->file : "tensor";
}

/* What the tensor's shape is held against, for messages. */
static const char *shape_source(const cf_tensor *tensor)
{
    return tensor->file != NULL ? "config.json" : "the given shape";
}

static void print_shape(char text[64], int64_t rows, int64_t columns, bool is_vector)
{
    if (is_vector)
        snprintf(text, 64, "[%lld]", (long long)rows);
    else
        snprintf(text, 64, "[%lld,%lld]", (long long)rows, (long long)columns);
}

static cf_status check_tensor(const cf_tensor *tensor, const slot *wanted, cf_error *error)
{
    bool vector = wanted->columns == 0;
    bool fits = tensor->n_dims == (vector ? 1 : 2) && tensor->dims[0] == wanted->rows &&
                (vector || tensor->dims[1] == wanted->columns);
    if (!fits) {
        char found[64], expected[64];
        print_shape(found, tensor->dims[0], tensor->dims[1], tensor->n_dims == 1);
        print_shape(expected, wanted->rows, wanted->columns, vector);
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s has shape %s, %s implies %s",
                       file_of(tensor), tensor->name, found, shape_source(tensor), expected);
    }
    if (cf_dtype_bytes(tensor->dtype) == 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "%s: %s has an unknown dtype, %d",
                       file_of(tensor), tensor->name, (int)tensor->dtype);
    if (tensor->data == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "%s: %s has no data", file_of(tensor),
                       tensor->name);
    if (*wanted->place != NULL)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is there twice, first in %s",
                       file_of(tensor), tensor->name, file_of(*wanted->place));
    return CF_STATUS_OK;
}

/* Puts one tensor into its slot; a weight that the config says is absent is accepted and unused. */
static cf_status bind_tensor(cf_neox *neox, const cf_tensor *tensor, cf_error *error)
{
    slot slots[N_LAYER_SLOTS > N_OUTER_SLOTS ? N_LAYER_SLOTS : N_OUTER_SLOTS];
    size_t n_slots = N_OUTER_SLOTS;
    const char *name = cf_neox_plain_name(tensor->name), *rest = name;
    long layer;
    if (split_layer_name(name, &layer, &rest)) {
        if (layer >= neox->shape.n_layers)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is one too many, %s has %d layers",
                           file_of(tensor), tensor->name, shape_source(tensor),
                           neox->shape.n_layers);
        n_slots = N_LAYER_SLOTS;
        layer_slots(&neox->shape, &neox->layers[layer], slots);
    } else {
        outer_slots(&neox->shape, neox, slots);
    }
    for (size_t i = 0; i < n_slots; i++) {
        if (strcmp(rest, slots[i].name) != 0)
            continue;
        CF_TRY(check_tensor(tensor, &slots[i], error));
        if (slots[i].required)
            *slots[i].place = tensor;
        return CF_STATUS_OK;
    }
    return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s is not a tensor of GPT-NeoX", file_of(tensor),
                   tensor->name);
}

/* How the tensors at hand are called and where they lie, to say which one is missing. */
typedef struct origin {
    const char *file;   /* that of all tensors, if they lie in one */
    const char *prefix; /* "gpt_neox." if their names have it */
} origin;

static origin find_origin(const cf_tensor *tensors, size_t n_tensors)
{
    origin from = {.file = "tensors", .prefix = ""};
    for (size_t i = 0; i < n_tensors; i++) {
        if (strncmp(tensors[i].name, PREFIX, strlen(PREFIX)) == 0)
            from.prefix = PREFIX;
        if (i == 0)
            from.file = file_of(&tensors[0]);
        else if (strcmp(from.file, file_of(&tensors[i])) != 0)
            from.file = "all files";
    }
    return from;
}

static cf_status check_slots(const slot *slots, size_t n_slots, const origin *from,
                             const char *layer, cf_error *error)
{
    for (size_t i = 0; i < n_slots; i++) {
        if (!slots[i].required || *slots[i].place != NULL)
            continue;
        char expected[64];
        print_shape(expected, slots[i].rows, slots[i].columns, slots[i].columns == 0);
        bool is_head = strcmp(slots[i].name, HEAD_NAME) == 0; /* outside the prefix's module */
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s%s%s is missing, expected with shape %s",
                       from->file, is_head ? "" : from->prefix, layer, slots[i].name, expected);
    }
    return CF_STATUS_OK;
}

static cf_status check_complete(cf_neox *neox, const origin *from, cf_error *error)
{
    slot slots[N_LAYER_SLOTS > N_OUTER_SLOTS ? N_LAYER_SLOTS : N_OUTER_SLOTS];
    outer_slots(&neox->shape, neox, slots);
    CF_TRY(check_slots(slots, N_OUTER_SLOTS, from, "", error));
    for (int32_t i = 0; i < neox->shape.n_layers; i++) {
        char layer[32];
        snprintf(layer, sizeof layer, LAYER_PREFIX "%d.", i);
        layer_slots(&neox->shape, &neox->layers[i], slots);
        CF_TRY(check_slots(slots, N_LAYER_SLOTS, from, layer, error));
    }
    return CF_STATUS_OK;
}

static cf_status bind_all(const cf_tensor *tensors, size_t n_tensors, cf_neox *neox,
                          cf_error *error)
{
    CF_TRY(CF_ALLOC(&neox->layers, (size_t)neox->shape.n_layers, "table of layers", error));
    for (size_t i = 0; i < n_tensors; i++) {
        if (tensors[i].name == NULL)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "tensor %zu has no name", i);
        if (!cf_neox_is_buffer(tensors[i].name))
            CF_TRY(bind_tensor(neox, &tensors[i], error));
    }
    origin from = find_origin(tensors, n_tensors);
    CF_TRY(check_complete(neox, &from, error));
    if (neox->shape.tied_embeddings)
        neox->head = neox->embed;
    return CF_STATUS_OK;
}

cf_status cf_neox_bind(const cf_shape *shape, const cf_tensor *tensors, size_t n_tensors,
                       cf_neox *neox, cf_error *error)
{
    *neox = (cf_neox){.shape = *shape};
    CF_TRY(cf_shape_check(shape, error));
    cf_status status = bind_all(tensors, n_tensors, neox, error);
    if (status != CF_STATUS_OK)
        cf_neox_unbind(neox);
    return status;
}

void cf_neox_unbind(cf_neox *neox)
{
    cf_dealloc(neox->layers);
    *neox = (cf_neox){0};
}
