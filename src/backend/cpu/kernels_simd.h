/*
 * The kernels in terms of vectors. A file of one instruction set defines the type `vec`, LANES of
 * float32, and the operations below, then includes this; it gets every kernel and KERNELS_SIMD, the
 * initialiser of its table.
 *
 *   v_set(x) v_load(p) v_store(p, v)           all lanes
 *   v_load_part(p, n) v_store_part(p, v, n)    the first n < LANES; others load as 0, are not
 * stored v_load_f16 … v_load_bf16_part              the same from 16-bit formats v_store_f16
 * v_store_f16_part               to binary16, to nearest even v_add v_sub v_mul v_div v_max v_min
 * v_fma(a, b, c) = a b + c v_select_less(a, b, x, y)                  a < b ? x : y, lane by lane
 *   v_round(v)                                 to the nearest integer
 *   v_scale(x, n)                              x 2^n for integers n from -252 to 254
 *   v_abs(v) v_copy_sign(magnitude, sign)
 *   v_exchange(a, b, s)    a's lanes l with l & s, against b's lanes l without: a[l] ↔ b[l - s]
 *   v_sum(v) v_largest(v)                      over the lanes, in a fixed order
 *
 * A row's product is two vectors of partial sums along the columns, then v_sum: the same for any
 * number of tokens, so that a token does not notice which others are worked on beside it.
 */
#include "backend/cpu/kernels.h"
#include "base/memory.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/*
 * Vectors of a row that are multiplied together, and sums along a row that do not wait for each
 * other: few enough that the sums of STREAMS rows stay in registers. Tokens of a pass likewise.
 */
#define VECTORS 4
#define SUMS 2
#define MAX_TOKENS 4

/* Rows far apart that are read side by side where that is fastest, and how far ahead of each. */
#define STREAMS ((size_t)8)
#define AHEAD_BYTES ((size_t)1024)
#define LINE_BYTES ((size_t)64)

INLINE vec v_load_f32(const void *p)
{
    return v_load(p);
}

INLINE vec v_load_f32_part(const void *p, size_t n)
{
    return v_load_part(p, n);
}

INLINE vec v_load_some(const float *p, size_t n)
{
    return n < LANES ? v_load_part(p, n) : v_load(p);
}

INLINE const void *element(const void *base, size_t i, size_t element_bytes)
{
    return (const char *)base + i * element_bytes;
}

/* Asks for the lines that `n_bytes` from `at` on lie in, `ahead` bytes further on; 0: does not. */
INLINE void fetch_ahead(const void *at, size_t n_bytes, size_t ahead)
{
    for (size_t i = 0; ahead > 0 && i < n_bytes; i += LINE_BYTES)
        __builtin_prefetch((const char *)at + ahead + i);
}

/*
 * R rows, `y_apart` rows from each other, and T tokens, both constants where it is called. Rows are
 * read from end to end, one after the other, in streams far apart: two without, or STREAMS with
 * software's asking for lines ahead. Which is faster depends on the maker (docs/speed_log.md); the
 * sums are the same. Neighbouring rows side by side are read at half the speed.
 */
