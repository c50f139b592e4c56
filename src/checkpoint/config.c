#include "checkpoint/config.h"

#include "base/json.h"
#include "base/status.h"

#include <stdio.h>
#include <string.h>

#define MODEL_TYPE "gpt_neox"
#define MAX_SIZE (1 << 24)
#define MAX_LAYERS 4096

/* What transformers takes where the file is silent. */
#define DEFAULT_CONTEXT 2048
#define DEFAULT_ROTARY_FRACTION 0.25
#define DEFAULT_ROPE_THETA 10000.0
#define DEFAULT_LAYER_NORM_EPS 1e-5

/* An object of the file, and how its fields are called in messages: "" or "rope_parameters.". */
typedef struct section {
    const char *file;
    const char *prefix;
    const json_t *object; /* NULL: nothing in it */
} section;

/* A field that may have been spelled so. */
typedef struct spelling {
    const section *where;
    const char *key;
} spelling;

/* null stands for absence, as it does in Python. */
static const json_t *field(const section *from, const char *key)
{
    const json_t *value = json_object_get(from->object, key);
    return json_is_null(value) ? NULL : value;
}

static void describe(const json_t *value, char text[64])
{
    if (value == NULL)
        snprintf(text, 64, "missing");
    else if (json_is_integer(value))
        snprintf(text, 64, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(text, 64, "%#g", json_real_value(value));
    else if (json_is_boolean(value))
        snprintf(text, 64, "%s", json_is_true(value) ? "true" : "false");
    else if (json_is_string(value) && json_string_length(value) <= 40)
        snprintf(text, 64, "\"%s\"", json_string_value(value));
    else
        snprintf(text, 64, "%s", cf_json_kind(value));
}

static cf_status refuse(const section *from, const char *key, cf_status status,
                        const char *expected, cf_error *error)
{
    char found[64];
    describe(json_object_get(from->object, key), found);
    return cf_fail(error, status, "%s: %s%s is %s, expected %s", from->file, from->prefix, key,
                   found, expected);
}

static cf_status read_size(const section *from, const char *key, int32_t high, int32_t *to,
                           cf_error *error)
{
    const json_t *value = field(from, key);
    if (json_is_integer(value) && json_integer_value(value) >= 1 &&
        json_integer_value(value) <= high) {
        *to = (int32_t)json_integer_value(value);
        return CF_STATUS_OK;
    }
    char expected[64];
    snprintf(expected, sizeof expected, "an integer from 1 to %d", high);
    return refuse(from, key, CF_STATUS_BAD_FILE, expected, error);
}

static cf_status read_flag(const section *from, const char *key, bool otherwise, bool *to,
                           cf_error *error)
{
    const json_t *value = field(from, key);
    *to = value == NULL ? otherwise : json_is_true(value);
    if (value != NULL && !json_is_boolean(value))
        return refuse(from, key, CF_STATUS_BAD_FILE, "true or false", error);
    return CF_STATUS_OK;
}

/*
 * Reads the number that the file may spell in several ways, from `low` to `high`; where it does so
 * twice, both must agree, since nothing says which one the weights were trained with.
 */
static cf_status read_number(const spelling *spellings, size_t n, double low, double high,
                             double *to, cf_error *error)
{
    const spelling *first = NULL;
    for (size_t i = 0; i < n; i++) {
        const spelling *here = &spellings[i];
        const json_t *value = field(here->where, here->key);
        if (value == NULL)
            continue;
        double number = json_number_value(value);
        if (!json_is_number(value) || !(number >= low) || !(number <= high)) {
            char expected[64];
            snprintf(expected, sizeof expected, "a number from %g to %g", low, high);
            return refuse(here->where, here->key, CF_STATUS_BAD_FILE, expected, error);
        }
        if (first != NULL && number != *to)
            return cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s%s is %g, but %s%s is %g",
                           here->where->file, first->where->prefix, first->key, *to,
                           here->where->prefix, here->key, number);
        first = here;
        *to = number;
    }
    return CF_STATUS_OK;
}

static cf_status read_activation(const section *from, cf_activation *to, cf_error *error)
{
    static const struct {
        const char *name;
        cf_activation activation;
    } known[] = {
        {"gelu", CF_ACTIVATION_GELU_ERF},
        {"gelu_python", CF_ACTIVATION_GELU_ERF},
        {"gelu_new", CF_ACTIVATION_GELU_TANH},
        {"gelu_fast", CF_ACTIVATION_GELU_TANH},
        {"gelu_pytorch_tanh", CF_ACTIVATION_GELU_TANH},
        {"relu", CF_ACTIVATION_RELU},
        {"silu", CF_ACTIVATION_SILU},
        {"swish", CF_ACTIVATION_SILU},
    };
    const json_t *value = field(from, "hidden_act");
    if (value != NULL && !json_is_string(value))
        return refuse(from, "hidden_act", CF_STATUS_BAD_FILE, "a string", error);
    const char *name = value == NULL ? "gelu" : json_string_value(value);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        *to = known[i].activation;
        if (strcmp(name, known[i].name) == 0)
            return CF_STATUS_OK;
    }
    return refuse(from, "hidden_act", CF_STATUS_UNSUPPORTED,
                  "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu or silu", error);
}

