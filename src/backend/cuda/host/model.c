/* A model on the GPU: matrices as the checkpoint has them, vectors in the form the kernel reads. */
#include "backend/cuda/host/cuda.h"

#include "base/half.h"
#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Puts tensors on the device; with an arena that is being measured it only counts. */
typedef struct loader {
    cf_backend_model *model;
    const cf_model_options *options;
    float *floats; /* the longest vector, widened */
    float *sum;    /* [d_model]: of the biases that the residual lacks */
    uint16_t *halves;
    uint64_t n_done, n_total; /* bytes, for progress */
} loader;

static bool is_measuring(const loader *loading)
{
    return loading->model->arena.memory == NULL;
}

static cf_status report(loader *loading, size_t n_bytes, cf_error *error)
{
    const cf_model_options *options = loading->options;
    if (is_measuring(loading)) {
        loading->n_total += n_bytes;
        return CF_STATUS_OK;
    }
    loading->n_done += n_bytes;
    if (options->progress == NULL ||
        options->progress(options->progress_user, "open", loading->n_done, loading->n_total))
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_CANCELLED, "opening the model was cancelled");
}

static cf_status place(loader *loading, const void *source, size_t n_bytes, const void **address,
                       cf_error *error)
{
    void *to = cf_cuda_arena_take(&loading->model->arena, n_bytes);
    *address = to;
    if (to != NULL)
        CF_CUDA_TRY(cudaMemcpy(to, source, n_bytes, cudaMemcpyHostToDevice), "weights", error);
    return report(loading, n_bytes, error);
}

/* Tensors that lie on the model's own device are used there, if bulk copies can read them. */
static cf_status place_matrix(loader *loading, const cf_tensor *tensor, const void **address,
                              cf_error *error)
{
    if (tensor->dtype != loading->model->weights)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "CUDA: %s is %s, the embedding is %s",
                       tensor->name, cf_dtype_name(tensor->dtype),
                       cf_dtype_name(loading->model->weights));
    if (tensor->device < 0)
        return place(loading, tensor->data, 2 * (size_t)(tensor->dims[0] * tensor->dims[1]),
                     address, error);
    if (tensor->device != loading->model->device.index || (uintptr_t)tensor->data % 16 != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "CUDA: %s is at %p on device %d, expected a multiple of 16 on device %d",
                       tensor->name, tensor->data, tensor->device, loading->model->device.index);
    *address = tensor->data;
    return CF_STATUS_OK;
}

static float widened(const cf_tensor *tensor, const void *data, size_t i)
{
    if (tensor->dtype == CF_DTYPE_F16)
        return cf_float_from_f16(((const uint16_t *)data)[i]);
    if (tensor->dtype == CF_DTYPE_BF16)
        return cf_float_from_bf16(((const uint16_t *)data)[i]);
    return ((const float *)data)[i];
}

/* Widens a vector, wherever it lies, into `floats`. */
static cf_status read_vector(loader *loading, const cf_tensor *tensor, cf_error *error)
{
    size_t n = (size_t)tensor->dims[0];
    const void *data = tensor->data;
    if (tensor->device >= 0) {
        data = loading->halves; /* room for n floats, see load() */
        CF_CUDA_TRY(cudaMemcpy(loading->halves, tensor->data, n * cf_dtype_bytes(tensor->dtype),
                               cudaMemcpyDeviceToHost),
                    tensor->name, error);
    }
    for (size_t i = 0; i < n; i++)
        loading->floats[i] = widened(tensor, data, i);
    return CF_STATUS_OK;
}

/* A vector in float32; NULL for one that the model lacks. */
static cf_status place_floats(loader *loading, const cf_tensor *tensor, const float **address,
                              cf_error *error)
{
    const void *placed = NULL;
    if (tensor != NULL) {
        CF_TRY(read_vector(loading, tensor, error));
        CF_TRY(place(loading, loading->floats, sizeof(float) * (size_t)tensor->dims[0], &placed,
                     error));
    }
    *address = placed;
    return CF_STATUS_OK;
}

