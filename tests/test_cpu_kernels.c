/* The kernels of every instruction set that runs here, against float64. */
#include "support/support.h"

#include "backend/cpu/kernels.h"
#include "backend/cpu/tiles.h"
#include "base/half.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Unit of rounding of float32. docs/numerics.md derives each bound below. */
#define U 0x1p-24

#define MAX_COLUMNS 130
#define MAX_ROWS 9
#define MAX_TOKENS 9

static const cf_dtype dtypes[] = {CF_DTYPE_F32, CF_DTYPE_F16, CF_DTYPE_BF16};

/* The index-th of a stream of numbers in [-1, 1). */
static float number(uint64_t stream, size_t index)
{
    return (float)(2 * cf_random_uniform(stream, index) - 1);
}

static void store(void *to, cf_dtype dtype, size_t i, float value)
{
    if (dtype == CF_DTYPE_F32)
        memcpy((char *)to + i * sizeof value, &value, sizeof value);
    else
        ((uint16_t *)to)[i] =
            dtype == CF_DTYPE_F16 ? cf_f16_from_float(value) : cf_bf16_from_float(value);
}

static double load(const void *from, cf_dtype dtype, size_t i)
{
    if (dtype == CF_DTYPE_F16)
        return cf_float_from_f16(((const uint16_t *)from)[i]);
    if (dtype == CF_DTYPE_BF16)
        return cf_float_from_bf16(((const uint16_t *)from)[i]);
    float value;
    memcpy(&value, (const char *)from + i * sizeof value, sizeof value);
    return value;
}

/* n random elements; malloc'ed exactly, so that a sanitizer sees an overread. */
static void *random_elements(cf_dtype dtype, size_t n, uint64_t stream)
{
    void *elements = malloc(n * cf_dtype_bytes(dtype) + 1);
    for (size_t i = 0; i < n; i++)
        store(elements, dtype, i, number(stream, i));
    return elements;
}

static float *random_floats(size_t n, uint64_t stream)
{
    return random_elements(CF_DTYPE_F32, n, stream);
}

static void for_each_isa(void (*visit)(const cf_kernels *kernels))
{
    for (int isa = 0; isa < CF_ISA_COUNT; isa++)
        if (cf_kernels_get((cf_isa)isa) != NULL)
            visit(cf_kernels_get((cf_isa)isa));
}

static void assert_near(const cf_kernels *kernels, const char *what, size_t n, double value,
                        double expected, double bound)
{
    if (!(fabs(value - expected) <= bound))
        fail_msg("%s: %s of size %zu is %.9g, expected %.9g within %.2g", kernels->name, what, n,
                 value, expected, bound);
}

/* Any order of n fused or unfused additions: (n + 2) U Σ |w x|, beside what was there before. */
static void check_rows(const cf_kernels *kernels, cf_dtype dtype, size_t n_rows, size_t n_columns,
                       size_t n)
{
    void *weight = random_elements(dtype, n_rows * n_columns, 1);
    float *x = random_floats(n * n_columns, 2), *y = random_floats(n * (n_rows + 1), 3);
    kernels->rows[dtype](y, n_rows + 1, weight, n_rows, n_columns, x, n_columns, n);
    for (size_t t = 0; t < n; t++)
        for (size_t r = 0; r < n_rows; r++) {
            double before = number(3, t * (n_rows + 1) + r), sum = before, size = fabs(before);
            for (size_t k = 0; k < n_columns; k++) {
                double term = load(weight, dtype, r * n_columns + k) * x[t * n_columns + k];
                sum += term;
                size += fabs(term);
            }
            assert_near(kernels, "row product", n_columns, y[t * (n_rows + 1) + r], sum,
                        ((double)n_columns + 2) * U * size);
        }
    for (size_t t = 0; t < n; t++)
        assert_true(y[t * (n_rows + 1) + n_rows] == number(3, t * (n_rows + 1) + n_rows));
    free(weight);
    free(x);
    free(y);
}

