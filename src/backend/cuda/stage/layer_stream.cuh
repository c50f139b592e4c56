/* The producer of the layer kernel: one warp that brings the block's tiles into the ring. */
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

static __device__ __forceinline__ void stage_layer_stream(const cf_layer_args &args, int lane)
{
    const cf_layer_plan &plan = args.plan;
    layer_block &block = layer_shared();
    cf_layer_share share = block.share;
    char *ring = layer_at<char>(plan.layout.ring);
    int32_t slot = 0, oldest = 0, n_in_flight = 0;
    uint32_t parity = 0, oldest_parity = 0;
#pragma unroll 1
    for (int32_t t = 0; t < share.n_tiles; t++) {
        cf_layer_tile tile = cf_layer_tile_at(&plan, &share, blockIdx.x, t);
        const char *source = tile_source(args, tile);
        uint32_t n_bytes = tile_bytes(tile);
        /* Protects the tile that lay here: its warp has read it. */
        barrier_wait(&block.empty[slot], parity ^ 1);
        if (n_in_flight < plan.n_window) {
            n_in_flight++;
        } else {
            barrier_wait(&block.full[oldest], oldest_parity);
            oldest = oldest + 1 == plan.n_slots ? 0 : oldest + 1;
            oldest_parity ^= oldest == 0;
        }
        warp_copy_begin(&block.full[slot], n_bytes, lane);
        warp_copy(ring + slot * plan.slot_bytes, source, n_bytes, &block.full[slot], lane);
        warp_copy_end(&block.full[slot], lane);
        slot = slot + 1 == plan.n_slots ? 0 : slot + 1;
        parity ^= slot == 0;
    }
}

#endif
