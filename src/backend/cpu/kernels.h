/*
 * The arithmetic that the forward pass is made of: one table an instruction set, the same functions
 * in each. Everything is float32; weights and the KV cache are widened as they are read.
 *
 * The order in which a function adds depends on its sizes alone, never on who calls it or with
 * which other rows: that is why the number of threads does not change a bit of the result.
 */
#ifndef CF_BACKEND_CPU_KERNELS_H
#define CF_BACKEND_CPU_KERNELS_H

#include "clusterfusion.h"

/* Rows of weights that rows() works on together: workers get multiples of it. */
#define CF_KERNEL_ROWS 8

/* Indexed by cf_dtype; the entry of CF_DTYPE_DEFAULT is NULL. */
#define CF_KERNEL_DTYPES 4

/*
 * y[t][r] += Σ_k weight[r][k] x[t][k] for n_rows rows and n ≤ CF_KERNEL_TOKENS tokens. Rows of x
 * and y are x_stride and y_stride floats apart.
 */
typedef void cf_rows_fn(float *y, size_t y_stride, const void *weight, size_t n_rows,
                        size_t n_columns, const float *x, size_t x_stride, size_t n);

/* to[i] = (float)from[i] */
typedef void cf_widen_fn(float *to, const void *from, size_t n);

/* to[i] = from[i] rounded to nearest even */
typedef void cf_narrow_fn(void *to, const float *from, size_t n);

/* y[k] += Σ_j weights[j] values[j][k] for n values of d elements */
typedef void cf_mix_fn(float *y, const float *weights, const void *values, size_t n, size_t d);

typedef struct cf_kernels {
    const char *name;
    bool may_use_tiles; /* of backend/cpu/tiles.h, where the process has them */
    cf_rows_fn *rows[CF_KERNEL_DTYPES];
    cf_widen_fn *widen[CF_KERNEL_DTYPES];
    cf_narrow_fn *narrow[CF_KERNEL_DTYPES];
    cf_mix_fn *mix[CF_KERNEL_DTYPES];

    /* Reads n_bytes, a multiple of 4,096, as fast as it can; returns some sum of them. */
    uint64_t (*read)(const void *data, size_t n_bytes);
    /* to[c][r] = from[r][c], plus to[c][r] if `add`; rows of each are strides apart. */
    void (*transpose)(float *to, size_t to_stride, const float *from, size_t from_stride,
                      size_t n_rows, size_t n_columns, bool add);
    /* y = (x - mean) / sqrt(variance + eps) × weight + bias, mean and variance over n, two passes
     */
    void (*layer_norm)(float *y, const float *x, const float *weight, const float *bias, float eps,
                       size_t n);
    /* x[i] = activation(x[i]) */
    void (*activate)(float *x, cf_activation activation, size_t n);
    /* The largest of n ≥ 1 values. */
    float (*largest)(const float *x, size_t n);
    /* x[i] = exp(x[i] - shift); returns their sum. */
    float (*exp_sum)(float *x, float shift, size_t n);
} cf_kernels;

/* Which table, slowest first. _AHEAD: the same bits, with software asking for weights ahead. */
typedef enum cf_isa {
    CF_ISA_GENERIC = 0,
    CF_ISA_AVX2 = 1,
    CF_ISA_AVX2_AHEAD = 2,
    CF_ISA_AVX512 = 3,
    CF_ISA_AVX512_AHEAD = 4,
    CF_ISA_COUNT = 5,
} cf_isa;

/* The table of `isa`; NULL where it was not built or the processor lacks it. */
const cf_kernels *cf_kernels_get(cf_isa isa);

/* The fastest table that runs here. */
cf_isa cf_isa_best(void);
const cf_kernels *cf_kernels_best(void);

extern const cf_kernels cf_kernels_generic;
#ifdef __x86_64__
extern const cf_kernels cf_kernels_avx2, cf_kernels_avx2_ahead;
extern const cf_kernels cf_kernels_avx512, cf_kernels_avx512_ahead;
#endif

#endif
