/*
 * The CPU backend on small random models of every kind, against a forward pass in float64 that is
 * written as plainly as the equations.
 */
#include "support/support.h"

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "base/half.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TENSORS 64
#define MAX_NAME 64

/* A model in memory, its tensors in `dtypes` by turns. */
typedef struct sample {
    cf_shape shape;
    size_t n_tensors;
    cf_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][MAX_NAME];
    cf_neox neox;
    cf_backend_model *model;
} sample;

static double element(const cf_tensor *tensor, size_t i)
{
    if (tensor->dtype == CF_DTYPE_F16)
        return cf_float_from_f16(((const uint16_t *)tensor->data)[i]);
    if (tensor->dtype == CF_DTYPE_BF16)
        return cf_float_from_bf16(((const uint16_t *)tensor->data)[i]);
    return ((const float *)tensor->data)[i];
}

/* Weights of size 1 / √columns keep activations near 1; norms' weights lie around 1. */
static void add_tensor(sample *it, const char *name, int64_t rows, int64_t columns,
                       const cf_dtype *dtypes)
{
    size_t index = it->n_tensors++, count = (size_t)(rows * (columns > 0 ? columns : 1));
    bool is_norm = strstr(name, "norm.weight") != NULL;
    double size = columns > 0 ? sqrt(3.0 / (double)columns) : 0.3;
    cf_dtype dtype = dtypes[index % 4];
    void *data = malloc(count * cf_dtype_bytes(dtype));
    for (size_t i = 0; i < count; i++) {
        double unit = 2 * cf_random_uniform(index + 1, i) - 1;
        float value = (float)(is_norm ? 1 + 0.3 * unit : size * unit);
        if (dtype == CF_DTYPE_F32)
            ((float *)data)[i] = value;
        else
            ((uint16_t *)data)[i] =
                dtype == CF_DTYPE_F16 ? cf_f16_from_float(value) : cf_bf16_from_float(value);
    }
    snprintf(it->names[index], MAX_NAME, "%s", name);
    it->tensors[index] = (cf_tensor){.name = it->names[index],
                                     .data = data,
                                     .dtype = dtype,
                                     .device = -1,
                                     .n_dims = columns > 0 ? 2 : 1,
                                     .dims = {rows, columns > 0 ? columns : 1}};
}

enum { ALWAYS, ATTENTION_BIAS, UNTIED };

static bool is_there(const cf_shape *shape, int needs)
{
    return needs == ALWAYS || (needs == ATTENTION_BIAS && shape->attention_bias) ||
           (needs == UNTIED && !shape->tied_embeddings);
}

static void sample_open(sample *it, cf_shape shape, const cf_dtype dtypes[4])
{
    int64_t D = shape.d_model, F = shape.d_ffn, V = shape.n_vocab;
    cf_error error;
    *it = (sample){.shape = shape};
#define ADD_OUTER(field, name, rows, columns, needs)                                               \
    if (is_there(&shape, needs))                                                                   \
        add_tensor(it, name, rows, columns, dtypes);
    CF_NEOX_OUTER_TENSORS(ADD_OUTER)
    for (int32_t layer = 0; layer < shape.n_layers; layer++) {
        char name[MAX_NAME];
#define ADD_LAYER(field, text, rows, columns, needs)                                               \
    snprintf(name, sizeof name, "layers.%d." text, layer);                                         \
    if (is_there(&shape, needs))                                                                   \
        add_tensor(it, name, rows, columns, dtypes);
        CF_NEOX_LAYER_TENSORS(ADD_LAYER)
    }
    assert_ok(cf_neox_bind(&shape, it->tensors, it->n_tensors, &it->neox, &error), error);
    const char *text;
    assert_ok(cf_cpu_backend.model_create(&it->neox, NULL, &it->model, &text, &error), error);
    assert_non_null(strstr(text, "CPU"));
}

static void sample_close(sample *it)
{
    cf_cpu_backend.model_free(it->model);
    cf_neox_unbind(&it->neox);
    for (size_t i = 0; i < it->n_tensors; i++)
        free((void *)(uintptr_t)it->tensors[i].data);
}

/* y [rows] = W x + b */
static void linear(double *y, const cf_tensor *weight, const cf_tensor *bias, const double *x)
{
    size_t rows = (size_t)weight->dims[0], columns = (size_t)weight->dims[1];
    for (size_t r = 0; r < rows; r++) {
        y[r] = bias != NULL ? element(bias, r) : 0;
        for (size_t k = 0; k < columns; k++)
            y[r] += element(weight, r * columns + k) * x[k];
    }
}

