/* The one function of the BLAS that prompts need. */
#ifndef CF_BACKEND_CPU_BLAS_H
#define CF_BACKEND_CPU_BLAS_H

#include <stdbool.h>
#include <stddef.h>

/* A row-major matrix of float32, rows `stride` apart. */
typedef struct cf_matrix {
    const float *data;
    size_t stride;
} cf_matrix;

/*
 * c [m][n] = a [m][k] × b [k][n] (bᵀ of [n][k] if `transposed`), plus c if `add`. By the calling
 * thread alone when that is a worker of a step. False if the library could not (out of memory).
 */
bool cf_blas_multiply(size_t m, size_t n, size_t k, cf_matrix a, cf_matrix b, bool transposed,
                      bool add, float *c, size_t c_stride);

#endif
