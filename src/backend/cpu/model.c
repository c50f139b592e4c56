/* The CPU's view of a model: matrices stay where they are, vectors are widened once. */
#include "backend/cpu/cpu.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>

/* Floats of all vectors of one layer, and beside the layers. */
static size_t layer_floats(const cf_shape *shape)
{
    return 9 * (size_t)shape->d_model + (size_t)shape->d_ffn;
}

/* Widens `tensor` into the next n of the model's vectors; zeros stand for a missing one. */
static const float *take(float **next, const cf_tensor *tensor, size_t n)
{
    float *vector = *next;
    *next += n;
    if (tensor != NULL)
        cf_kernels_generic.widen[tensor->dtype](vector, tensor->data, n);
    return vector;
}

static void fill_vectors(cf_backend_model *model)
{
    const cf_neox *neox = model->neox;
    size_t d_model = (size_t)neox->shape.d_model, d_ffn = (size_t)neox->shape.d_ffn;
    float *next = model->vectors;
    model->final_ln_weight = take(&next, neox->final_ln_weight, d_model);
    model->final_ln_bias = take(&next, neox->final_ln_bias, d_model);
    for (int32_t i = 0; i < neox->shape.n_layers; i++) {
        const cf_neox_layer *from = &neox->layers[i];
        model->layers[i] = (cf_cpu_layer){
            .ln1_weight = take(&next, from->ln1_weight, d_model),
            .ln1_bias = take(&next, from->ln1_bias, d_model),
            .ln2_weight = take(&next, from->ln2_weight, d_model),
            .ln2_bias = take(&next, from->ln2_bias, d_model),
            .qkv_bias = take(&next, from->qkv_bias, 3 * d_model),
            .dense_bias = take(&next, from->dense_bias, d_model),
            .up_bias = take(&next, from->up_bias, d_ffn),
            .down_bias = take(&next, from->down_bias, d_model),
        };
    }
}

/* theta^(-2i / d_rotary), rounded to float32 as the reference stores it. */
static void fill_frequencies(cf_backend_model *model)
{
    const cf_shape *shape = &model->neox->shape;
    for (int32_t i = 0; i < shape->d_rotary / 2; i++)
        model->inverse_frequencies[i] =
            (float)pow((double)shape->rope_theta, -2.0 * i / shape->d_rotary);
}

static cf_status allocate(cf_backend_model *model, cf_error *error)
{
    const cf_shape *shape = &model->neox->shape;
    size_t n_layers = (size_t)shape->n_layers;
    CF_TRY(CF_ALLOC(&model->layers, n_layers, "table of layers", error));
    CF_TRY(CF_ALLOC(&model->vectors, 2 * (size_t)shape->d_model + n_layers * layer_floats(shape),
                    "biases and norms", error));
    return CF_ALLOC(&model->inverse_frequencies, (size_t)shape->d_rotary / 2, "rotary frequencies",
                    error);
}

void cf_cpu_model_free(cf_backend_model *model)
{
    if (model == NULL)
        return;
    cf_dealloc(model->layers);
    cf_dealloc(model->vectors);
    cf_dealloc(model->inverse_frequencies);
    cf_dealloc(model);
}

cf_status cf_cpu_model_create(const cf_neox *neox, const cf_model_options *options,
                              cf_backend_model **model, const char **text, cf_error *error)
{
    (void)options;
    *model = NULL;
    cf_backend_model *made;
    CF_TRY(CF_ALLOC(&made, 1, "model", error));
    made->neox = neox;
    made->kernels = cf_kernels_best();
    made->has_tiles = cf_tiles_granted();
    cf_status status = allocate(made, error);
    if (status != CF_STATUS_OK) {
        cf_cpu_model_free(made);
        return status;
    }
    fill_vectors(made);
    fill_frequencies(made);
    snprintf(made->text, sizeof made->text, "CPU, %s kernels%s, %d threads", made->kernels->name,
             made->has_tiles && made->kernels->may_use_tiles ? ", bfloat16 tiles" : "",
             cf_cpu_count());
    *model = made;
    *text = made->text;
    return CF_STATUS_OK;
}