#define DEFINE_ROWS(name, element_bytes)                                                           \
    INLINE void tile_##name(size_t R, size_t T, size_t ahead, float *y, size_t y_stride,           \
                            const void *weight, size_t y_apart, size_t n_columns, const float *x,  \
                            size_t x_stride)                                                       \
    {                                                                                              \
        size_t apart = y_apart * n_columns, k = 0;                                                 \
        vec sums[STREAMS][SUMS][MAX_TOKENS];                                                       \
        UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t c = 0; c < SUMS; c++)             \
            UNROLL for (size_t t = 0; t < T; t++) sums[r][c][t] = v_set(0);                        \
        for (; k + VECTORS * LANES <= n_columns; k += VECTORS * LANES)                             \
            UNROLL for (size_t r = 0; r < R; r++)                                                  \
            {                                                                                      \
                const void *at = element(weight, r * apart + k, element_bytes);                    \
                fetch_ahead(at, VECTORS *LANES *element_bytes, ahead);                             \
                UNROLL for (size_t c = 0; c < VECTORS; c++)                                        \
                {                                                                                  \
                    vec w = v_chain_##name(at, c);                                                 \
                    UNROLL for (size_t t = 0; t < T; t++) sums[r][c % SUMS][t] =                   \
                        v_fma(w, v_load(x + t * x_stride + k + c * LANES), sums[r][c % SUMS][t]);  \
                }                                                                                  \
            }                                                                                      \
        for (; k < n_columns; k += LANES) {                                                        \
            size_t rest = n_columns - k < LANES ? n_columns - k : LANES;                           \
            UNROLL for (size_t r = 0; r < R; r++)                                                  \
            {                                                                                      \
                const void *at = element(weight, r * apart + k, element_bytes);                    \
                vec w = rest < LANES ? v_load_##name##_part(at, rest) : v_load_##name(at);         \
                UNROLL for (size_t t = 0; t < T; t++) sums[r][0][t] =                              \
                    v_fma(w, v_load_some(x + t * x_stride + k, rest), sums[r][0][t]);              \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (size_t r = 0; r < R; r++) UNROLL for (size_t t = 0; t < T; t++)                \
            y[t * y_stride + r * y_apart] += v_sum(v_add(sums[r][0][t], sums[r][1][t]));           \
    }                                                                                              \
    INLINE void row_##name(float *y, size_t y_stride, const void *row, size_t n_columns,           \
                           const float *x, size_t x_stride, size_t n, size_t ahead)                \
    {                                                                                              \
        for (; n >= MAX_TOKENS; n -= MAX_TOKENS) {                                                 \
            tile_##name(1, MAX_TOKENS, ahead, y, y_stride, row, 0, n_columns, x, x_stride);        \
            y += MAX_TOKENS * y_stride;                                                            \
            x += MAX_TOKENS * x_stride;                                                            \
        }                                                                                          \
        if (n == 1)                                                                                \
            tile_##name(1, 1, ahead, y, y_stride, row, 0, n_columns, x, x_stride);                 \
        else if (n == 2)                                                                           \
            tile_##name(1, 2, ahead, y, y_stride, row, 0, n_columns, x, x_stride);                 \
        else if (n == 3)                                                                           \
            tile_##name(1, 3, ahead, y, y_stride, row, 0, n_columns, x, x_stride);                 \
    }                                                                                              \
    INLINE void stream_##name(size_t S, size_t ahead, float *y, size_t y_stride,                   \
                              const void *weight, size_t n_rows, size_t n_columns, const float *x, \
                              size_t x_stride, size_t n)                                           \
    {                                                                                              \
        size_t r = 0, part = n == 1 ? n_rows / S : 0;                                              \
        for (; r < part; r++)                                                                      \
            tile_##name(S, 1, ahead, y + r, y_stride,                                              \
                        element(weight, r * n_columns, element_bytes), part, n_columns, x,         \
                        x_stride);                                                                 \
        for (r = S * part; r < n_rows; r++)                                                        \
            row_##name(y + r, y_stride, element(weight, r * n_columns, element_bytes), n_columns,  \
                       x, x_stride, n, ahead);                                                     \
    }                                                                                              \
    static void rows_##name(float *y, size_t y_stride, const void *weight, size_t n_rows,          \
                            size_t n_columns, const float *x, size_t x_stride, size_t n)           \
    {                                                                                              \
        stream_##name(2, 0, y, y_stride, weight, n_rows, n_columns, x, x_stride, n);               \
    }                                                                                              \
    static void rows_ahead_##name(float *y, size_t y_stride, const void *weight, size_t n_rows,    \
                                  size_t n_columns, const float *x, size_t x_stride, size_t n)     \
    {                                                                                              \
        stream_##name(STREAMS, AHEAD_BYTES, y, y_stride, weight, n_rows, n_columns, x, x_stride,   \
                      n);                                                                          \
    }