/* Places the sum of all biases that came before, with those of a matrix, if it has any. */
static cf_status place_sum(loader *loading, const cf_tensor *biases, const float **address,
                           cf_error *error)
{
    size_t n = (size_t)loading->model->neox->shape.d_model;
    const void *placed;
    if (biases != NULL) {
        CF_TRY(read_vector(loading, biases, error));
        for (size_t i = 0; i < n; i++)
            loading->sum[i] += loading->floats[i];
    }
    CF_TRY(place(loading, loading->sum, n * sizeof *loading->sum, &placed, error));
    *address = placed;
    return CF_STATUS_OK;
}

/* A LayerNorm's weights, in float16. */
static cf_status place_halves(loader *loading, const cf_tensor *tensor, const void **address,
                              cf_error *error)
{
    size_t n = (size_t)tensor->dims[0];
    CF_TRY(read_vector(loading, tensor, error));
    for (size_t i = 0; i < n; i++)
        loading->halves[i] = cf_f16_from_float(loading->floats[i]);
    return place(loading, loading->halves, 2 * n, address, error);
}

static cf_status fold(loader *loading, int32_t layer, const cf_bias_vectors *vectors,
                      cf_error *error)
{
    cf_backend_model *model = loading->model;
    float *biases = (float *)(uintptr_t)model->token.biases;
    if (is_measuring(loading))
        return CF_STATUS_OK;
    CF_CUDA_TRY(cf_fold_biases(&model->token, layer, vectors, model->weights, biases, NULL),
                "folding biases", error);
    return CF_STATUS_OK;
}

/* What prompts add. The sums are of the residual as the second LayerNorm of a sequential layer
 * reads it, and as the next layer does. */
static cf_status place_prompt_layer(loader *loading, int32_t index, const cf_bias_vectors *vectors,
                                    cf_error *error)
{
    const cf_neox_layer *from = &loading->model->neox->layers[index];
    cf_prompt_layer *to = &loading->model->prompt_layers[index];
    to->qkv = vectors->biases[CF_MATRIX_QKV];
    to->up = vectors->biases[CF_MATRIX_UP];
    to->shifts[0] = vectors->shifts[CF_MATRIX_QKV];
    to->shifts[1] = vectors->shifts[CF_MATRIX_UP];
    CF_TRY(place_sum(loading, from->dense_bias, &to[0].before[1], error));
    return place_sum(loading, from->down_bias, &to[1].before[0], error);
}

static cf_status place_layer(loader *loading, int32_t index, cf_error *error)
{
    const cf_neox_layer *from = &loading->model->neox->layers[index];
    cf_token_layer *to = &loading->model->token.layers[index];
    cf_bias_vectors vectors = {0};
    const cf_tensor *matrices[CF_N_LAYER_MATRICES] = {from->qkv_weight, from->up_weight,
                                                      from->down_weight, from->dense_weight};
    const cf_tensor *biases[CF_N_LAYER_MATRICES] = {from->qkv_bias, from->up_bias, from->down_bias,
                                                    from->dense_bias};
    for (int m = 0; m < CF_N_LAYER_MATRICES; m++) {
        CF_TRY(place_matrix(loading, matrices[m], &to->matrices[m], error));
        CF_TRY(place_floats(loading, biases[m], &vectors.biases[m], error));
    }
    CF_TRY(place_halves(loading, from->ln1_weight, &to->norm1, error));
    CF_TRY(place_halves(loading, from->ln2_weight, &to->norm2, error));
    CF_TRY(place_floats(loading, from->ln1_bias, &vectors.shifts[CF_MATRIX_QKV], error));
    CF_TRY(place_floats(loading, from->ln2_bias, &vectors.shifts[CF_MATRIX_UP], error));
    CF_TRY(place_prompt_layer(loading, index, &vectors, error));
    return fold(loading, index, &vectors, error);
}

