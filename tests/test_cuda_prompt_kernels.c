/*
 * Of the kernels that a prompt's tokens go through between matrix products, those that share memory
 * (attention, LayerNorms, rotation), each by itself, against float64. Nothing of a library runs
 * here, so compute-sanitizer's racecheck can follow them (tools/gpu-check). Skipped by name where
 * there is no GPU.
 */
#include "backend/backend.h"
#include "base/half.h"
#include "support/runner.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/cuda.h"
#include "backend/cuda/host/device.h"
#include "backend/cuda/host/prompt.h"
#include "backend/cuda/kernel/prompt.h"

/* Half of the distance between neighbours, by the number's size: what rounding to them loses. */
#define UNIT_F16 0x1p-11
#define UNIT_BF16 0x1p-8

/* What sums of a few hundred products in float32 lose, by the size of what is added, and more. */
#define UNIT_SUM 1e-5

enum { N_CONTEXT = 640, MAX_BUFFERS = 16 };

/* What a test has on the device, to be freed at its end. */
static void *buffers[MAX_BUFFERS];
static int n_buffers;

static void check_cuda(cudaError_t error)
{
    if (error != cudaSuccess)
        fail_msg("%s", cudaGetErrorString(error));
}

static void *upload(const void *data, size_t n_bytes)
{
    void *to;
    assert_true(n_buffers < MAX_BUFFERS);
    check_cuda(cudaMalloc(&to, n_bytes));
    check_cuda(cudaMemcpy(to, data, n_bytes, cudaMemcpyHostToDevice));
    buffers[n_buffers++] = to;
    return to;
}

static void download(void *to, const void *from, size_t n_bytes)
{
    check_cuda(cudaDeviceSynchronize());
    check_cuda(cudaMemcpy(to, from, n_bytes, cudaMemcpyDeviceToHost));
}

static void free_buffers(void)
{
    while (n_buffers > 0)
        check_cuda(cudaFree(buffers[--n_buffers]));
}

/* From -1 to 1, in steps of 1/64 that every format has. */
static float random_value(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((int)(*state >> 33) % 65) / 64 * ((*state >> 60) & 1 ? 1 : -1);
}

static float *random_floats(size_t n, uint64_t seed)
{
    float *values = malloc(sizeof *values * n);
    for (size_t i = 0; i < n; i++)
        values[i] = random_value(&seed);
    return values;
}

static double unit_of(cf_dtype dtype)
{
    return dtype == CF_DTYPE_F16 ? UNIT_F16 : UNIT_BF16;
}

static float from_16(uint16_t bits, cf_dtype dtype)
{
    return dtype == CF_DTYPE_F16 ? cf_float_from_f16(bits) : cf_float_from_bf16(bits);
}

/* n values in 16 bits; `values` have them exactly. */
static uint16_t *to_16(const float *values, size_t n, cf_dtype dtype)
{
    uint16_t *bits = malloc(sizeof *bits * n);
    for (size_t i = 0; i < n; i++) {
        bits[i] =
            dtype == CF_DTYPE_F16 ? cf_f16_from_float(values[i]) : cf_bf16_from_float(values[i]);
        assert_true(from_16(bits[i], dtype) == values[i]);
    }
    return bits;
}

static void *upload_16(const float *values, size_t n, cf_dtype dtype)
{
    uint16_t *bits = to_16(values, n, dtype);
    void *to = upload(bits, sizeof *bits * n);
    free(bits);
    return to;
}

static float *download_16(const void *from, size_t n, cf_dtype dtype)
{
    uint16_t *bits = malloc(sizeof *bits * n);
    float *values = malloc(sizeof *values * n);
    download(bits, from, sizeof *bits * n);
    for (size_t i = 0; i < n; i++)
        values[i] = from_16(bits[i], dtype);
    free(bits);
    return values;
}

static void assert_near(double found, double expected, double tolerance, const char *what, size_t i)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s, %zu: %.9g, expected %.9g within %.3g", what, i, found, expected, tolerance);
}

/* One attention: `n` tokens from `pos` on. The work of a GPU with so many multiprocessors. */
typedef struct attention_case {
    int32_t n, pos, n_multiprocessors;
} attention_case;

typedef struct attention_inputs {
    int32_t d_head, n_heads;
    float *queries;       /* [rows][n_heads][d_head] */
    float *keys, *values; /* [n_heads][N_CONTEXT][d_head] */
} attention_inputs;