/* V vectors (a constant) of y, from column k on; the last has `rest` lanes if that is not 0. */
#define DEFINE_MIX(name, element_bytes)                                                            \
    static void widen_##name(float *to, const void *from, size_t n)                                \
    {                                                                                              \
        size_t i = 0;                                                                              \
        for (; i + LANES <= n; i += LANES)                                                         \
            v_store(to + i, v_load_##name(element(from, i, element_bytes)));                       \
        if (i < n)                                                                                 \
            v_store_part(to + i, v_load_##name##_part(element(from, i, element_bytes), n - i),     \
                         n - i);                                                                   \
    }                                                                                              \
    INLINE void mix_columns_##name(size_t V, float *y, const float *weights, const void *values,   \
                                   size_t n, size_t d)                                             \
    {                                                                                              \
        vec sums[4];                                                                               \
        UNROLL for (size_t v = 0; v < V; v++) sums[v] = v_load(y + v * LANES);                     \
        for (size_t j = 0; j < n; j++) {                                                           \
            vec w = v_set(weights[j]);                                                             \
            UNROLL for (size_t v = 0; v < V; v++) sums[v] = v_fma(                                 \
                w, v_load_##name(element(values, j * d + v * LANES, element_bytes)), sums[v]);     \
        }                                                                                          \
        UNROLL for (size_t v = 0; v < V; v++) v_store(y + v * LANES, sums[v]);                     \
    }                                                                                              \
    static void mix_##name(float *y, const float *weights, const void *values, size_t n, size_t d) \
    {                                                                                              \
        size_t k = 0;                                                                              \
        for (; k + 4 * LANES <= d; k += 4 * LANES)                                                 \
            mix_columns_##name(4, y + k, weights, element(values, k, element_bytes), n, d);        \
        for (; k + LANES <= d; k += LANES)                                                         \
            mix_columns_##name(1, y + k, weights, element(values, k, element_bytes), n, d);        \
        if (k == d)                                                                                \
            return;                                                                                \
        vec sum = v_load_part(y + k, d - k);                                                       \
        for (size_t j = 0; j < n; j++)                                                             \
            sum = v_fma(v_set(weights[j]),                                                         \
                        v_load_##name##_part(element(values, j * d + k, element_bytes), d - k),    \
                        sum);                                                                      \
        v_store_part(y + k, sum, d - k);                                                           \
    }

DEFINE_ROWS(f32, 4)
DEFINE_ROWS(f16, 2)
DEFINE_ROWS(bf16, 2)
DEFINE_MIX(f32, 4)
DEFINE_MIX(f16, 2)
DEFINE_MIX(bf16, 2)

static void narrow_f32(void *to, const float *from, size_t n)
{
    memcpy(to, from, n * sizeof *from);
}

static void narrow_f16(void *to, const float *from, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store_f16((uint16_t *)to + i, v_load(from + i));
    if (i < n)
        v_store_f16_part((uint16_t *)to + i, v_load_part(from + i, n - i), n - i);
}

/* Four lines at a time from each of two places, half of the data apart. */
static uint64_t read_all(const void *data, size_t n_bytes)
{
    const char *a = data, *b = a + n_bytes / 2;
    vec sums[8] = {v_set(0), v_set(0), v_set(0), v_set(0), v_set(0), v_set(0), v_set(0), v_set(0)};
    size_t step = 4 * sizeof(vec);
    for (size_t i = 0; i < n_bytes / 2; i += step)
        UNROLL for (size_t j = 0; j < 4; j++)
        {
            sums[j] = v_max(sums[j], v_load((const void *)(a + i + j * sizeof(vec))));
            sums[4 + j] = v_max(sums[4 + j], v_load((const void *)(b + i + j * sizeof(vec))));
        }
    vec most = v_max(v_max(v_max(sums[0], sums[1]), v_max(sums[2], sums[3])),
                     v_max(v_max(sums[4], sums[5]), v_max(sums[6], sums[7])));
    return v_largest(most) > 0;
}

/* Blocks of s rows and columns change sides. */
INLINE void exchange_blocks(vec rows[LANES], size_t s)
{
    for (size_t r = 0; r < LANES; r += 2 * s)
        for (size_t i = r; i < r + s; i++)
            v_exchange(&rows[i], &rows[i + s], s);
}

/* One square of LANES rows and columns: blocks of half the width each time. */
INLINE void transpose_square(float *to, size_t to_stride, const float *from, size_t from_stride,
                             bool add)
{
    vec rows[LANES];
    for (size_t r = 0; r < LANES; r++)
        rows[r] = v_load(from + r * from_stride);
    if (LANES == 16)
        exchange_blocks(rows, 8);
    exchange_blocks(rows, 4);
    exchange_blocks(rows, 2);
    exchange_blocks(rows, 1);
    for (size_t r = 0; r < LANES; r++) {
        float *at = to + r * to_stride;
        v_store(at, add ? v_add(v_load(at), rows[r]) : rows[r]);
    }
}

static void transpose(float *to, size_t to_stride, const float *from, size_t from_stride,
                      size_t n_rows, size_t n_columns, bool add)
{
    size_t whole_rows = n_rows - n_rows % LANES, whole_columns = n_columns - n_columns % LANES;
    for (size_t r = 0; r < whole_rows; r += LANES)
        for (size_t c = 0; c < whole_columns; c += LANES)
            transpose_square(to + c * to_stride + r, to_stride, from + r * from_stride + c,
                             from_stride, add);
    for (size_t c = 0; c < n_columns; c++)
        for (size_t r = c < whole_columns ? whole_rows : 0; r < n_rows; r++) {
            float value = from[r * from_stride + c];
            to[c * to_stride + r] = add ? to[c * to_stride + r] + value : value;
        }
}

/* Σ (x[i] - shift)^power for power 1 or 2. */
INLINE float power_sum(const float *x, float shift, size_t n, int power)
{
    vec sum = v_set(0), away = v_set(shift);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec part = v_sub(v_load(x + i), away);
        sum = power == 1 ? v_add(sum, part) : v_fma(part, part, sum);
    }
    float total = v_sum(sum);
    for (; i < n; i++)
        total += power == 1 ? x[i] - shift : (x[i] - shift) * (x[i] - shift);
    return total;
}

