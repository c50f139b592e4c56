/* A tile times a vector, by one warp: 16 bytes a lane, two or four rows at a time, sums in float32.
 */
#ifndef CF_CUDA_STAGE_PRODUCT_CUH
#define CF_CUDA_STAGE_PRODUCT_CUH

#include "backend/cuda/device/format.cuh"
#include "backend/cuda/device/warp.cuh"

#define LANE_ELEMENTS 8
#define PIECE_ELEMENTS (32 * LANE_ELEMENTS)

/* Adds eight products to two sums, which are independent so that they overlap. */
template <class format>
static __device__ __forceinline__ void add_products(float2 &sum, const uint4 &weights,
                                                    const float2 (&x)[4])
{
    const uint32_t pairs[4] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 w = format::unpack(pairs[i]);
        sum.x = fmaf(w.x, x[i].x, sum.x);
        sum.y = fmaf(w.y, x[i].y, sum.y);
    }
}

static __device__ __forceinline__ void load_elements(float2 (&x)[4], const char *vector)
{
    uint4 packed = *reinterpret_cast<const uint4 *>(vector);
    x[0] = format_f16::unpack(packed.x);
    x[1] = format_f16::unpack(packed.y);
    x[2] = format_f16::unpack(packed.z);
    x[3] = format_f16::unpack(packed.w);
}

/* Adds up the columns from `c` on, `n_pieces` of 256 that are under way together. */
template <class format, int rows, int n_pieces>
static __device__ __forceinline__ void add_columns(float2 (&partial)[rows], const char *weights,
                                                   const char *vector, int32_t n_columns, int32_t c)
{
#pragma unroll
    for (int i = 0; i < n_pieces; i++, c += PIECE_ELEMENTS) {
        float2 x[4];
        load_elements(x, vector + 2 * c);
#pragma unroll
        for (int r = 0; r < rows; r++) {
            const char *row = weights + 2 * (r * n_columns + c);
            add_products<format>(partial[r], *reinterpret_cast<const uint4 *>(row), x);
        }
    }
}

/* Sums of `rows` rows that lie one after the other in `weights`; the same in every lane. */
template <class format, int rows>
static __device__ __forceinline__ void row_products(float (&sums)[rows], const char *weights,
                                                    const char *vector, int32_t n_columns, int lane)
{
    float2 partial[rows] = {};
    int32_t c = lane * LANE_ELEMENTS;
    /* No remainder, in which every load would be waited for, in the shapes there are. */
    if (rows > 2) { /* as many loads under way */
#pragma unroll 1
        for (; c + PIECE_ELEMENTS < n_columns; c += 2 * PIECE_ELEMENTS)
            add_columns<format, rows, 2>(partial, weights, vector, n_columns, c);
        if (c < n_columns)
            add_columns<format, rows, 1>(partial, weights, vector, n_columns, c);
    } else if (n_columns % (5 * PIECE_ELEMENTS) == 0) {
#pragma unroll 1
        for (; c < n_columns; c += 5 * PIECE_ELEMENTS)
            add_columns<format, rows, 5>(partial, weights, vector, n_columns, c);
    } else if (n_columns % (4 * PIECE_ELEMENTS) == 0) {
#pragma unroll 1
        for (; c < n_columns; c += 4 * PIECE_ELEMENTS)
            add_columns<format, rows, 4>(partial, weights, vector, n_columns, c);
    } else if (n_columns % (3 * PIECE_ELEMENTS) == 0) {
#pragma unroll 1
        for (; c < n_columns; c += 3 * PIECE_ELEMENTS)
            add_columns<format, rows, 3>(partial, weights, vector, n_columns, c);
    } else {
#pragma unroll 1
        for (; c < n_columns; c += PIECE_ELEMENTS)
            add_columns<format, rows, 1>(partial, weights, vector, n_columns, c);
    }
#pragma unroll
    for (int r = 0; r < rows; r++)
        sums[r] = warp_sum(partial[r].x + partial[r].y);
}

/* Lane r gets the sum of row r. Four rows at a time are worth their code where rows are short. */
template <class format, int most_rows = 2>
static __device__ __forceinline__ float tile_product(const char *weights, const char *vector,
                                                     int32_t n_rows, int32_t n_columns, int lane)
{
    float mine = 0;
    int32_t r = 0;
    for (; most_rows >= 4 && r + 3 < n_rows; r += 4) {
        float sums[4];
        row_products<format, 4>(sums, weights + 2 * r * n_columns, vector, n_columns, lane);
#pragma unroll
        for (int k = 0; k < 4; k++)
            mine = lane == r + k ? sums[k] : mine;
    }
    for (; r + 1 < n_rows; r += 2) {
        float sums[2];
        row_products<format, 2>(sums, weights + 2 * r * n_columns, vector, n_columns, lane);
        mine = lane == r ? sums[0] : lane == r + 1 ? sums[1] : mine;
    }
    if (r < n_rows) {
        float sums[1];
        row_products<format, 1>(sums, weights + 2 * r * n_columns, vector, n_columns, lane);
        mine = lane == r ? sums[0] : mine;
    }
    return mine;
}

#endif