/* `value` of the field `key` as an id; NULL is -1, none. */
static cf_status read_id(const section *from, const char *key, const json_t *value, int32_t n_vocab,
                         cf_token *to, cf_error *error)
{
    *to = -1;
    if (value == NULL)
        return CF_STATUS_OK;
    if (!json_is_integer(value) || json_integer_value(value) < -1 ||
        json_integer_value(value) >= n_vocab) {
        char found[64];
        describe(value, found);
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: %s is %s, expected null or an id below the vocab_size of %d",
                       from->file, key, found, n_vocab);
    }
    *to = (cf_token)json_integer_value(value);
    return CF_STATUS_OK;
}

/* An id, or the first of a list. */
static cf_status read_token(const section *from, const char *key, int32_t n_vocab, cf_token *to,
                            cf_error *error)
{
    const json_t *value = field(from, key);
    if (json_is_array(value) && json_array_size(value) > 0)
        value = json_array_get(value, 0);
    return read_id(from, key, value, n_vocab, to, error);
}

/* What eos_token_id lists after the first; there -1, no token, is passed over. */
static cf_status read_more_ends(const section *from, int32_t n_vocab, cf_more_ends *ends,
                                cf_error *error)
{
    static const char key[] = "eos_token_id";
    const json_t *list = field(from, key);
    size_t n = json_array_size(list);
    if (n > CF_CONFIG_MAX_ENDS)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "%s: %s lists %zu ids, expected at most %d",
                       from->file, key, n, CF_CONFIG_MAX_ENDS);
    for (size_t i = 1; i < n; i++) {
        cf_token id;
        CF_TRY(read_id(from, key, json_array_get(list, i), n_vocab, &id, error));
        if (id >= 0)
            ends->ids[ends->n++] = id;
    }
    return CF_STATUS_OK;
}

static cf_status check_model_type(const section *from, cf_error *error)
{
    const json_t *value = field(from, "model_type");
    if (!json_is_string(value))
        return refuse(from, "model_type", CF_STATUS_BAD_FILE, "\"" MODEL_TYPE "\"", error);
    if (strcmp(json_string_value(value), MODEL_TYPE) != 0)
        return refuse(from, "model_type", CF_STATUS_UNSUPPORTED, "\"" MODEL_TYPE "\"", error);
    return CF_STATUS_OK;
}

/* Options that change what the weights mean; absent, null, false and {} are harmless. */
static cf_status check_options(const section *from, cf_error *error)
{
    static const char *const options[] = {"quantization_config", "compression_config",
                                          "pruned_heads", "is_encoder_decoder",
                                          "add_cross_attention"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const json_t *value = field(from, options[i]);
        bool harmless = value == NULL || json_is_false(value) ||
                        (json_is_object(value) && json_object_size(value) == 0);
        if (!harmless)
            return refuse(from, options[i], CF_STATUS_UNSUPPORTED, "nothing there", error);
    }
    return CF_STATUS_OK;
}

/* A rope_parameters or rope_scaling object: only the plain rotary embedding is understood. */
static cf_status check_rope(const section *root, const char *key, section *rope, cf_error *error)
{
    rope->object = field(root, key);
    if (rope->object == NULL)
        return CF_STATUS_OK;
    if (!json_is_object(rope->object))
        return refuse(root, key, CF_STATUS_BAD_FILE, "an object", error);
    static const char *const types[] = {"rope_type", "type"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const json_t *type = field(rope, types[i]);
        if (type != NULL && !json_is_string(type))
            return refuse(rope, types[i], CF_STATUS_BAD_FILE, "a string", error);
        if (type != NULL && strcmp(json_string_value(type), "default") != 0)
            return refuse(rope, types[i], CF_STATUS_UNSUPPORTED, "\"default\"", error);
    }
    static const char *const known[] = {"rope_type", "type", "rope_theta", "partial_rotary_factor"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)rope->object, name, value)
    {
        bool is_known = json_is_null(value);
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            is_known = is_known || strcmp(name, known[i]) == 0;
        if (!is_known)
            return refuse(rope, name, CF_STATUS_UNSUPPORTED, "nothing there", error);
    }
    return CF_STATUS_OK;
}