static void layer_norm(float *y, const float *x, const float *weight, const float *bias, float eps,
                       size_t n)
{
    float mean = power_sum(x, 0, n, 1) / (float)n;
    float scale = 1 / sqrtf(power_sum(x, mean, n, 2) / (float)n + eps);
    vec means = v_set(mean), scales = v_set(scale);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec unit = v_mul(v_sub(v_load(x + i), means), scales);
        v_store(y + i, v_fma(unit, v_load(weight + i), v_load(bias + i)));
    }
    for (; i < n; i++)
        y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/* Polynomials in x, lowest power first, by Horner's rule. */
INLINE vec polynomial(vec x, const float *coefficients, size_t n)
{
    vec sum = v_set(coefficients[n - 1]);
    UNROLL for (size_t i = n - 1; i > 0; i--) sum = v_fma(sum, x, v_set(coefficients[i - 1]));
    return sum;
}

/*
 * The coefficients are weighted least-squares fits, reweighted until the error is level, to
 * functions evaluated in float64; docs/numerics.md gives the errors.
 */
static const float exp_fit[7] = {0x1p0f,       0x1p0f,        0.49999992f,  0.16666420f,
                                 0.041668226f, 0.0083748221f, 0.0013836834f};
static const float erf_fit[7] = {1.1283791659f, -0.37612627136f,  0.11283600176f,  -0.026854444592f,
                                 0.0051895353f, -0.000802084128f, 0.0000788911953f};
static const float log_erfc_fit[7] = {0.00035370893f,  1.1270400800f,   0.63822560238f,
                                      0.10303743551f,  -0.02180535115f, 0.00293961573f,
                                      -0.000185574893f};

/* e^x: 2^n e^r with n = round(x / ln 2), and ln 2 in two parts so that r is exact to its last bit.
 */
INLINE vec v_exp(vec x)
{
    /* In this order of operands NaNs stay NaNs. */
    vec bounded = v_min(v_set(104), v_max(v_set(-104), x));
    vec n = v_round(v_mul(bounded, v_set(1.44269504f)));
    vec r = v_fma(n, v_set(-0x1.62e4p-1f), bounded);
    r = v_fma(n, v_set(-0x1.7f7d1cp-20f), r);
    return v_scale(polynomial(r, exp_fit, 7), n);
}