static void rows_of(const cf_kernels *kernels)
{
    for (size_t d = 0; d < 3; d++)
        for (size_t n_columns = 0; n_columns <= MAX_COLUMNS; n_columns++)
            for (size_t n_rows = 1; n_rows <= MAX_ROWS; n_rows += 2)
                check_rows(kernels, dtypes[d], n_rows, n_columns, 1 + n_columns % MAX_TOKENS);
}

static void row_products_are_those_of_float64(void **state)
{
    (void)state;
    for_each_isa(rows_of);
}

/* A row's bits depend neither on the rows and tokens beside it nor on where it lies. */
static void lonely_rows_of(const cf_kernels *kernels)
{
    const size_t n_columns = 77, n_rows = 7, n = 7;
    for (size_t d = 0; d < 3; d++) {
        void *weight = random_elements(dtypes[d], n_rows * n_columns, 1);
        float *x = random_floats(n * n_columns, 2), *y = calloc(n * n_rows, sizeof *y);
        kernels->rows[dtypes[d]](y, n_rows, weight, n_rows, n_columns, x, n_columns, n);
        for (size_t t = 0; t < n; t++)
            for (size_t r = 0; r < n_rows; r++) {
                float alone = 0;
                const char *row = (char *)weight + r * n_columns * cf_dtype_bytes(dtypes[d]);
                kernels->rows[dtypes[d]](&alone, 1, row, 1, n_columns, x + t * n_columns, n_columns,
                                         1);
                assert_memory_equal(&alone, &y[t * n_rows + r], sizeof alone);
            }
        free(weight);
        free(x);
        free(y);
    }
}

static void a_row_does_not_notice_its_neighbours(void **state)
{
    (void)state;
    for_each_isa(lonely_rows_of);
}

/* Whether software asks for lines ahead, and in how many streams rows are read, moves no bit. */
static void asking_ahead_gives_the_same_bits(void **state)
{
    (void)state;
    static const cf_isa pairs[][2] = {{CF_ISA_AVX2, CF_ISA_AVX2_AHEAD},
                                      {CF_ISA_AVX512, CF_ISA_AVX512_AHEAD}};
    const size_t n_columns = 333, n_rows = 45;
    for (size_t d = 0; d < 6; d++) {
        const cf_kernels *plain = cf_kernels_get(pairs[d / 3][0]);
        const cf_kernels *ahead = cf_kernels_get(pairs[d / 3][1]);
        if (plain == NULL)
            continue;
        void *weight = random_elements(dtypes[d % 3], n_rows * n_columns, 1);
        float *x = random_floats(n_columns, 2), *y = calloc(2 * n_rows, sizeof *y);
        plain->rows[dtypes[d % 3]](y, n_rows, weight, n_rows, n_columns, x, n_columns, 1);
        ahead->rows[dtypes[d % 3]](y + n_rows, n_rows, weight, n_rows, n_columns, x, n_columns, 1);
        assert_memory_equal(y, y + n_rows, n_rows * sizeof *y);
        free(weight);
        free(x);
        free(y);
    }
}

/*
 * Tiles against float64. Parts have the sign of the whole, so that their products together are no
 * larger than it: at most 5 of them a column, in any order; and 4 U for the one left out.
 */
