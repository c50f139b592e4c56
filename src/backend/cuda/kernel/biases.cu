/* Biases in the order of the tiles, with the LayerNorms' biases folded in. Runs once a model. */
#include "backend/cuda/device/format.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/kernel/kernels.h"

enum { N_WARPS = 8 };

template <class format>
static __device__ float product(const uint16_t *row, const float *shift, int32_t n, int lane)
{
    float sum = 0;
    for (int32_t c = lane; c < n; c += 32)
        sum = fmaf(format::unpack(row[c]).x, shift[c], sum);
    return warp_sum(sum);
}

template <class format>
static __device__ void fold_tile(const cf_token_model &model, const cf_tile &tile, int32_t layer,
                                 const cf_bias_vectors &vectors, float *biases, int lane)
{
    const cf_phase &phase = model.schedule.phases[tile.phase];
    const void *matrix =
        phase.matrix == CF_MATRIX_HEAD ? model.head : model.layers[layer].matrices[phase.matrix];
    const float *bias = vectors.biases[phase.matrix], *shift = vectors.shifts[phase.matrix];
    for (int32_t r = 0; r < tile.n_rows; r++) {
        int32_t row = tile.row + r;
        const char *weights = static_cast<const char *>(matrix) + (int64_t)row * phase.row_bytes;
        /* Of the phases that share a row, the one of the first columns brings its bias. */
        float sum = bias != NULL && phase.column == 0 ? bias[row] : 0;
        if (shift != NULL)
            sum += product<format>(reinterpret_cast<const uint16_t *>(weights), shift,
                                   phase.n_columns, lane);
        if (lane == 0)
            biases[r] = sum;
    }
}

template <class format>
static __global__ void fold_biases(const __grid_constant__ cf_token_model model, int32_t layer,
                                   const __grid_constant__ cf_bias_vectors vectors, float *biases)
{
    const cf_schedule &schedule = model.schedule;
    const cf_share &share = model.shares[blockIdx.x];
    bool is_head = layer == schedule.shape.n_layers;
    int32_t first = is_head ? share.n_layer_tiles : 0;
    int32_t last = first + (is_head ? share.n_head_tiles : share.n_layer_tiles);
    int64_t place =
        ((int64_t)(is_head ? 0 : layer) * schedule.n_blocks + blockIdx.x) * schedule.max_tiles;
    for (int32_t t = first + threadIdx.x / 32; t < last; t += N_WARPS)
        fold_tile<format>(model, model.tiles[(int64_t)blockIdx.x * schedule.max_tiles + t], layer,
                          vectors, biases + (place + t) * schedule.bias_rows, threadIdx.x % 32);
}

cudaError_t cf_fold_biases(const cf_token_model *model, int32_t layer,
                           const cf_bias_vectors *vectors, cf_dtype weights, float *biases,
                           cudaStream_t stream)
{
    dim3 grid(model->schedule.n_blocks), threads(32 * N_WARPS);
    if (weights == CF_DTYPE_BF16)
        fold_biases<format_bf16><<<grid, threads, 0, stream>>>(*model, layer, *vectors, biases);
    else
        fold_biases<format_f16><<<grid, threads, 0, stream>>>(*model, layer, *vectors, biases);
    return cudaGetLastError();
}