/* erf z: z P(z²) below 1, 1 - e^-Q(z) above, where Q fits -ln erfc up to 4; beyond that it is 1. */
INLINE vec v_erf(vec z)
{
    vec magnitude = v_min(v_abs(z), v_set(4));
    vec near = v_mul(magnitude, polynomial(v_mul(magnitude, magnitude), erf_fit, 7));
    vec log_erfc = polynomial(magnitude, log_erfc_fit, 7);
    vec far = v_sub(v_set(1), v_exp(v_sub(v_set(0), log_erfc)));
    return v_copy_sign(v_select_less(magnitude, v_set(1), near, far), z);
}

/* x / (1 + e^-y): x times the logistic function of y. */
INLINE vec logistic_gate(vec x, vec y)
{
    return v_div(x, v_add(v_set(1), v_exp(v_sub(v_set(0), y))));
}

INLINE vec activation_of(vec x, cf_activation activation)
{
    switch (activation) {
    case CF_ACTIVATION_GELU_ERF: {
        vec half = v_mul(x, v_set(0.5f));
        return v_fma(half, v_erf(v_mul(x, v_set((float)M_SQRT1_2))), half);
    }
    case CF_ACTIVATION_GELU_TANH: { /* (1 + tanh u) / 2 is the logistic function of 2u */
        vec cubic = v_fma(v_mul(v_mul(x, x), x), v_set(0.044715f), x);
        return logistic_gate(x, v_mul(cubic, v_set(2 * 0.797884561f)));
    }
    case CF_ACTIVATION_RELU:
        return v_max(x, v_set(0));
    case CF_ACTIVATION_SILU:
        return logistic_gate(x, x);
    }
    return x;
}

INLINE void activate_as(float *x, cf_activation activation, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(x + i, activation_of(v_load(x + i), activation));
    if (i < n)
        v_store_part(x + i, activation_of(v_load_part(x + i, n - i), activation), n - i);
}

static void activate(float *x, cf_activation activation, size_t n)
{
    switch (activation) {
    case CF_ACTIVATION_GELU_ERF:
        activate_as(x, CF_ACTIVATION_GELU_ERF, n);
        break;
    case CF_ACTIVATION_GELU_TANH:
        activate_as(x, CF_ACTIVATION_GELU_TANH, n);
        break;
    case CF_ACTIVATION_RELU:
        activate_as(x, CF_ACTIVATION_RELU, n);
        break;
    case CF_ACTIVATION_SILU:
        activate_as(x, CF_ACTIVATION_SILU, n);
        break;
    }
}

static float largest(const float *x, size_t n)
{
    float value = x[0];
    size_t i = 0;
    if (n >= LANES) {
        vec best = v_load(x);
        for (i = LANES; i + LANES <= n; i += LANES)
            best = v_max(best, v_load(x + i));
        value = v_largest(best);
    }
    for (; i < n; i++)
        value = x[i] > value ? x[i] : value;
    return value;
}

static float exp_sum(float *x, float shift, size_t n)
{
    vec sum = v_set(0), away = v_set(shift);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec value = v_exp(v_sub(v_load(x + i), away));
        v_store(x + i, value);
        sum = v_add(sum, value);
    }
    float total = v_sum(sum);
    if (i == n)
        return total;
    v_store_part(x + i, v_exp(v_sub(v_load_part(x + i, n - i), away)), n - i);
    for (; i < n; i++)
        total += x[i];
    return total;
}

#define EACH_DTYPE(function)                                                                       \
    {                                                                                              \
        NULL, [CF_DTYPE_F32] = function##_f32, [CF_DTYPE_F16] = function##_f16,                    \
              [CF_DTYPE_BF16] = function##_bf16                                                    \
    }

/* `way` is empty, or _ahead: how weights are read from memory. */
#define KERNELS_SIMD(title, way, tiles)                                                            \
    {                                                                                              \
        .name = title, .may_use_tiles = tiles, .rows = EACH_DTYPE(rows##way),                      \
        .widen = EACH_DTYPE(widen),                                                                \
        .narrow = {[CF_DTYPE_F32] = narrow_f32, [CF_DTYPE_F16] = narrow_f16},                      \
        .mix = EACH_DTYPE(mix), .read = read_all, .transpose = transpose,                          \
        .layer_norm = layer_norm, .activate = activate, .largest = largest, .exp_sum = exp_sum     \
    }
