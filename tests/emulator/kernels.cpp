/* The small kernels, which are no part of what the emulator tests, as plain loops. */
#include "backend/cuda/kernel/kernels.h"

#include "base/half.h"

static float weight_of(const void *matrix, int64_t index, cf_dtype dtype)
{
    uint16_t bits = static_cast<const uint16_t *>(matrix)[index];
    return dtype == CF_DTYPE_BF16 ? cf_float_from_bf16(bits) : cf_float_from_f16(bits);
}

static float bias_of(const cf_token_model *model, const cf_phase *phase, int32_t layer, int32_t row,
                     const cf_bias_vectors *vectors, cf_dtype weights)
{
    const float *bias = vectors->biases[phase->matrix], *shift = vectors->shifts[phase->matrix];
    const void *matrix = phase->matrix == CF_MATRIX_HEAD
                             ? model->head
                             : model->layers[layer].matrices[phase->matrix];
    float sum = bias != NULL && phase->column == 0 ? bias[row] : 0;
    for (int32_t c = 0; shift != NULL && c < phase->n_columns; c++)
        sum += weight_of(matrix, (int64_t)row * (phase->row_bytes / 2) + c, weights) * shift[c];
    return sum;
}

cudaError_t cf_fold_biases(const cf_token_model *model, int32_t layer,
                           const cf_bias_vectors *vectors, cf_dtype weights, float *biases,
                           cudaStream_t)
{
    const cf_schedule *schedule = &model->schedule;
    bool is_head = layer == schedule->shape.n_layers;
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        const cf_share *share = &model->shares[b];
        int32_t first = is_head ? share->n_layer_tiles : 0;
        int32_t last = first + (is_head ? share->n_head_tiles : share->n_layer_tiles);
        int64_t place =
            ((int64_t)(is_head ? 0 : layer) * schedule->n_blocks + b) * schedule->max_tiles;
        for (int32_t t = first; t < last; t++) {
            const cf_tile *tile = &model->tiles[(int64_t)b * schedule->max_tiles + t];
            for (int32_t r = 0; r < tile->n_rows; r++)
                biases[(place + t) * schedule->bias_rows + r] =
                    bias_of(model, &schedule->phases[tile->phase], layer, tile->row + r, vectors,
                            weights);
        }
    }
    return cudaSuccess;
}

/* Nobody asks an emulated GPU for its speed. */
cudaError_t cf_read_memory(const void *, size_t, int32_t, cudaStream_t)
{
    return cudaSuccess;
}