static void layer_norm(double *y, const double *x, const cf_tensor *weight, const cf_tensor *bias,
                       size_t n, double eps)
{
    double mean = 0, variance = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        variance += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) / sqrt(variance + eps) * element(weight, i) + element(bias, i);
}

static double activation_of(double x, cf_activation activation)
{
    switch (activation) {
    case CF_ACTIVATION_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case CF_ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case CF_ACTIVATION_RELU:
        return fmax(x, 0);
    case CF_ACTIVATION_SILU:
        return x / (1 + exp(-x));
    }
    return x;
}

static void rotate(double *x, size_t pos, const cf_shape *shape)
{
    size_t half = (size_t)shape->d_rotary / 2;
    for (size_t i = 0; i < half; i++) {
        double angle = (double)pos * pow(shape->rope_theta, -2.0 * (double)i / shape->d_rotary);
        double a = x[i], b = x[i + half];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + half] = b * cos(angle) + a * sin(angle);
    }
}

/* Attention of position t over its head's rows of qkv [n][3 d_model], which are rotated already. */
static void attend(double *y, const double *qkv, size_t t, size_t head, const cf_shape *shape)
{
    size_t d = (size_t)shape->d_head, stride = 3 * (size_t)shape->d_model, at = head * 3 * d;
    double total = 0;
    memset(y, 0, d * sizeof *y);
    for (size_t j = 0; j <= t; j++) {
        double score = 0;
        for (size_t k = 0; k < d; k++)
            score += qkv[t * stride + at + k] * qkv[j * stride + at + d + k];
        double weight = exp(score / sqrt((double)d));
        for (size_t k = 0; k < d; k++)
            y[k] += weight * qkv[j * stride + at + 2 * d + k];
        total += weight;
    }
    for (size_t k = 0; k < d; k++)
        y[k] /= total;
}

/* out [n][d_model] = dense(attention(ln1 x)) */
static void attention_branch(const sample *it, const cf_neox_layer *layer, const double *x,
                             double *out, size_t n)
{
    const cf_shape *shape = &it->shape;
    size_t D = (size_t)shape->d_model, d = (size_t)shape->d_head;
    double *normed = calloc(D, sizeof *normed), *qkv = calloc(n * 3 * D, sizeof *qkv);
    for (size_t t = 0; t < n; t++) {
        layer_norm(normed, x + t * D, layer->ln1_weight, layer->ln1_bias, D, shape->layer_norm_eps);
        linear(qkv + t * 3 * D, layer->qkv_weight, layer->qkv_bias, normed);
        for (size_t head = 0; head < (size_t)shape->n_heads; head++) {
            rotate(qkv + t * 3 * D + head * 3 * d, t, shape);
            rotate(qkv + t * 3 * D + head * 3 * d + d, t, shape);
        }
    }
    for (size_t t = 0; t < n; t++) {
        for (size_t head = 0; head < (size_t)shape->n_heads; head++)
            attend(normed + head * d, qkv, t, head, shape);
        linear(out + t * D, layer->dense_weight, layer->dense_bias, normed);
    }
    free(normed);
    free(qkv);
}

/* out [d_model] = down(activation(up(ln2 x))) */
static void mlp_branch(const sample *it, const cf_neox_layer *layer, const double *x, double *out)
{
    size_t D = (size_t)it->shape.d_model, F = (size_t)it->shape.d_ffn;
    double *normed = calloc(D, sizeof *normed), *ffn = calloc(F, sizeof *ffn);
    layer_norm(normed, x, layer->ln2_weight, layer->ln2_bias, D, it->shape.layer_norm_eps);
    linear(ffn, layer->up_weight, layer->up_bias, normed);
    for (size_t i = 0; i < F; i++)
        ffn[i] = activation_of(ffn[i], it->shape.activation);
    linear(out, layer->down_weight, layer->down_bias, ffn);
    free(normed);
    free(ffn);
}

static void reference_layer(const sample *it, const cf_neox_layer *layer, double *x, size_t n)
{
    size_t D = (size_t)it->shape.d_model;
    double *attended = calloc(n * D, sizeof *attended), *mlp = calloc(D, sizeof *mlp);
    attention_branch(it, layer, x, attended, n);
    for (size_t t = 0; t < n; t++) {
        double *row = x + t * D;
        for (size_t i = 0; i < D && !it->shape.parallel_residual; i++)
            row[i] += attended[t * D + i];
        mlp_branch(it, layer, row, mlp);
        for (size_t i = 0; i < D; i++)
            row[i] += mlp[i] + (it->shape.parallel_residual ? attended[t * D + i] : 0);
    }
    free(attended);
    free(mlp);
}