/* Attention of one head's query at `pos` to all positions up to it. */
static void attend_exactly(const attention_inputs *in, size_t row, int32_t head, int32_t pos,
                           double *output)
{
    int32_t d = in->d_head;
    const float *query = in->queries + (row * (size_t)in->n_heads + (size_t)head) * (size_t)d;
    double sum = 0;
    memset(output, 0, sizeof *output * (size_t)d);
    for (int32_t p = 0; p <= pos; p++) {
        size_t place = ((size_t)head * N_CONTEXT + (size_t)p) * (size_t)d;
        double score = 0;
        for (int32_t i = 0; i < d; i++)
            score += (double)query[i] * (double)in->keys[place + (size_t)i];
        double weight = exp(score / sqrt(d));
        sum += weight;
        for (int32_t i = 0; i < d; i++)
            output[i] += weight * (double)in->values[place + (size_t)i];
    }
    for (int32_t i = 0; i < d; i++)
        output[i] /= sum;
}

static cudaError_t launch_attention(const cf_prompt_attention *args, int32_t d_head,
                                    const cf_gpu_limits *limits)
{
    return d_head == 32    ? cf_prompt_attend_32(args, limits, NULL)
           : d_head == 64  ? cf_prompt_attend_64(args, limits, NULL)
           : d_head == 80  ? cf_prompt_attend_80(args, limits, NULL)
           : d_head == 96  ? cf_prompt_attend_96(args, limits, NULL)
           : d_head == 128 ? cf_prompt_attend_128(args, limits, NULL)
                           : cf_prompt_attend_256(args, limits, NULL);
}

/*
 * Weights of at most 1 are rounded to float16 before they meet values of at most 1, and so is, to
 * the format of the model's weights, what comes out.
 */
static void check_attention(const attention_inputs *in, const attention_case *it, cf_dtype dtype,
                            int32_t shared_bytes)
{
    size_t d = (size_t)in->d_head, width = (size_t)in->n_heads * d;
    size_t n_rows = cf_prompt_rows((size_t)it->n), n_cache = width * N_CONTEXT;
    cf_prompt_span span = {it->n, it->pos};
    cf_gpu_limits limits = {it->n_multiprocessors, shared_bytes, 0};
    cf_prompt_attention args = {.mixed = upload_16(in->queries, n_rows * width, CF_DTYPE_F16),
                                .keys = upload_16(in->keys, n_cache, CF_DTYPE_F16),
                                .values = upload_16(in->values, n_cache, CF_DTYPE_F16),
                                .span = upload(&span, sizeof span),
                                .n_rows = (int32_t)n_rows,
                                .n_heads = in->n_heads,
                                .n_context = N_CONTEXT,
                                .weights = dtype};
    double tolerance = UNIT_F16 + unit_of(dtype) + UNIT_SUM, expected[256];
    check_cuda(launch_attention(&args, in->d_head, &limits));
    float *found = download_16(args.mixed, (size_t)it->n * width, dtype);
    for (size_t row = 0; row < (size_t)it->n; row++)
        for (int32_t h = 0; h < in->n_heads; h++) {
            attend_exactly(in, row, h, it->pos + (int32_t)row, expected);
            for (size_t i = 0; i < d; i++)
                assert_near((double)found[row * width + (size_t)h * d + i], expected[i], tolerance,
                            "attention", row);
        }
    free(found);
    free_buffers();
}

/* Few tokens and many, from the beginning and later; blocks of few queries and of many. */
static void check_head_width(int32_t d_head)
{
    static const attention_case cases[] = {
        {1, 0, 132}, {77, 130, 132}, {150, 0, 132}, {150, 411, 1}, {300, 0, 1}, {300, 339, 132},
    };
    size_t n_cache = 2 * (size_t)d_head * N_CONTEXT;
    attention_inputs in = {d_head, 2, random_floats(n_cache, 1), random_floats(n_cache, 2),
                           random_floats(n_cache, 3)};
    cf_cuda_device device;
    cf_error error;
    assert_ok(cf_cuda_device_open(0, &device, &error), error);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&in, &cases[i], i % 2 == 0 ? CF_DTYPE_F16 : CF_DTYPE_BF16,
                        device.limits.shared_bytes);
    free(in.queries), free(in.keys), free(in.values);
}

static void attention_of_narrow_heads_is_exact(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    check_head_width(32);
    check_head_width(64);
}

static void attention_of_wider_heads_is_exact(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    check_head_width(80);
    check_head_width(96);
    check_head_width(128);
}

static void attention_of_the_widest_heads_is_exact(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    check_head_width(256);
}