static void check_tiles(cf_dtype dtype, size_t n_rows, size_t n_columns, size_t n)
{
    size_t stride = (n + 15) / 16 * 16, n_parts = cf_tiles_weight_parts(dtype);
    size_t n_tiles = stride / CF_TILE_ROWS, apart = n_columns * CF_TILE_PARTS * CF_TILE_ROWS;
    void *weight = random_elements(dtype, n_rows * n_columns, 1);
    float *x = random_floats(n_columns * stride, 2), *y = random_floats(n_rows * stride, 3);
    uint16_t *weights = calloc(n_rows * n_columns * n_parts, sizeof *weights);
    uint16_t *inputs = calloc(n_tiles * apart, sizeof *inputs);
    for (size_t r = 0; r < n_rows; r += CF_TILE_ROWS)
        cf_tiles_split_weights(weights + r * n_columns * n_parts,
                               (uint16_t *)weight + r * n_columns, n_columns * sizeof(uint16_t),
                               dtype, n_columns);
    for (size_t c = 0; c < n_columns; c += CF_TILE_COLUMNS)
        cf_tiles_split_input(inputs + c * CF_TILE_PARTS * CF_TILE_ROWS, apart, x + c * stride,
                             stride, n);
    cf_tiles_begin();
    cf_tiles_multiply(&(cf_tiles_product){y, stride, weights, n_rows / CF_TILE_ROWS, n_parts,
                                          inputs, n_tiles, apart, n_columns / CF_TILE_COLUMNS});
    cf_tiles_end();
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < n; t++) {
            double sum = number(3, r * stride + t), size = fabs(sum);
            for (size_t k = 0; k < n_columns; k++) {
                double term = load(weight, dtype, r * n_columns + k) * x[k * stride + t];
                sum += term;
                size += fabs(term);
            }
            assert_near(cf_kernels_best(), "product of tiles", n_columns, y[r * stride + t], sum,
                        (5 * (double)n_columns + 6) * U * size);
        }
    free(weight);
    free(x);
    free(y);
    free(weights);
    free(inputs);
}

static void products_of_tiles_are_those_of_float64(void **state)
{
    (void)state;
    if (!cf_tiles_granted())
        skip();
    for (size_t n = 1; n <= 65; n += 8)
        for (size_t n_rows = 16; n_rows <= 64; n_rows += 16)
            for (size_t n_columns = 32; n_columns <= 96; n_columns += 32) {
                check_tiles(CF_DTYPE_F16, n_rows, n_columns, n);
                check_tiles(CF_DTYPE_BF16, n_rows, n_columns, n);
            }
}

/* One part alone would be off by 2⁻⁸: a sum of one large and one small part keeps every bit. */
static void parts_of_tiles_keep_every_bit(void **state)
{
    (void)state;
    if (!cf_tiles_granted())
        skip();
    _Alignas(64) uint16_t parts[CF_TILE_PARTS * CF_TILE_ELEMENTS];
    float *x = random_floats(CF_TILE_ELEMENTS, 5);
    cf_tiles_split_input(parts, 0, x, CF_TILE_ROWS, CF_TILE_ROWS);
    for (size_t c = 0; c < CF_TILE_COLUMNS; c++)
        for (size_t t = 0; t < CF_TILE_ROWS; t++) {
            double sum = 0;
            for (size_t i = 0; i < CF_TILE_PARTS; i++)
                sum += load(parts, CF_DTYPE_BF16,
                            i * CF_TILE_ELEMENTS + (c / 2 * CF_TILE_ROWS + t) * 2 + c % 2);
            assert_true(sum == x[c * CF_TILE_ROWS + t]);
        }
    free(x);
}

static void mix_of(const cf_kernels *kernels)
{
    for (size_t dtype = 0; dtype < 3; dtype++)
        for (size_t d = 0; d <= MAX_COLUMNS; d++) {
            size_t n = 1 + d % 11;
            void *values = random_elements(dtypes[dtype], n * d, 1);
            float *weights = random_floats(n, 2), *y = random_floats(d, 3);
            kernels->mix[dtypes[dtype]](y, weights, values, n, d);
            for (size_t k = 0; k < d; k++) {
                double sum = number(3, k), size = fabs(sum);
                for (size_t j = 0; j < n; j++) {
                    double term = weights[j] * load(values, dtypes[dtype], j * d + k);
                    sum += term;
                    size += fabs(term);
                }
                assert_near(kernels, "mix", d, y[k], sum, ((double)n + 2) * U * size);
            }
            free(values);
            free(weights);
            free(y);
        }
}

static void mixes_are_those_of_float64(void **state)
{
    (void)state;
    for_each_isa(mix_of);
}

