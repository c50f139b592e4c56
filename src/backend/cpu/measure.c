/*
 * The speeds that bound this backend on this machine: reading memory once, and the BLAS alone on
 * the model's matrix shapes. Both are the best of several tries: other work on the machine can only
 * make them look too low.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <omp.h>
#include <sys/mman.h>

/* Far more than any cache holds. */
#define READ_BYTES ((size_t)1 << 30)
#define READ_TRIES 8
#define MULTIPLY_TRIES 5

/* Seconds to read [0, n_bytes) once, each worker its own contiguous share. */
static double read_once(const cf_kernels *kernels, const char *data, size_t n_bytes,
                        int32_t n_threads)
{
    uint64_t start = cf_clock_ns(), total = 0;
#pragma omp parallel num_threads(n_threads)
    {
        size_t index = (size_t)omp_get_thread_num(), count = (size_t)omp_get_num_threads();
        size_t share = n_bytes / count / 4096 * 4096;
        uint64_t sum = kernels->read(data + index * share, share);
#pragma omp atomic
        total += sum;
    }
    double seconds = (double)(cf_clock_ns() - start) * 1e-9;
    /* The sum of nothing but zeros: a use that no compiler can leave out. */
    return total == 0 ? seconds : INFINITY;
}

static cf_status measure_reading(const cf_kernels *kernels, int32_t n_threads,
                                 double *bytes_per_second, cf_error *error)
{
    void *data = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "measuring reads: %zu bytes", READ_BYTES);
    madvise(data, READ_BYTES, MADV_HUGEPAGE);
    for (size_t i = 0; i < READ_BYTES; i += 4096)
        ((volatile char *)data)[i] = 0;
    double best = INFINITY;
    for (int try = 0; try < READ_TRIES; try++)
        best = fmin(best, read_once(kernels, data, READ_BYTES, n_threads));
    munmap(data, READ_BYTES);
    *bytes_per_second = (double)READ_BYTES / best;
    return CF_STATUS_OK;
}

/* The products of one layer. */
#define N_PRODUCTS 4

typedef struct product {
    size_t rows, columns;
} product;

static void layer_products(const cf_shape *shape, product products[N_PRODUCTS])
{
    size_t d_model = (size_t)shape->d_model, d_ffn = (size_t)shape->d_ffn;
    products[0] = (product){3 * d_model, d_model};
    products[1] = (product){d_ffn, d_model};
    products[2] = (product){d_model, d_model};
    products[3] = (product){d_model, d_ffn};
}

/*
 * Seconds of one product of plain float32 matrices, its rows in equal shares for the workers; rows
 * of n values are `stride` apart.
 */
static double multiply_once(product size, size_t n, size_t stride, const float *weights,
                            const float *input, float *output, int32_t n_threads)
{
    uint64_t start = cf_clock_ns();
    bool done = true;
#pragma omp parallel num_threads(n_threads)
    {
        size_t index = (size_t)omp_get_thread_num(), count = (size_t)omp_get_num_threads();
        size_t first = size.rows * index / count, end = size.rows * (index + 1) / count;
        omp_set_num_threads(1);
        if (first < end &&
            !cf_blas_multiply(end - first, n, size.columns,
                              (cf_matrix){weights + first * size.columns, size.columns},
                              (cf_matrix){input, stride}, false, false, output + first * stride,
                              stride)) {
#pragma omp atomic write
            done = false;
        }
    }
    return done ? (double)(cf_clock_ns() - start) * 1e-9 : INFINITY;
}

static cf_status measure_products(const cf_shape *shape, int32_t n_threads, size_t n,
                                  cf_ceilings *ceilings, cf_error *error)
{
    product products[N_PRODUCTS];
    layer_products(shape, products);
    size_t weights = 0, inputs = 0, outputs = 0, strides[] = {n, cf_cpu_stride(n)};
    double flop = 0, seconds = 0;
    for (size_t i = 0; i < N_PRODUCTS; i++) {
        size_t count = products[i].rows * products[i].columns;
        weights = count > weights ? count : weights;
        inputs =
            products[i].columns * strides[1] > inputs ? products[i].columns * strides[1] : inputs;
        outputs = products[i].rows * strides[1] > outputs ? products[i].rows * strides[1] : outputs;
        flop += 2.0 * (double)count * (double)n;
    }
    float *space;
    CF_TRY(CF_ALLOC(&space, weights + inputs + outputs, "measuring matrix products", error));
    for (size_t i = 0; i < N_PRODUCTS; i++) {
        double best = INFINITY;
        for (int try = 0; try < 2 * MULTIPLY_TRIES; try++) /* whichever suits the BLAS */
            best = fmin(best, multiply_once(products[i], n, strides[try % 2], space,
                                            space + weights, space + weights + inputs, n_threads));
        seconds += best;
    }
    cf_dealloc(space);
    if (!isfinite(seconds))
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "matrix products of %zu tokens", n);
    ceilings->matmul_flop_per_s = flop / seconds;
    ceilings->matmul_s = seconds * shape->n_layers;
    return CF_STATUS_OK;
}

cf_status cf_cpu_measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                         cf_ceilings *ceilings, cf_error *error)
{
    *ceilings = (cf_ceilings){0};
    if (n_threads == 0)
        n_threads = cf_cpu_count();
    CF_TRY(measure_reading(model->kernels, n_threads, &ceilings->read_bytes_per_s, error));
    if (n_tokens == 0)
        return CF_STATUS_OK;
    return measure_products(&model->neox->shape, n_threads, n_tokens, ceilings, error);
}
