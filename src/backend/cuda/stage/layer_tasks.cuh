/*
 * What a warp of the layer kernel does with each of its tiles. Each lane works it out for one of
 * the warp's next 32 tiles, ahead of need, and tells the others when its tile's turn comes: so a
 * tile costs a few shuffles, not the arithmetic of cf_layer_tile_at() between a wait and a product.
 */
#ifndef CF_CUDA_STAGE_LAYER_TASKS_CUH
#define CF_CUDA_STAGE_LAYER_TASKS_CUH

#include "backend/cuda/stage/layer_block.cuh"

struct layer_task {
    int32_t row;     /* of the matrix: the tile's first */
    int32_t own_row; /* dense, down: among those of the block */
    uint32_t columns;
    uint32_t words; /* the rest, in bytes */

    /* Columns that a consumer multiplies, and those after them, which a helper does. */
    __device__ __forceinline__ int32_t n_own() const
    {
        return columns & 0xFFFF;
    }

    __device__ __forceinline__ int32_t n_others() const
    {
        return columns >> 16;
    }

    __device__ __forceinline__ int32_t matrix() const
    {
        return words & 0xFF;
    }

    __device__ __forceinline__ int32_t n_rows() const
    {
        return words >> 8 & 0xFF;
    }

    __device__ __forceinline__ int32_t input() const
    {
        return words >> 16 & 0xFF;
    }

    /* Of the MLP's inner vector: which up makes, which down reads. */
    __device__ __forceinline__ int32_t chunk() const
    {
        return words >> 24;
    }
};
static_assert(CF_LAYER_MAX_D_MODEL <= 0xFFFF && CF_LAYER_N_VECTORS <= 0xFF, "");

static __device__ __forceinline__ layer_task task_of_tile(const cf_layer_plan &plan,
                                                          const cf_layer_tile &tile)
{
    bool is_up = tile.matrix == CF_LAYER_UP, is_down = tile.matrix == CF_LAYER_DOWN;
    uint32_t chunk = is_up     ? cf_layer_chunk_of(&plan, tile.row)
                     : is_down ? cf_layer_chunk_of(&plan, tile.column)
                               : 0;
    uint32_t input = tile.matrix == CF_LAYER_QKV ? CF_LAYER_NORM1
                     : is_up                     ? CF_LAYER_NORM2
                     : is_down                   ? CF_LAYER_FFN + chunk
                                                 : CF_LAYER_ATTENTION;
    uint32_t n_own = cf_layer_own_columns(&plan, &tile), n_others = tile.n_columns - n_own;
    return {tile.row, tile.own_row, n_own | n_others << 16,
            (uint32_t)tile.matrix | (uint32_t)tile.n_rows << 8 | input << 16 | chunk << 24};
}

/* A warp's tiles from `first` on, each the n_warps-th after the one before; the last one again. */
static __device__ __forceinline__ layer_task open_tasks(const cf_layer_plan &plan,
                                                        const cf_layer_share &share, int32_t first,
                                                        int32_t n_warps, int lane)
{
    int32_t t = min(first + lane * n_warps, share.n_tiles - 1);
    return task_of_tile(plan, cf_layer_tile_at(&plan, &share, blockIdx.x, t));
}

static __device__ __forceinline__ layer_task task_of_lane(const layer_task &mine, int lane)
{
    return {__shfl_sync(WARP_ALL, mine.row, lane), __shfl_sync(WARP_ALL, mine.own_row, lane),
            __shfl_sync(WARP_ALL, mine.columns, lane), __shfl_sync(WARP_ALL, mine.words, lane)};
}

/* A warp's tiles in turn. */
struct task_list {
    layer_task mine; /* this lane's */
    int n_taken;     /* of the 32 */

    /* Tile t of the block, the warp's next one: each n_warps-th is. */
    __device__ __forceinline__ layer_task take(const cf_layer_plan &plan,
                                               const cf_layer_share &share, int32_t t,
                                               int32_t n_warps, int lane)
    {
        if (n_taken == 32) {
            mine = open_tasks(plan, share, t, n_warps, lane);
            n_taken = 0;
        }
        return task_of_lane(mine, n_taken++);
    }
};

#endif