/* logits [n][n_vocab] and hidden [n_layers + 1][n][d_model], rounded to float32 at the very end. */
static void reference(const sample *it, const cf_token *ids, size_t n, float *logits, float *hidden)
{
    size_t D = (size_t)it->shape.d_model, V = (size_t)it->shape.n_vocab;
    double *x = calloc(n * D, sizeof *x), *row = calloc(V, sizeof *row);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < D; i++)
            x[t * D + i] = element(it->neox.embed, (size_t)ids[t] * D + i);
    for (int32_t layer = 0; layer < it->shape.n_layers; layer++) {
        for (size_t i = 0; i < n * D; i++)
            *hidden++ = (float)x[i];
        reference_layer(it, &it->neox.layers[layer], x, n);
    }
    for (size_t t = 0; t < n; t++) {
        double *normed = x + t * D;
        layer_norm(normed, normed, it->neox.final_ln_weight, it->neox.final_ln_bias, D,
                   it->shape.layer_norm_eps);
        for (size_t i = 0; i < D; i++)
            *hidden++ = (float)normed[i];
        linear(row, it->neox.head, NULL, normed);
        for (size_t i = 0; i < V; i++)
            logits[t * V + i] = (float)row[i];
    }
    free(x);
    free(row);
}

#define N_TOKENS 150

/* ‖a − b‖ / ‖b‖: docs/numerics.md, "Against float64". */
#define TOLERANCE_F32 2e-6
#define TOLERANCE_F16_CACHE 0x1p-11

static void evaluate(const sample *it, const cf_token *ids, cf_backend_options options,
                     const cf_kernels *kernels, float *logits, float *hidden)
{
    cf_backend_session *session;
    cf_error error;
    size_t V = (size_t)it->shape.n_vocab;
    assert_ok(cf_cpu_backend.session_create(it->model, &options, &session, &error), error);
    cf_cpu_force_kernels(session, kernels);
    for (size_t pos = 0; pos < N_TOKENS; pos += options.n_chunk) {
        size_t n = N_TOKENS - pos < options.n_chunk ? N_TOKENS - pos : options.n_chunk;
        cf_step step = {.ids = ids + pos,
                        .n = n,
                        .pos = pos,
                        .logits = logits + pos * V,
                        .n_logits = n,
                        .hidden = hidden,
                        .hidden_rows = N_TOKENS,
                        .hidden_row = pos};
        assert_ok(cf_cpu_backend.step(session, &step, &error), error);
    }
    cf_cpu_backend.session_free(session);
}

/* All instruction sets, chunks of 1, 7, 31 and all at once, both caches. */
static void check_shape(cf_shape shape, const cf_dtype dtypes[4])
{
    static const size_t chunks[] = {1, 7, 31, N_TOKENS};
    sample it;
    sample_open(&it, shape, dtypes);
    size_t n_logits = N_TOKENS * (size_t)shape.n_vocab;
    size_t n_hidden = ((size_t)shape.n_layers + 1) * N_TOKENS * (size_t)shape.d_model;
    float *logits = calloc(n_logits, sizeof *logits), *expected = calloc(n_logits, sizeof *logits);
    float *hidden = calloc(n_hidden, sizeof *hidden);
    float *expected_hidden = calloc(n_hidden, sizeof *hidden);
    cf_token ids[N_TOKENS];
    for (size_t i = 0; i < N_TOKENS; i++)
        ids[i] = (cf_token)(cf_random_uniform(99, i) * shape.n_vocab);
    reference(&it, ids, N_TOKENS, expected, expected_hidden);
    for (int variant = 0; variant < 8 * CF_ISA_COUNT; variant++) {
        const cf_kernels *kernels = cf_kernels_get((cf_isa)(variant / 8));
        bool wide = variant % 2 == 0;
        cf_backend_options options = {.n_context = N_TOKENS,
                                      .n_chunk = chunks[variant / 2 % 4],
                                      .n_threads = 1 + variant % 3,
                                      .kv_dtype = wide ? CF_DTYPE_F32 : CF_DTYPE_F16};
        if (kernels == NULL)
            continue;
        evaluate(&it, ids, options, kernels, logits, hidden);
        double of_logits = test_relative_error(logits, expected, n_logits);
        double of_hidden = test_relative_error(hidden, expected_hidden, n_hidden);
        double tolerance = wide ? TOLERANCE_F32 : TOLERANCE_F16_CACHE;
        if (!(of_logits <= tolerance) || !(of_hidden <= tolerance))
            fail_msg("%s, chunks of %zu, %s cache: logits differ by %g, hidden states by %g",
                     kernels->name, options.n_chunk, cf_dtype_name(options.kv_dtype), of_logits,
                     of_hidden);
    }
    free(logits);
    free(expected);
    free(hidden);
    free(expected_hidden);
    sample_close(&it);
}