/* What LayerNorm makes of row x of n: (x - mean) / deviation. */
static void normalise_exactly(const double *x, int32_t n, double eps, double *y)
{
    double mean = 0, square = 0;
    for (int32_t i = 0; i < n; i++)
        mean += x[i] / n;
    for (int32_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / n;
    for (int32_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) / sqrt(square + eps);
}

typedef struct norm_inputs {
    int32_t d;
    float *x, *added;       /* [N_NORM_ROWS][d] */
    float *biases;          /* [d] */
    float *scales, *shifts; /* [2][d] */
} norm_inputs;

enum { N_NORM_ROWS = 5 };

/* A row of both LayerNorms; all that is added up is in 64ths, so float32 has it exactly. */
static void check_norm_row(const norm_inputs *in, const float *settled, float *const *found,
                           double unit)
{
    double sum[CF_SCHEDULE_MAX_D_MODEL], y[CF_SCHEDULE_MAX_D_MODEL];
    for (int32_t i = 0; i < in->d; i++) {
        sum[i] = (double)in->x[i] + (double)in->added[i] + (double)in->biases[i];
        assert_near((double)settled[i], sum[i], 0, "what is normalised", (size_t)i);
    }
    normalise_exactly(sum, in->d, 1e-5, y);
    for (int k = 0; k < 2; k++)
        for (int32_t i = 0; i < in->d; i++) {
            int32_t place = k * in->d + i;
            double expected = y[i] * (double)in->scales[place] + (double)in->shifts[place];
            assert_near((double)found[k][i], expected, unit * fabs(expected) + UNIT_SUM,
                        "LayerNorm", (size_t)i);
        }
}

/* Two LayerNorms of rows to which something is still to be added. */
static void check_norms(int32_t d, cf_dtype dtype)
{
    size_t n = (size_t)d * N_NORM_ROWS, row_bytes = sizeof(float) * (size_t)d;
    norm_inputs in = {d,
                      random_floats(n, 1),
                      random_floats(n, 2),
                      random_floats(n, 3),
                      random_floats(2 * (size_t)d, 4),
                      random_floats(2 * (size_t)d, 5)};
    float *settled = calloc(n, sizeof *settled), *found[2];
    cf_prompt_norm args = {.residual = upload(in.x, row_bytes * N_NORM_ROWS),
                           .added = upload(in.added, row_bytes * N_NORM_ROWS),
                           .biases = upload(in.biases, row_bytes),
                           .settled = upload(settled, row_bytes * N_NORM_ROWS),
                           .n = N_NORM_ROWS,
                           .d_model = d,
                           .eps = 1e-5f};
    for (int k = 0; k < 2; k++)
        args.outputs[k] = (cf_prompt_norm_output){
            upload_16(in.scales + k * d, (size_t)d, CF_DTYPE_F16),
            upload(in.shifts + k * d, row_bytes), upload_16(in.x, n, dtype)};
    check_cuda(cf_prompt_normalise(&args, dtype, NULL));
    download(settled, args.settled, row_bytes * N_NORM_ROWS);
    for (int k = 0; k < 2; k++)
        found[k] = download_16(args.outputs[k].to, n, dtype);
    for (int32_t first = 0; first < d * N_NORM_ROWS; first += d) {
        norm_inputs row = in;
        row.x += first;
        row.added += first;
        check_norm_row(&row, settled + first, (float *[]){found[0] + first, found[1] + first},
                       unit_of(dtype));
    }
    free(in.x), free(in.added), free(in.biases), free(in.scales), free(in.shifts);
    free(settled), free(found[0]), free(found[1]);
    free_buffers();
}

static void layer_norms_are_exact(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    check_norms(128, CF_DTYPE_F16);
    check_norms(776, CF_DTYPE_BF16);
    check_norms(6144, CF_DTYPE_F16);
}

/* The new tokens, and where they begin in the cache. */
enum { N_NEW = 37, NEW_POS = 101 };

typedef struct split_inputs {
    int32_t d_head, n_heads, d_rotary;
    float *qkv;    /* [rows][n_heads][q, k, v][d_head] */
    float *biases; /* [n_heads][q, k, v][d_head] */
} split_inputs;

/* An element of a token's q, k or v, by the number of its head's part among all. */
static double split_element(const split_inputs *in, int32_t row, int32_t part, int32_t i)
{
    int32_t place = part * in->d_head + i, width = 3 * in->n_heads * in->d_head;
    return (double)in->qkv[row * width + place] + (double)in->biases[place];
}

/* The same of q or k, rotated by angles pos / 100^(2 i / d_rotary). */
static double rotated_element(const split_inputs *in, int32_t row, int32_t part, int32_t i)
{
    int32_t half = in->d_rotary / 2;
    double x = split_element(in, row, part, i);
    double angle = (NEW_POS + row) * pow(100, -2.0 * (i % half) / in->d_rotary);
    if (i >= in->d_rotary)
        return x;
    return i < half ? x * cos(angle) - split_element(in, row, part, i + half) * sin(angle)
                    : x * cos(angle) + split_element(in, row, part, i - half) * sin(angle);
}

static float *rotations_of(int32_t d_rotary)
{
    int32_t half = d_rotary / 2;
    float *rotations = malloc(sizeof *rotations * (size_t)(2 * half * N_CONTEXT));
    for (int32_t pos = 0; pos < N_CONTEXT; pos++)
        for (int32_t i = 0; i < half; i++) {
            double angle = pos * pow(100, -2.0 * i / d_rotary);
            rotations[2 * (pos * half + i)] = (float)cos(angle);
            rotations[2 * (pos * half + i) + 1] = (float)sin(angle);
        }
    return rotations;
}

/* A row of what was found: q, k or v (kind 0, 1, 2) of a head's new token, or an empty place. */
static void check_split_row(const split_inputs *in, const float *found, int32_t row, int32_t head,
                            int32_t kind)
{
    int32_t part = 3 * head + kind;
    for (int32_t i = 0; i < in->d_head; i++) {
        double expected = row < 0 || row >= N_NEW ? 0
                          : kind == 2             ? split_element(in, row, part, i)
                                                  : rotated_element(in, row, part, i);
        assert_near((double)found[i], expected, UNIT_F16 * fabs(expected) + UNIT_SUM,
                    kind == 0   ? "q"
                    : kind == 1 ? "k"
                                : "v",
                    (size_t)i);
    }
}

/* q of the new tokens, k and v of all that the cache has room for. */
static void check_split_rows(const split_inputs *in, float *const *found)
{
    int32_t d = in->d_head;
    for (int32_t head = 0; head < in->n_heads; head++) {
        for (int32_t row = 0; row < N_NEW; row++)
            check_split_row(in, found[0] + (row * in->n_heads + head) * d, row, head, 0);
        for (int32_t pos = 0; pos < N_CONTEXT; pos++)
            for (int32_t kind = 1; kind < 3; kind++)
                check_split_row(in, found[kind] + (head * N_CONTEXT + pos) * d, pos - NEW_POS, head,
                                kind);
    }
}

/* q, k and v with their biases, q and k rotated: where they belong, and nowhere else. */
static void check_split(int32_t d_head, int32_t n_heads, int32_t d_rotary, cf_dtype dtype)
{
    size_t width = (size_t)d_head * (size_t)n_heads, n_rows = cf_prompt_rows(N_NEW);
    split_inputs in = {d_head, n_heads, d_rotary, random_floats(3 * width * n_rows, 1),
                       random_floats(3 * width, 2)};
    float *rotations = rotations_of(d_rotary), *empty = calloc(width * N_CONTEXT, sizeof *empty);
    size_t rotation_bytes = sizeof *rotations * (size_t)d_rotary * N_CONTEXT;
    cf_prompt_span span = {N_NEW, NEW_POS};
    cf_prompt_split args = {.qkv = upload_16(in.qkv, 3 * width * n_rows, dtype),
                            .biases = upload(in.biases, sizeof *in.biases * 3 * width),
                            .rotation = upload(rotations, rotation_bytes),
                            .queries = upload_16(empty, width * n_rows, CF_DTYPE_F16),
                            .keys = upload_16(empty, width * N_CONTEXT, CF_DTYPE_F16),
                            .values = upload_16(empty, width * N_CONTEXT, CF_DTYPE_F16),
                            .span = upload(&span, sizeof span),
                            .n_rows = (int32_t)n_rows,
                            .n_heads = n_heads,
                            .d_head = d_head,
                            .d_rotary = d_rotary,
                            .n_context = N_CONTEXT};
    check_cuda(cf_prompt_append(&args, dtype, NULL));
    float *found[] = {download_16(args.queries, width * N_NEW, CF_DTYPE_F16),
                      download_16(args.keys, width * N_CONTEXT, CF_DTYPE_F16),
                      download_16(args.values, width * N_CONTEXT, CF_DTYPE_F16)};
    check_split_rows(&in, found);
    free(in.qkv), free(in.biases), free(rotations), free(empty);
    free(found[0]), free(found[1]), free(found[2]);
    free_buffers();
}

static void queries_keys_and_values_are_exact_and_in_their_place(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    check_split(32, 4, 8, CF_DTYPE_F16);
    check_split(64, 3, 16, CF_DTYPE_BF16);
    check_split(80, 5, 20, CF_DTYPE_F16);
    check_split(96, 2, 24, CF_DTYPE_F16);
    check_split(128, 2, 32, CF_DTYPE_BF16);
    check_split(256, 2, 64, CF_DTYPE_F16);
    check_split(64, 2, 64, CF_DTYPE_F16); /* all of a head */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_of_narrow_heads_is_exact),
        cmocka_unit_test(attention_of_wider_heads_is_exact),
        cmocka_unit_test(attention_of_the_widest_heads_is_exact),
        cmocka_unit_test(layer_norms_are_exact),
        cmocka_unit_test(queries_keys_and_values_are_exact_and_in_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
