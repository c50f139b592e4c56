/* The kernels as the host calls them. Launches are asynchronous; errors are the runtime's. */
#ifndef CF_CUDA_KERNEL_KERNELS_H
#define CF_CUDA_KERNEL_KERNELS_H

#include "backend/cuda/stage/token.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The token kernel of a head width, for weights in F16 or BF16; an address for cudaLaunch…(). */
const void *cf_token_kernel_32(cf_dtype weights);
const void *cf_token_kernel_64(cf_dtype weights);
const void *cf_token_kernel_80(cf_dtype weights);
const void *cf_token_kernel_96(cf_dtype weights);
const void *cf_token_kernel_128(cf_dtype weights);
const void *cf_token_kernel_256(cf_dtype weights);

/* The vectors of a layer that go into its tiles' biases, on the device, in float32. */
typedef struct cf_bias_vectors {
    const float *biases[CF_MATRIX_HEAD + 1]; /* by matrix: [its rows] */
    const float *shifts[CF_MATRIX_HEAD + 1]; /* by matrix: [d_model], or NULL: none is folded in */
} cf_bias_vectors;

/*
 * Fills in the biases of a layer's tiles, or with `layer` n_layers of the LM head's: each row's own
 * and its product with the bias of the LayerNorm that it reads.
 */
cudaError_t cf_fold_biases(const cf_token_model *model, int32_t layer,
                           const cf_bias_vectors *vectors, cf_dtype weights, float *biases,
                           cudaStream_t stream);

/* Reads `n_bytes` (a multiple of 1 MiB) once, as fast as blocks can; writes nothing. */
cudaError_t cf_read_memory(const void *memory, size_t n_bytes, int32_t n_blocks,
                           cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