static const cf_dtype f16[] = {CF_DTYPE_F16, CF_DTYPE_F16, CF_DTYPE_F16, CF_DTYPE_F16};
static const cf_dtype bf16[] = {CF_DTYPE_BF16, CF_DTYPE_BF16, CF_DTYPE_BF16, CF_DTYPE_BF16};
static const cf_dtype f32[] = {CF_DTYPE_F32, CF_DTYPE_F32, CF_DTYPE_F32, CF_DTYPE_F32};
static const cf_dtype mixed[] = {CF_DTYPE_F32, CF_DTYPE_F16, CF_DTYPE_BF16, CF_DTYPE_BF16};

static cf_shape shape_of(int32_t n_heads, int32_t d_head, int32_t d_rotary, int32_t d_ffn)
{
    return (cf_shape){.n_layers = 2,
                      .d_model = n_heads * d_head,
                      .n_heads = n_heads,
                      .d_head = d_head,
                      .d_rotary = d_rotary,
                      .d_ffn = d_ffn,
                      .n_vocab = 131,
                      .n_context = N_TOKENS,
                      .rope_theta = 10000,
                      .layer_norm_eps = 1e-5f,
                      .activation = CF_ACTIVATION_GELU_ERF,
                      .parallel_residual = true,
                      .attention_bias = true,
                      .bos_token = -1,
                      .eos_token = -1};
}

static void head_widths_even_and_odd(void **state)
{
    (void)state;
    check_shape(shape_of(3, 7, 2, 50), f16);
    check_shape(shape_of(2, 24, 6, 97), f16);
    check_shape(shape_of(2, 80, 20, 200), f16);
    check_shape(shape_of(5, 1, 0, 3), f32);
}

static void rotary_dims_from_none_to_all(void **state)
{
    (void)state;
    check_shape(shape_of(2, 16, 0, 64), f16);
    check_shape(shape_of(2, 16, 16, 64), f16);
}

static void weights_of_every_format_and_all_mixed(void **state)
{
    (void)state;
    check_shape(shape_of(2, 32, 8, 128), bf16);
    check_shape(shape_of(2, 32, 8, 128), f32);
    check_shape(shape_of(2, 32, 8, 128), mixed);
}

static void sequential_residual_tied_head_and_no_attention_bias(void **state)
{
    (void)state;
    cf_shape shape = shape_of(2, 32, 8, 128);
    shape.parallel_residual = false;
    check_shape(shape, f16);
    shape.tied_embeddings = true;
    check_shape(shape, f16);
    shape.attention_bias = false;
    check_shape(shape, bf16);
}

static void activations_of_every_kind(void **state)
{
    (void)state;
    for (int activation = 0; activation <= CF_ACTIVATION_SILU; activation++) {
        cf_shape shape = shape_of(2, 16, 4, 70);
        shape.activation = (cf_activation)activation;
        check_shape(shape, f16);
    }
}

/* More columns than a panel holds, more rows than one panel. */
static void products_larger_than_a_panel(void **state)
{
    (void)state;
    cf_shape shape = shape_of(2, 64, 16, CF_CPU_PANEL_COLUMNS + 37);
    shape.n_layers = 1;
    check_shape(shape, f16);
}

static void a_context_beyond_memory_is_an_error_with_its_bytes(void **state)
{
    (void)state;
    sample it;
    cf_error error;
    cf_backend_session *session;
    cf_session_memory memory;
    sample_open(&it, shape_of(2, 64, 16, 256), f16);
    cf_backend_options options = {
        .n_context = (size_t)1 << 40, .n_chunk = 16, .n_threads = 1, .kv_dtype = CF_DTYPE_F16};
    assert_ok(cf_cpu_backend.session_measure(it.model, &options, &memory, &error), error);
    assert_true(memory.kv_bytes == 2ull * 2 * 128 * 2 << 40);
    assert_fails(cf_cpu_backend.session_create(it.model, &options, &session, &error),
                 CF_STATUS_OUT_OF_MEMORY, error, "bytes");
    assert_null(session);
    options.n_context = SIZE_MAX / 16;
    assert_fails(cf_cpu_backend.session_create(it.model, &options, &session, &error),
                 CF_STATUS_OUT_OF_MEMORY, error, "KV cache");
    sample_close(&it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_widths_even_and_odd),
        cmocka_unit_test(rotary_dims_from_none_to_all),
        cmocka_unit_test(weights_of_every_format_and_all_mixed),
        cmocka_unit_test(sequential_residual_tied_head_and_no_attention_bias),
        cmocka_unit_test(activations_of_every_kind),
        cmocka_unit_test(products_larger_than_a_panel),
        cmocka_unit_test(a_context_beyond_memory_is_an_error_with_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