/* Every one of the 65,536 patterns of both 16-bit formats, and every length of a tail. */
static void conversions_of(const cf_kernels *kernels)
{
    static uint16_t halves[65536], back[65536];
    static float wide[65536];
    for (size_t i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    kernels->widen[CF_DTYPE_BF16](wide, halves, 65536);
    for (size_t i = 0; i < 65536; i++)
        assert_true(cf_float_bits(wide[i]) == (uint32_t)i << 16);
    kernels->widen[CF_DTYPE_F16](wide, halves, 65536);
    kernels->narrow[CF_DTYPE_F16](back, wide, 65536);
    for (size_t i = 0; i < 65536; i++) {
        float expected = cf_float_from_f16(halves[i]);
        assert_true(isnan(expected) ? isnan(wide[i]) : wide[i] == expected);
        assert_true(isnan(expected) ? (back[i] & 0x7FFF) > 0x7C00 : back[i] == halves[i]);
    }
    for (size_t n = 0; n <= MAX_COLUMNS; n++) {
        uint16_t *exact = malloc(n * sizeof *exact + 1);
        float *from = random_floats(n, n);
        kernels->narrow[CF_DTYPE_F16](exact, from, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(exact[i], cf_f16_from_float(from[i]));
        free(exact);
        free(from);
    }
}

static void conversions_are_exact(void **state)
{
    (void)state;
    for_each_isa(conversions_of);
}

/*
 * Mean and variance of n values up to 3 in size are off by at most about n U each, relatively; the
 * result, of size √n at most, by that and four roundings.
 */
static void layer_norm_of(const cf_kernels *kernels)
{
    for (size_t n = 1; n <= MAX_COLUMNS; n++) {
        float *x = random_floats(n, 1), *weight = random_floats(n, 2), *bias = random_floats(n, 3);
        float *y = malloc(n * sizeof *y);
        double mean = 0, variance = 0;
        for (size_t i = 0; i < n; i++)
            mean += (x[i] = 3 * x[i] + 2) / (double)n;
        for (size_t i = 0; i < n; i++)
            variance += (x[i] - mean) * (x[i] - mean) / (double)n;
        kernels->layer_norm(y, x, weight, bias, 1e-5f, n);
        double scale = 1 / sqrt(variance + 1e-5);
        for (size_t i = 0; i < n; i++) {
            double bound = U * ((double)n + 4) * (5 * scale + sqrt((double)n) + 1);
            assert_near(kernels, "layer norm", n, y[i], (x[i] - mean) * scale * weight[i] + bias[i],
                        bound);
        }
        free(x);
        free(weight);
        free(bias);
        free(y);
    }
}

static void layer_norms_are_those_of_float64(void **state)
{
    (void)state;
    for_each_isa(layer_norm_of);
}

static double activation_of(double x, cf_activation activation)
{
    switch (activation) {
    case CF_ACTIVATION_GELU_ERF:
        return 0.5 * x * erfc(-x * M_SQRT1_2);
    case CF_ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case CF_ACTIVATION_RELU:
        return fmax(x, 0);
    case CF_ACTIVATION_SILU:
        return x / (1 + exp(-x));
    }
    return x;
}

/*
 * A factor of x between 0 and 1 that is off by at most 3 U (erf: argument, polynomial, sum), or,
 * for the exponential forms, by its exponent's error: the exponent y ≤ 3 |x|³ has 3 U |y| and the
 * factor changes by at most e^-|y| of that, which is below 1.2 U; then two roundings.
 */
static void activations_of(const cf_kernels *kernels)
{
    enum { N = 1 << 21 };
    float *x = malloc(N * sizeof *x);
    for (int activation = 0; activation <= CF_ACTIVATION_SILU; activation++) {
        for (size_t i = 0; i < N; i++)
            x[i] = (float)((double)i / N * 40 - 20);
        kernels->activate(x, (cf_activation)activation, N);
        for (size_t i = 0; i < N; i++) {
            double in = (float)((double)i / N * 40 - 20);
            assert_near(kernels, "activation", (size_t)activation, x[i],
                        activation_of(in, (cf_activation)activation), 6 * U * fabs(in));
        }
    }
    free(x);
}

static void activations_are_those_of_float64(void **state)
{
    (void)state;
    for_each_isa(activations_of);
}

static void activation_edges_of(const cf_kernels *kernels)
{
    for (int activation = 0; activation <= CF_ACTIVATION_SILU; activation++) {
        float x[6] = {0, -0.0f, 1e30f, -1e30f, 1e-40f, -100};
        kernels->activate(x, (cf_activation)activation, 6);
        assert_true(x[0] == 0 && x[1] == 0 && x[2] == 1e30f && x[3] == 0 && fabsf(x[4]) <= 1e-40f);
        assert_true(x[5] <= 0 && x[5] > -1e-30f);
    }
}

static void activations_hold_at_the_ends_of_the_range(void **state)
{
    (void)state;
    for_each_isa(activation_edges_of);
}

/* e^-x for x up to 100: relative error 4 U where the result is not subnormal. */
static void softmax_of(const cf_kernels *kernels)
{
    for (size_t n = 1; n <= MAX_COLUMNS; n++) {
        float *x = random_floats(n, n), *before = malloc(n * sizeof *x);
        double most = -INFINITY, total = 0;
        for (size_t i = 0; i < n; i++) {
            before[i] = x[i] *= 40;
            most = fmax(most, x[i]);
        }
        float shift = kernels->largest(x, n);
        assert_true(shift == (float)most);
        float sum = kernels->exp_sum(x, shift, n);
        for (size_t i = 0; i < n; i++) {
            /* The difference is rounded before the exponential. */
            double expected = exp((double)(float)(before[i] - shift));
            assert_near(kernels, "exp", n, x[i], expected, 4 * U * expected + 0x1p-126);
            total += expected;
        }
        assert_near(kernels, "sum of exp", n, sum, total, ((double)n + 4) * U * total);
        free(x);
        free(before);
    }
}

static void exponentials_are_those_of_float64(void **state)
{
    (void)state;
    for_each_isa(softmax_of);
}

static void transposes_of(const cf_kernels *kernels)
{
    for (size_t rows = 0; rows <= 37; rows += 1 + rows / 8)
        for (size_t columns = 0; columns <= 37; columns++) {
            size_t from_stride = columns + 1, to_stride = rows + 2;
            float *from = random_floats(rows * from_stride, 1);
            float *to = random_floats(columns * to_stride, 2);
            bool add = columns % 2 == 1;
            kernels->transpose(to, to_stride, from, from_stride, rows, columns, add);
            for (size_t c = 0; c < columns; c++)
                for (size_t r = 0; r < to_stride; r++) {
                    float before = number(2, c * to_stride + r), expected = before;
                    if (r < rows)
                        expected = from[r * from_stride + c] + (add ? before : 0);
                    assert_true(to[c * to_stride + r] == expected);
                }
            free(from);
            free(to);
        }
}

static void transposing_moves_each_element_once(void **state)
{
    (void)state;
    for_each_isa(transposes_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_products_are_those_of_float64),
        cmocka_unit_test(a_row_does_not_notice_its_neighbours),
        cmocka_unit_test(asking_ahead_gives_the_same_bits),
        cmocka_unit_test(products_of_tiles_are_those_of_float64),
        cmocka_unit_test(parts_of_tiles_keep_every_bit),
        cmocka_unit_test(mixes_are_those_of_float64),
        cmocka_unit_test(conversions_are_exact),
        cmocka_unit_test(layer_norms_are_those_of_float64),
        cmocka_unit_test(activations_are_those_of_float64),
        cmocka_unit_test(activations_hold_at_the_ends_of_the_range),
        cmocka_unit_test(exponentials_are_those_of_float64),
        cmocka_unit_test(transposing_moves_each_element_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
