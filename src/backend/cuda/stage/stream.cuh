/* The producer: one warp that brings the block's tiles into the ring, in order, and nothing else.
 */
#ifndef CF_CUDA_STAGE_STREAM_CUH
#define CF_CUDA_STAGE_STREAM_CUH

#include "backend/cuda/stage/block.cuh"

/* What the tiles of a phase have in common, so that a tile costs a multiplication. */
struct stream_phase {
    int32_t index;      /* in the schedule */
    int32_t row_stride; /* bytes from one row of the matrix to the next */
    int32_t row_bytes;  /* of a tile's row */
    const char *matrix; /* its first row, at the phase's first column */
};

static __device__ __forceinline__ stream_phase open_phase(const cf_token_args &args, int32_t index,
                                                          int32_t layer)
{
    const cf_phase &phase = args.model.schedule.phases[index];
    const void *matrix = phase.matrix == CF_MATRIX_HEAD
                             ? args.model.head
                             : args.model.layers[layer].matrices[phase.matrix];
    return {index, phase.row_bytes, 2 * phase.n_columns,
            static_cast<const char *>(matrix) + 2 * phase.column};
}

/* Whole rows are one piece of memory, parts of rows one each. */
static __device__ __forceinline__ void stream_tile(const stream_phase &phase, const char *source,
                                                   int32_t n_rows, char *slot, uint64_t *full,
                                                   int lane)
{
    uint32_t n_bytes = n_rows * phase.row_bytes;
    warp_copy_begin(full, n_bytes, lane);
    if (phase.row_bytes == phase.row_stride) {
        warp_copy(slot, source, n_bytes, full, lane);
    } else {
#pragma unroll 1
        for (int32_t r = 0; r < n_rows; r++) {
            warp_copy(slot, source, phase.row_bytes, full, lane);
            slot += phase.row_bytes;
            source += phase.row_stride;
        }
    }
    warp_copy_end(full, lane);
}

/* Where the producer is: the next slot to fill, and the oldest tile that may not have landed. */
struct stream_place {
    ring_place next, oldest;
    int32_t n_in_flight;
};

static __device__ __forceinline__ void await_room(const cf_schedule &schedule, stream_place &place)
{
    block_state &block = block_shared();
    /* Protects the tile that lay here: its warp has read it. */
    barrier_wait(&block.empty[place.next.slot], place.next.parity ^ 1);
    if (place.n_in_flight < schedule.n_window) {
        place.n_in_flight++;
        return;
    }
    barrier_wait(&block.full[place.oldest.slot], place.oldest.parity);
    ring_advance(place.oldest, 1, schedule.n_slots);
}

/*
 * A tile has some 500 cycles: everything is worked out before the waits, and the compiler is told
 * that all lanes agree, or it would issue each copy in a loop over them.
 */
static __device__ __forceinline__ void stream_round(const cf_token_args &args, int32_t round,
                                                    stream_place &place, int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    tile_range range = round_tiles(args, round);
    const cf_tile *tiles = block_at<const cf_tile>(schedule.shared.tiles) + range.first;
    char *ring = block_at<char>(schedule.shared.ring);
    stream_phase phase = {-1, 0, 0, NULL};
    for (int32_t t = 0; t < range.n; t++) {
        int32_t row = warp_uniform(tiles[t].row), n_rows = warp_uniform(tiles[t].n_rows);
        int32_t index = warp_uniform(tiles[t].phase);
        if (index != phase.index)
            phase = open_phase(args, index, round);
        const char *source = phase.matrix + (int64_t)row * phase.row_stride;
        await_room(schedule, place);
        stream_tile(phase, source, n_rows, ring + place.next.slot * schedule.slot_bytes,
                    &block_shared().full[place.next.slot], lane);
        ring_advance(place.next, 1, schedule.n_slots);
    }
}

static __device__ __forceinline__ void stage_stream(const cf_token_args &args, int lane)
{
    stream_place place = {};
    for (int32_t round = 0; round < n_rounds(args); round++)
        stream_round(args, round, place, lane);
}

#endif
