#include "support/tiny_model.h"

#include "base/memory.h"
#include "base/random.h"
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME_BYTES 80

cf_shape tiny_shape(void)
{
    return (cf_shape){
        .n_layers = 2,
        .d_model = 32,
        .n_heads = 4,
        .d_head = 8,
        .d_rotary = 2,
        .d_ffn = 128,
        .n_vocab = 96,
        .n_context = 64,
        .rope_theta = 10000,
        .layer_norm_eps = 1e-5f,
        .activation = CF_ACTIVATION_GELU_ERF,
        .parallel_residual = true,
        .attention_bias = true,
        .bos_token = 0,
        .eos_token = 0,
    };
}

/* What is being written: first counted, with `tensors` NULL, then filled in. */
typedef struct writer {
    cf_tensor *tensors;
    char (*names)[NAME_BYTES];
    float *values;
    size_t n_tensors, n_values;
    uint64_t seed;
} writer;

/* Normal by the central limit theorem: the tails do not matter here. */
static float random_normal(uint64_t seed, uint64_t index)
{
    double sum = -6;
    for (uint64_t i = 0; i < 12; i++)
        sum += cf_random_uniform(seed, index * 12 + i);
    return (float)sum;
}

static void write_tensor(writer *out, const char *prefix, const char *name, int64_t rows,
                         int64_t columns)
{
    size_t n = (size_t)(rows * (columns == 0 ? 1 : columns));
    if (out->tensors != NULL) {
        char *full = out->names[out->n_tensors];
        snprintf(full, NAME_BYTES, "%s%s", prefix, name);
        bool is_norm = strstr(name, "norm.weight") != NULL;
        float scale = columns == 0 ? 0.1f : 1 / sqrtf((float)columns);
        float *values = out->values + out->n_values;
        for (size_t i = 0; i < n; i++)
            values[i] = scale * random_normal(out->seed, out->n_values + i) + (is_norm ? 1 : 0);
        out->tensors[out->n_tensors] = (cf_tensor){
            .name = full,
            .data = values,
            .dtype = CF_DTYPE_F32,
            .device = -1,
            .n_dims = columns == 0 ? 1 : 2,
            .dims = {rows, columns == 0 ? 1 : columns},
        };
    }
    out->n_tensors++;
    out->n_values += n;
}

static void write_all(const cf_shape *shape, writer *out)
{
    const bool ALWAYS = true, ATTENTION_BIAS = shape->attention_bias;
    const bool UNTIED = !shape->tied_embeddings;
    int64_t D = shape->d_model, F = shape->d_ffn, V = shape->n_vocab;
    out->n_tensors = out->n_values = 0;
#define WRITE(field, name, rows, columns, needs)                                                   \
    if (needs)                                                                                     \
        write_tensor(out, prefix, name, rows, columns);
    for (int32_t i = 0; i < shape->n_layers; i++) {
        char prefix[NAME_BYTES / 2];
        snprintf(prefix, sizeof prefix, "gpt_neox.layers.%d.", i);
        CF_NEOX_LAYER_TENSORS(WRITE)
    }
    {
        const char *prefix = "";
        (void)UNTIED, (void)ATTENTION_BIAS;
        CF_NEOX_OUTER_TENSORS(WRITE)
    }
#undef WRITE
}

void tiny_weights_create(tiny_model *tiny, const cf_shape *shape, uint64_t seed)
{
    *tiny = (tiny_model){.shape = *shape};
    cf_error error;
    writer out = {.seed = seed};
    write_all(shape, &out);
    assert_ok(CF_ALLOC(&out.values, out.n_values, "weights", &error), error);
    assert_ok(CF_ALLOC(&out.names, out.n_tensors, "names", &error), error);
    assert_ok(CF_ALLOC(&out.tensors, out.n_tensors, "tensors", &error), error);
    write_all(shape, &out);
    tiny->tensors = out.tensors;
    tiny->n_tensors = out.n_tensors;
    tiny->memory[0] = out.values;
    tiny->memory[1] = out.names;
}

void tiny_model_create(tiny_model *tiny, const cf_shape *shape, uint64_t seed,
                       const cf_backend_interface *backend)
{
    tiny_weights_create(tiny, shape, seed);
    cf_error error;
    cf_model_options options = {.size = sizeof options, .backend = CF_BACKEND_CPU};
    if (backend != NULL)
        assert_ok(cf_model_create_with(backend, shape, tiny->tensors, tiny->n_tensors, &options,
                                       &tiny->model, &error),
                  error);
    else
        assert_ok(
            cf_model_create(shape, tiny->tensors, tiny->n_tensors, &options, &tiny->model, &error),
            error);
}

void tiny_model_free(tiny_model *tiny)
{
    cf_model_close(tiny->model);
    cf_dealloc(tiny->tensors);
    cf_dealloc(tiny->memory[0]);
    cf_dealloc(tiny->memory[1]);
    *tiny = (tiny_model){0};
}
