#include "support/random_model.h"

#include "base/half.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators; 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static float uniform(uint64_t *state, float centre, float spread)
{
    float unit = (float)(next_random(state) >> 40) * 0x1p-24f;
    return centre + spread * (2 * unit - 1);
}

/* Matrices of unit gain; LayerNorm weights about 1; biases that matter. */
static void fill(cf_tensor *tensor, uint64_t *state)
{
    bool is_matrix = tensor->n_dims == 2;
    bool is_embedding = strstr(tensor->name, "embed_in") != NULL;
    bool is_scale = strstr(tensor->name, "norm.weight") != NULL;
    size_t n = (size_t)(tensor->dims[0] * tensor->dims[1]);
    float spread = is_matrix ? sqrtf(3.0f / (float)tensor->dims[1]) : 0.2f;
    float *floats = is_matrix ? NULL : malloc(n * sizeof *floats);
    uint16_t *halves = is_matrix ? malloc(n * sizeof *halves) : NULL;
    if (is_embedding)
        spread = 1;
    for (size_t i = 0; i < n; i++) {
        float value = uniform(state, is_scale ? 1.0f : 0.0f, spread);
        if (!is_matrix)
            floats[i] = value;
        else
            halves[i] = tensor->dtype == CF_DTYPE_F16 ? cf_f16_from_float(value)
                                                      : cf_bf16_from_float(value);
    }
    tensor->data = is_matrix ? (void *)halves : (void *)floats;
}

static void add(test_model *model, const char *prefix, const char *name, int64_t rows,
                int64_t columns, cf_dtype dtype, uint64_t *state)
{
    char *full = malloc(128);
    snprintf(full, 128, "%s%s", prefix, name);
    cf_tensor *tensor = &model->tensors[model->n_tensors++];
    *tensor = (cf_tensor){.name = full,
                          .dtype = columns > 0 ? dtype : CF_DTYPE_F32,
                          .device = -1,
                          .n_dims = columns > 0 ? 2 : 1,
                          .dims = {rows, columns > 0 ? columns : 1}};
    fill(tensor, state);
}

void test_model_create(test_model *model, const cf_shape *shape, cf_dtype dtype, uint64_t seed)
{
    cf_shape full = *shape;
    full.rope_theta = shape->rope_theta > 0 ? shape->rope_theta : 10000.0f;
    full.layer_norm_eps = shape->layer_norm_eps > 0 ? shape->layer_norm_eps : 1e-5f;
    int64_t D = full.d_model, F = full.d_ffn, V = full.n_vocab;
    uint64_t state = seed;
    *model = (test_model){0};
    model->tensors = calloc((size_t)full.n_layers * 12 + 4, sizeof *model->tensors);
#define ADD(field, name, rows, columns, needs)                                                     \
    add(model, prefix, name, rows, columns, dtype, &state);
    for (int32_t layer = 0; layer < full.n_layers; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "layers.%d.", layer);
        CF_NEOX_LAYER_TENSORS(ADD)
    }
    const char *prefix = "";
    CF_NEOX_OUTER_TENSORS(ADD)
#undef ADD
    cf_error error;
    assert_ok(cf_neox_bind(&full, model->tensors, model->n_tensors, &model->neox, &error), error);
}

void test_model_free(test_model *model)
{
    cf_neox_unbind(&model->neox);
    for (size_t i = 0; i < model->n_tensors; i++) {
        free((void *)(uintptr_t)model->tensors[i].name);
        free((void *)(uintptr_t)model->tensors[i].data);
    }
    free(model->tensors);
}