static cf_status place_outer(loader *loading, cf_error *error)
{
    const cf_neox *neox = loading->model->neox;
    cf_token_model *to = &loading->model->token;
    cf_bias_vectors vectors = {0};
    CF_TRY(place_matrix(loading, neox->embed, &to->embed, error));
    to->head = to->embed;
    if (neox->head != neox->embed)
        CF_TRY(place_matrix(loading, neox->head, &to->head, error));
    CF_TRY(place_halves(loading, neox->final_ln_weight, &to->final_norm, error));
    CF_TRY(place_floats(loading, neox->final_ln_bias, &to->final_shift, error));
    vectors.shifts[CF_MATRIX_HEAD] = to->final_shift;
    return fold(loading, neox->shape.n_layers, &vectors, error);
}

/* The tables of the schedule, and room for the biases. */
static cf_status place_schedule(loader *loading, cf_error *error)
{
    cf_backend_model *model = loading->model;
    const cf_schedule *schedule = &model->schedule;
    size_t n_blocks = (size_t)schedule->n_blocks;
    size_t n_tiles = n_blocks * (size_t)schedule->max_tiles;
    size_t n_bias_bytes =
        sizeof(float) * (size_t)schedule->shape.n_layers * n_tiles * (size_t)schedule->bias_rows;
    const void *tiles, *shares;
    CF_TRY(place(loading, schedule->tiles, sizeof(cf_tile) * n_tiles, &tiles, error));
    CF_TRY(place(loading, schedule->shares, sizeof(cf_share) * n_blocks, &shares, error));
    model->token.tiles = tiles;
    model->token.shares = shares;
    void *biases = cf_cuda_arena_take(&model->arena, n_bias_bytes);
    model->token.biases = biases;
    if (biases != NULL)
        CF_CUDA_TRY(cudaMemset(biases, 0, n_bias_bytes), "biases", error);
    return CF_STATUS_OK;
}

static cf_status place_all(loader *loading, cf_error *error)
{
    memset(loading->sum, 0, sizeof(float) * (size_t)loading->model->neox->shape.d_model);
    CF_TRY(place_schedule(loading, error));
    for (int32_t i = 0; i < loading->model->neox->shape.n_layers; i++)
        CF_TRY(place_layer(loading, i, error));
    return place_outer(loading, error);
}

static cf_status load(loader *loading, cf_error *error)
{
    const cf_shape *shape = &loading->model->neox->shape;
    size_t n = 3 * (size_t)shape->d_model;
    if ((size_t)shape->d_ffn > n)
        n = (size_t)shape->d_ffn;
    CF_TRY(CF_ALLOC(&loading->floats, n, "vectors", error));
    CF_TRY(CF_ALLOC(&loading->sum, (size_t)shape->d_model, "vectors", error));
    CF_TRY(CF_ALLOC(&loading->halves, 2 * n, "vectors", error));
    CF_TRY(place_all(loading, error));
    CF_TRY(cf_cuda_arena_allocate(&loading->model->arena, "the model's weights", error));
    CF_TRY(place_all(loading, error));
    CF_CUDA_TRY(cudaDeviceSynchronize(), "folding biases", error);
    return CF_STATUS_OK;
}

static const void *kernel_of(int32_t d_head, cf_dtype weights)
{
    switch (d_head) {
    case 32:
        return cf_token_kernel_32(weights);
    case 64:
        return cf_token_kernel_64(weights);
    case 80:
        return cf_token_kernel_80(weights);
    case 96:
        return cf_token_kernel_96(weights);
    case 128:
        return cf_token_kernel_128(weights);
    default: /* the schedule refuses all others */
        return cf_token_kernel_256(weights);
    }
}

static cf_status prepare_kernel(cf_backend_model *model, cf_error *error)
{
    const cf_schedule *schedule = &model->schedule;
    uint32_t n_warps = (uint32_t)schedule->n_consumers + (uint32_t)schedule->n_producers +
                       CF_SCHEDULE_N_ATTENTION_WARPS(schedule->shape.d_head) +
                       CF_SCHEDULE_N_VECTOR_WARPS;
    model->grid = (cf_cuda_grid){.kernel = kernel_of(schedule->shape.d_head, model->weights),
                                 .n_blocks = (uint32_t)schedule->n_blocks,
                                 .n_threads = 32 * n_warps,
                                 .shared_bytes = (size_t)schedule->shared.total};
    return cf_cuda_grid_prepare(&model->grid, "the token kernel", error);
}