static cf_status read_rotary(const section *root, cf_shape *shape, cf_error *error)
{
    section parameters = {.file = root->file, .prefix = "rope_parameters."};
    section scaling = {.file = root->file, .prefix = "rope_scaling."};
    CF_TRY(check_rope(root, "rope_parameters", &parameters, error));
    CF_TRY(check_rope(root, "rope_scaling", &scaling, error));
    const spelling fractions[] = {{&parameters, "partial_rotary_factor"},
                                  {&scaling, "partial_rotary_factor"},
                                  {root, "partial_rotary_factor"},
                                  {root, "rotary_pct"}};
    const spelling thetas[] = {{&parameters, "rope_theta"},
                               {&scaling, "rope_theta"},
                               {root, "rope_theta"},
                               {root, "rotary_emb_base"}};
    double fraction = DEFAULT_ROTARY_FRACTION, theta = DEFAULT_ROPE_THETA;
    CF_TRY(read_number(fractions, 4, 0, 1, &fraction, error));
    CF_TRY(read_number(thetas, 4, 1, 1e30, &theta, error));
    shape->rope_theta = (float)theta;
    shape->d_rotary = (int32_t)(shape->d_head * fraction);
    if (shape->d_rotary % 2 != 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "%s: %g of the head width %d are %d rotary dims, expected an even number",
                       root->file, fraction, shape->d_head, shape->d_rotary);
    return CF_STATUS_OK;
}

static cf_status read_sizes(const section *root, cf_shape *shape, cf_error *error)
{
    CF_TRY(read_size(root, "num_hidden_layers", MAX_LAYERS, &shape->n_layers, error));
    CF_TRY(read_size(root, "hidden_size", MAX_SIZE, &shape->d_model, error));
    CF_TRY(read_size(root, "num_attention_heads", MAX_SIZE, &shape->n_heads, error));
    CF_TRY(read_size(root, "intermediate_size", MAX_SIZE, &shape->d_ffn, error));
    CF_TRY(read_size(root, "vocab_size", MAX_SIZE, &shape->n_vocab, error));
    shape->n_context = DEFAULT_CONTEXT;
    if (field(root, "max_position_embeddings") != NULL)
        CF_TRY(read_size(root, "max_position_embeddings", MAX_SIZE, &shape->n_context, error));
    if (shape->d_model % shape->n_heads != 0)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "%s: hidden_size is %d, expected a multiple of num_attention_heads, %d",
                       root->file, shape->d_model, shape->n_heads);
    shape->d_head = shape->d_model / shape->n_heads;
    return CF_STATUS_OK;
}

static cf_status read_config(const section *root, cf_shape *shape, cf_more_ends *ends,
                             cf_error *error)
{
    CF_TRY(check_model_type(root, error));
    CF_TRY(check_options(root, error));
    CF_TRY(read_sizes(root, shape, error));
    CF_TRY(read_rotary(root, shape, error));
    CF_TRY(read_activation(root, &shape->activation, error));
    CF_TRY(read_flag(root, "use_parallel_residual", true, &shape->parallel_residual, error));
    CF_TRY(read_flag(root, "attention_bias", true, &shape->attention_bias, error));
    CF_TRY(read_flag(root, "tie_word_embeddings", false, &shape->tied_embeddings, error));
    const spelling eps[] = {{root, "layer_norm_eps"}};
    double layer_norm_eps = DEFAULT_LAYER_NORM_EPS;
    CF_TRY(read_number(eps, 1, 0, 0.5, &layer_norm_eps, error));
    shape->layer_norm_eps = (float)layer_norm_eps;
    CF_TRY(read_token(root, "bos_token_id", shape->n_vocab, &shape->bos_token, error));
    CF_TRY(read_token(root, "eos_token_id", shape->n_vocab, &shape->eos_token, error));
    return read_more_ends(root, shape->n_vocab, ends, error);
}

cf_status cf_config_parse(const void *data, size_t n_bytes, const char *name, cf_shape *shape,
                          cf_more_ends *ends, cf_error *error)
{
    *shape = (cf_shape){0};
    *ends = (cf_more_ends){0};
    json_t *object;
    CF_TRY(cf_json_parse(data, n_bytes, name, &object, error));
    section root = {.file = name, .prefix = "", .object = object};
    cf_status status;
    if (json_is_object(object))
        status = read_config(&root, shape, ends, error);
    else
        status = cf_fail(error, CF_STATUS_BAD_FILE, "%s: %s, expected an object", name,
                         cf_json_kind(object));
    if (status != CF_STATUS_OK)
        *shape = (cf_shape){0};
    json_decref(object);
    return status;
}
