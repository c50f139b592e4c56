/* The producers of the layer kernel: warps that bring the block's tiles into the ring in turn. */
#ifndef CF_CUDA_STAGE_LAYER_STREAM_CUH
#define CF_CUDA_STAGE_LAYER_STREAM_CUH

#include "backend/cuda/stage/layer_block.cuh"

static __device__ __forceinline__ const char *tile_source(const cf_layer_args &args,
                                                          const cf_layer_tile &tile)
{
    const cf_layer_tensors &tensors = args.tensors;
    bool is_down = tile.matrix == CF_LAYER_DOWN;
    const void *matrix = tile.matrix == CF_LAYER_QKV     ? tensors.qkv_weight
                         : tile.matrix == CF_LAYER_UP    ? tensors.up_weight
                         : tile.matrix == CF_LAYER_DENSE ? tensors.dense_weight
                                                         : tensors.down_weight;
    int64_t width = is_down ? args.plan.options.d_ffn : args.plan.options.d_model;
    return static_cast<const char *>(matrix) + 2 * (tile.row * width + tile.column);
}

/* Rows of a tile follow each other in memory: down's tiles have one row. */
static __device__ __forceinline__ uint32_t tile_bytes(const cf_layer_tile &tile)
{
    return 2 * tile.n_rows * tile.n_columns;
}

/* What each lane knows of one of the producer's next 32 tiles, as in layer_tasks.cuh. */
struct layer_copy {
    const char *source;
    uint32_t n_bytes;
};

static __device__ __forceinline__ layer_copy copy_of_lane(const layer_copy &mine, int lane)
{
    return {address_of_lane(mine.source, lane), __shfl_sync(WARP_ALL, mine.n_bytes, lane)};
}

static __device__ __forceinline__ layer_copy open_copies(const cf_layer_args &args,
                                                         const cf_layer_share &share, int32_t first,
                                                         int lane)
{
    int32_t t = min(first + lane * CF_LAYER_N_PRODUCERS, share.n_tiles - 1);
    cf_layer_tile tile = cf_layer_tile_at(&args.plan, &share, blockIdx.x, t);
    return {tile_source(args, tile), tile_bytes(tile)};
}

static __device__ __forceinline__ void stage_layer_stream(const cf_layer_args &args, int producer,
                                                          int lane)
{
    const cf_layer_plan &plan = args.plan;
    layer_block &block = layer_shared();
    cf_layer_share share = cf_layer_share_of(&plan, blockIdx.x);
    char *ring = layer_at<char>(plan.layout.ring);
    int32_t n_window = plan.n_window / CF_LAYER_N_PRODUCERS, n_in_flight = 0;
    ring_place next = {producer, 0}, oldest = next;
    layer_copy mine;
#pragma unroll 1
    for (int32_t t = producer, k = 0; t < share.n_tiles; t += CF_LAYER_N_PRODUCERS, k++) {
        if (k % 32 == 0)
            mine = open_copies(args, share, t, lane);
        layer_copy copy = copy_of_lane(mine, k % 32);
        /* Protects the tile that lay here: its warp has read it. */
        barrier_wait(&block.empty[next.slot], next.parity ^ 1);
        if (n_in_flight < n_window) {
            n_in_flight++;
        } else {
            barrier_wait(&block.full[oldest.slot], oldest.parity);
            ring_advance(oldest, CF_LAYER_N_PRODUCERS, plan.n_slots);
        }
        uint64_t *full = &block.full[next.slot];
        warp_copy_begin(full, copy.n_bytes, lane);
        warp_copy(ring + next.slot * plan.slot_bytes, copy.source, copy.n_bytes, full, lane);
        warp_copy_end(full, lane);
        ring_advance(next, CF_LAYER_N_PRODUCERS, plan.n_slots);
    }
}

#endif