/* theta^(-2i / d_rotary), rounded to float32 as the reference stores it. */
static cf_status make_frequencies(cf_backend_model *model, cf_error *error)
{
    const cf_shape *shape = &model->neox->shape;
    size_t half = (size_t)shape->d_rotary / 2;
    CF_TRY(CF_ALLOC(&model->frequencies, half, "rotary frequencies", error));
    for (size_t i = 0; i < half; i++)
        model->frequencies[i] =
            (double)(float)pow((double)shape->rope_theta, -2.0 * (double)i / shape->d_rotary);
    return CF_STATUS_OK;
}

static void describe_prompts(const cf_backend_model *model, char *text, size_t n_bytes)
{
    size_t version = model->blaslt != NULL ? cf_blaslt_version(model->blaslt) : 0;
    if (model->blaslt != NULL)
        snprintf(text, n_bytes, "prompts by cuBLASLt %zu.%zu.%zu", version / 10000,
                 version / 100 % 100, version % 100);
    else
        snprintf(text, n_bytes, "prompts token by token: no cuBLASLt");
}

static void describe(cf_backend_model *model)
{
    const cf_schedule *schedule = &model->schedule;
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    int n = snprintf(model->text, sizeof model->text,
                     "%.100s, sm_%d, %d blocks, %s, ring of %d KB (%d slots of %d bytes), "
                     "%d consumer warps, %.1f %% of %.1f GB in use, ",
                     model->device.name, model->device.capability, schedule->n_blocks,
                     model->grid.can_pair          ? "bulk copies, clusters of 2"
                     : model->grid.has_bulk_copies ? "bulk copies"
                                                   : "cp.async",
                     schedule->n_slots * schedule->slot_bytes / 1024, schedule->n_slots,
                     schedule->slot_bytes, schedule->n_consumers,
                     total_bytes == 0 ? 0 : 100 - 100 * (double)free_bytes / (double)total_bytes,
                     (double)total_bytes * 1e-9);
    describe_prompts(model, model->text + n, sizeof model->text - (size_t)n);
}

static cf_status build(cf_backend_model *model, const cf_model_options *options, cf_error *error)
{
    const cf_shape *shape = &model->neox->shape;
    loader loading = {.model = model, .options = options};
    if (model->weights != CF_DTYPE_F16 && model->weights != CF_DTYPE_BF16)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "CUDA: weights are %s, expected F16 or BF16",
                       cf_dtype_name(model->weights));
    CF_TRY(cf_cuda_device_open(options->device, &model->device, error));
    CF_TRY(cf_schedule_create(shape, &model->device.limits, &model->schedule, error));
    model->token.schedule = model->schedule;
    CF_TRY(make_frequencies(model, error));
    CF_TRY(prepare_kernel(model, error));
    cf_blaslt_open(&model->blaslt, NULL); /* without it, prompts take longer */
    cf_status status = load(&loading, error);
    cf_dealloc(loading.floats);
    cf_dealloc(loading.sum);
    cf_dealloc(loading.halves);
    describe(model);
    return status;
}

cf_status cf_cuda_model_create(const cf_neox *neox, const cf_model_options *options,
                               cf_backend_model **model, const char **text, cf_error *error)
{
    cf_backend_model *made;
    *model = NULL;
    CF_TRY(CF_ALLOC(&made, 1, "model", error));
    made->neox = neox;
    made->weights = neox->embed->dtype;
    cf_status status = build(made, options, error);
    if (status != CF_STATUS_OK) {
        cf_cuda_model_free(made);
        return status;
    }
    *model = made;
    *text = made->text;
    return CF_STATUS_OK;
}

void cf_cuda_model_free(cf_backend_model *model)
{
    if (model == NULL)
        return;
    cf_cuda_arena_free(&model->arena);
    cf_blaslt_close(model->blaslt);
    cf_schedule_free(&model->schedule);
    cf_dealloc(model->frequencies);
    cf_dealloc(model);
}
