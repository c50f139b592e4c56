/*
 * A tile times a vector on tensor cores, by one warp. These multiply sixteen rows by eight columns,
 * a tile has four rows, two or one, and the vector is one column: so the rows of A are a tile's
 * rows by groups of columns, and the columns of B are the groups' elements of the vector. Of the
 * sums, those count in which a row's group has met its own elements. Products are exact, sums are
 * float32. Both operands have one format, and vectors are float16: so must the weights be.
 */
#ifndef CF_CUDA_STAGE_PRODUCT_MMA_CUH
#define CF_CUDA_STAGE_PRODUCT_MMA_CUH

#include "backend/cuda/device/mma.cuh"

/* Steps whose operands are under way together. */
#define MMA_STEPS 4

/*
 * Where a lane finds its operands of a tile of `rows` rows. A step takes 256 / rows columns in
 * n_groups pairs of groups: lane l brings 16 bytes of row l / 4 % rows, whose halves belong to the
 * two groups of a pair, in A's rows l / 4 and l / 4 + 8. Every other row begins with the other
 * pair of two: eight lanes then read from all banks of shared memory.
 */
template <int rows> struct mma_lane {
    static constexpr int n_pairs = 8 / rows, n_columns = 256 / rows;
    int pair, place; /* of groups; of the lane's 16 bytes in a pair's 64 */
    int32_t weights, vector;

    /* `row_bytes` from one row to the next. */
    __device__ __forceinline__ mma_lane(int32_t row_bytes, int lane)
    {
        int a_row = lane / 4, row = a_row % rows;
        pair = a_row / rows ^ (row & 1);
        place = lane % 4;
        weights = row * row_bytes + 16 * (4 * pair + place);
        vector = 16 * (4 * (a_row % n_pairs) + place) + 8 * (a_row / n_pairs & 1);
    }

    /* The lane's sum that counts, or 0; a row's are in several lanes. */
    __device__ __forceinline__ float sum_of(const float (&sums)[4]) const
    {
        float first = pair & 1 ? sums[1] : sums[0], second = pair & 1 ? sums[3] : sums[2];
        return place == pair / 2 ? first : place == (n_pairs + pair) / 2 ? second : 0;
    }
};

static __device__ __forceinline__ void mma_add(float (&sums)[4], uint4 weights, uint2 elements)
{
    const uint32_t a[4] = {weights.x, weights.z, weights.y, weights.w};
    warp_multiply(sums, false, a, elements.x, elements.y);
}

/* Two rows or four: lane first + r gets the sum of row r, others keep `mine`. */
template <int rows>
static __device__ __forceinline__ float mma_rows(const char *weights, const char *vector,
                                                 int32_t n_columns, int lane, int32_t first,
                                                 float mine)
{
    using operands = mma_lane<rows>;
    lane = fresh(lane); /* else what follows from it would be kept from tile to tile */
    operands own(2 * n_columns, lane);
    float sums[4] = {};
    weights += own.weights, vector += own.vector;
    int32_t c = 0;
#pragma unroll 1
    for (; c + MMA_STEPS * operands::n_columns <= n_columns; c += MMA_STEPS * operands::n_columns) {
        uint4 w[MMA_STEPS];
        uint2 x[MMA_STEPS];
#pragma unroll
        for (int i = 0; i < MMA_STEPS; i++) {
            int32_t from = 2 * (c + i * operands::n_columns);
            w[i] = *reinterpret_cast<const uint4 *>(weights + from);
            x[i] = *reinterpret_cast<const uint2 *>(vector + from);
        }
#pragma unroll
        for (int i = 0; i < MMA_STEPS; i++)
            mma_add(sums, w[i], x[i]);
    }
#pragma unroll 1
    for (; c < n_columns; c += operands::n_columns) {
        uint4 w = {};
        uint2 x = {};
        if (c + 8 * (4 * own.pair + own.place) < n_columns)
            w = *reinterpret_cast<const uint4 *>(weights + 2 * c);
        if (c + own.vector / 16 * 8 < n_columns)
            x = *reinterpret_cast<const uint2 *>(vector + 2 * c);
        mma_add(sums, w, x);
    }
    float sum = own.sum_of(sums);
    sum += __shfl_xor_sync(WARP_ALL, sum, 16);
    if (rows == 2)
        sum += __shfl_xor_sync(WARP_ALL, sum, 8);
    if (rows == 2)
        sum += __shfl_xor_sync(WARP_ALL, sum, 2);
    sum += __shfl_xor_sync(WARP_ALL, sum, 1);
    int row = lane - first;
    sum = __shfl_sync(WARP_ALL, sum, 4 * row % 32);
    return row >= 0 && row < rows ? sum : mine;
}

/*
 * One row, likewise: eight groups of columns, A's other rows are zero; a lane's halves are two
 * multiplications.
 */
static __device__ __forceinline__ float mma_row(const char *weights, const char *vector,
                                                int32_t n_columns, int lane, int32_t first,
                                                float mine)
{
    lane = fresh(lane);
    float sums[4] = {};
#pragma unroll 2
    for (int32_t c = 8 * lane; c - 8 * lane < n_columns; c += 256) {
        uint4 w = {}, x = {};
        if (c < n_columns) {
            w = *reinterpret_cast<const uint4 *>(weights + 2 * c);
            x = *reinterpret_cast<const uint4 *>(vector + 2 * c);
        }
        mma_add(sums, make_uint4(w.x, w.y, 0, 0), make_uint2(x.x, x.y));
        mma_add(sums, make_uint4(w.z, w.w, 0, 0), make_uint2(x.z, x.w));
    }
    int group = lane / 4;
    float sum = lane % 4 == group / 2 ? group & 1 ? sums[1] : sums[0] : 0;
    sum = warp_sum(sum);
    return lane == first ? sum : mine;
}

/* Lane r gets the sum of row r. */
static __device__ __forceinline__ float mma_tile(const char *weights, const char *vector,
                                                 int32_t n_rows, int32_t n_columns, int lane)
{
    float mine = 0;
    int32_t r = 0;
    for (; r + 3 < n_rows; r += 4)
        mine = mma_rows<4>(weights + 2 * r * n_columns, vector, n_columns, lane, r, mine);
    for (; r + 1 < n_rows; r += 2)
        mine = mma_rows<2>(weights + 2 * r * n_columns, vector, n_columns, lane, r, mine);
    if (r < n_rows)
        mine = mma_row(weights + 2 * r * n_columns, vector, n_columns, lane, r, mine);
    return mine;
}

#endif
