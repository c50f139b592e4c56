/* The kernels in plain C: what the others are compared with. */
#include "backend/cpu/kernels.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

static float load_f32(const void *from, size_t i)
{
    return ((const float *)from)[i];
}

static float load_f16(const void *from, size_t i)
{
    return cf_float_from_f16(((const uint16_t *)from)[i]);
}

static float load_bf16(const void *from, size_t i)
{
    return cf_float_from_bf16(((const uint16_t *)from)[i]);
}

static void narrow_f32(void *to, const float *from, size_t n)
{
    memcpy(to, from, n * sizeof *from);
}

static void narrow_f16(void *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)to)[i] = cf_f16_from_float(from[i]);
}

/* The three functions that read a storage format, for the format that load_##name reads. */
#define DEFINE_READERS(name)                                                                       \
    static void rows_##name(float *y, size_t y_stride, const void *weight, size_t n_rows,          \
                            size_t n_columns, const float *x, size_t x_stride, size_t n)           \
    {                                                                                              \
        for (size_t r = 0; r < n_rows; r++)                                                        \
            for (size_t t = 0; t < n; t++) {                                                       \
                float sum = 0;                                                                     \
                for (size_t k = 0; k < n_columns; k++)                                             \
                    sum += load_##name(weight, r * n_columns + k) * x[t * x_stride + k];           \
                y[t * y_stride + r] += sum;                                                        \
            }                                                                                      \
    }                                                                                              \
    static void widen_##name(float *to, const void *from, size_t n)                                \
    {                                                                                              \
        for (size_t i = 0; i < n; i++)                                                             \
            to[i] = load_##name(from, i);                                                          \
    }                                                                                              \
    static void mix_##name(float *y, const float *weights, const void *values, size_t n, size_t d) \
    {                                                                                              \
        for (size_t j = 0; j < n; j++)                                                             \
            for (size_t k = 0; k < d; k++)                                                         \
                y[k] += weights[j] * load_##name(values, j * d + k);                               \
    }

DEFINE_READERS(f32)
DEFINE_READERS(f16)
DEFINE_READERS(bf16)

static uint64_t read_all(const void *data, size_t n_bytes)
{
    const uint64_t *words = data;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < n_bytes / sizeof *words; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += words[i + j];
    return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

static void transpose(float *to, size_t to_stride, const float *from, size_t from_stride,
                      size_t n_rows, size_t n_columns, bool add)
{
    for (size_t c = 0; c < n_columns; c++)
        for (size_t r = 0; r < n_rows; r++) {
            float value = from[r * from_stride + c];
            to[c * to_stride + r] = add ? to[c * to_stride + r] + value : value;
        }
}

static void layer_norm(float *y, const float *x, const float *weight, const float *bias, float eps,
                       size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    float mean = (float)(sum / (double)n);
    for (size_t i = 0; i < n; i++)
        squares += (double)(x[i] - mean) * (x[i] - mean);
    float scale = 1 / sqrtf((float)(squares / (double)n) + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

static float activation_of(float x, cf_activation activation)
{
    switch (activation) {
    case CF_ACTIVATION_GELU_ERF:
        return 0.5f * x * (1 + erff(x * (float)M_SQRT1_2));
    case CF_ACTIVATION_GELU_TANH: /* Hendrycks and Gimpel, arXiv 1606.08415, section 2 */
        return 0.5f * x * (1 + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
    case CF_ACTIVATION_RELU:
        return x > 0 ? x : 0;
    case CF_ACTIVATION_SILU:
        return x / (1 + expf(-x));
    }
    return x;
}

static void activate(float *x, cf_activation activation, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = activation_of(x[i], activation);
}

static float largest(const float *x, size_t n)
{
    float value = x[0];
    for (size_t i = 1; i < n; i++)
        value = x[i] > value ? x[i] : value;
    return value;
}

static float exp_sum(float *x, float shift, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - shift);
        sum += x[i];
    }
    return sum;
}

#define EACH_DTYPE(function)                                                                       \
    {                                                                                              \
        NULL, [CF_DTYPE_F32] = function##_f32, [CF_DTYPE_F16] = function##_f16,                    \
              [CF_DTYPE_BF16] = function##_bf16                                                    \
    }

const cf_kernels cf_kernels_generic = {
    .name = "plain C",
    .rows = EACH_DTYPE(rows),
    .widen = EACH_DTYPE(widen),
    .narrow = {[CF_DTYPE_F32] = narrow_f32, [CF_DTYPE_F16] = narrow_f16},
    .mix = EACH_DTYPE(mix),
    .read = read_all,
    .transpose = transpose,
    .layer_norm = layer_norm,
    .activate = activate,
    .largest = largest,
    .exp_sum = exp_sum,
};
