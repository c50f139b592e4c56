/*
 * Matrix products by cuBLASLt, which is looked for when a model is opened: nothing is linked, so
 * the same program starts where it is not installed.
 */
#ifndef CF_CUDA_HOST_BLASLT_H
#define CF_CUDA_HOST_BLASLT_H

#include "backend/cuda/host/device.h"

enum { CF_PRODUCT_N_PLANS = 64 };

/* Opaque to all but blaslt.c. */
typedef struct cf_blaslt cf_blaslt;

/*
 * Opens the library and a handle of it, which threads may share. NO_DEVICE names the reason when it
 * is not there or too old; `*library` is then NULL.
 */
cf_status cf_blaslt_open(cf_blaslt **library, cf_error *error);
void cf_blaslt_close(cf_blaslt *library);

/* As 10000 major + 100 minor + patch. */
size_t cf_blaslt_version(const cf_blaslt *library);

/* output = input weightsᵀ (+ output); sums in float32. */
typedef struct cf_product {
    const void *weights; /* [n_out][n_in] 16-bit */
    const void *input;   /* [n][n_in] 16-bit */
    void *output;        /* [n][n_out] 16-bit, or float32 if `wide` */
    int32_t n, n_out, n_in;
    bool wide, accumulate;
} cf_product;

/* How products of one shape are computed: asked once, then kept. */
typedef struct cf_product_plan {
    cf_product shape; /* of its addresses, the alignment of the weights matters */
    void *description, *weights, *input, *output;
    uint64_t algorithm[8];
} cf_product_plan;

/* A session's plans; the oldest makes room. Zeroed at first; one thread at a time. */
typedef struct cf_product_plans {
    const cf_blaslt *library;
    cf_dtype format; /* of what is 16-bit: F16 or BF16 */
    int32_t n_used, next;
    cf_product_plan plans[CF_PRODUCT_N_PLANS];
} cf_product_plans;

void cf_product_plans_free(cf_product_plans *plans);

typedef struct cf_workspace {
    void *memory;
    size_t n_bytes;
} cf_workspace;

/* Puts a product into the stream. Products that run side by side need a work space each. */
cf_status cf_product_launch(cf_product_plans *plans, const cf_product *product,
                            cf_workspace workspace, cudaStream_t stream, cf_error *error);

#endif
