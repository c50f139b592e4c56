/*
 * The producers: warps that bring the block's tiles into the ring in turn, each its tiles in order,
 * and do nothing else. One alone is slower than the memory.
 */
#ifndef CF_CUDA_STAGE_STREAM_CUH
#define CF_CUDA_STAGE_STREAM_CUH

#include "backend/cuda/stage/choice.cuh"

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

/* Where a producer is: the next slot to fill, and the oldest tile that may not have landed. */
struct stream_place {
    ring_place next, oldest;
    int32_t n_in_flight;
    int32_t index;                /* of this producer's next tile in the list that it streams */
    int32_t n_producers, n_slots; /* of the schedule */
    int32_t n_window;             /* tiles of its own that may be in flight */
    const volatile bool *is_stopped;
};

/* False if there will be none: the launch has ended, and nobody uses what was streamed ahead. */
static __device__ __forceinline__ bool await_room(stream_place &place)
{
    block_state &block = block_shared();
    /* Protects the tile that lay here: its warp has read it. */
    uint64_t begin = watchdog_begin();
    while (!barrier_test(&block.empty[place.next.slot], place.next.parity ^ 1)) {
        if (*place.is_stopped)
            return false;
        watchdog_check(begin);
    }
    if (place.n_in_flight < place.n_window) {
        place.n_in_flight++;
        return true;
    }
    barrier_wait(&block.full[place.oldest.slot], place.oldest.parity);
    ring_advance(place.oldest, place.n_producers, place.n_slots);
    return true;
}

/* Returns when no more than `n_window` tiles of this producer are in flight. */
static __device__ __forceinline__ void await_landing(stream_place &place, int32_t n_window)
{
    for (; place.n_in_flight > n_window; place.n_in_flight--) {
        barrier_wait(&block_shared().full[place.oldest.slot], place.oldest.parity);
        ring_advance(place.oldest, place.n_producers, place.n_slots);
    }
}

/*
 * Streams n tiles of one layer, or of the LM head, that lie at `tiles`. All is worked out, and
 * the next tile looked up, before the waits.
 */
static __device__ __forceinline__ bool stream_tiles(const cf_token_args &args, const cf_tile *tiles,
                                                    int32_t n, int32_t round, stream_place &place,
                                                    int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    char *ring = block_at<char>(schedule.shared.ring);
    stream_phase phase = {-1, 0, 0, NULL};
    cf_tile next = tiles[min(place.index, n - 1)];
#pragma unroll 1
    for (; place.index < n; place.index += place.n_producers) {
        cf_tile tile = next;
        if (tile.phase != phase.index)
            phase = open_phase(args, tile.phase, round);
        const char *source = phase.matrix + (int64_t)tile.row * phase.row_stride;
        char *slot = ring + place.next.slot * schedule.slot_bytes;
        uint64_t *full = &block_shared().full[place.next.slot];
        next = tiles[min(place.index + place.n_producers, n - 1)];
        if (!await_room(place))
            return false;
        stream_tile(phase, source, tile.n_rows, slot, full, lane);
        ring_advance(place.next, place.n_producers, place.n_slots);
    }
    place.index -= n;
    return true;
}

/* Streams the block's part of the KV cache: keys, then values, of kv_positions positions a slot. */
static __device__ __forceinline__ bool stream_kv(const cf_token_args &args, const head_task &task,
                                                 int32_t layer, stream_place &place, int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    int32_t d_head = schedule.shape.d_head, n_positions = schedule.kv_positions;
    char *ring = block_at<char>(schedule.shared.ring);
    int64_t row = (int64_t)(layer * schedule.shape.n_heads + task.head) * args.session.n_context;
#pragma unroll 1
    for (; place.index < task.n_tiles; place.index += place.n_producers) {
        int32_t pos = task.begin + place.index * task.per_tile;
        char *slot = ring + place.next.slot * schedule.slot_bytes;
        uint64_t *full = &block_shared().full[place.next.slot];
        uint32_t n_bytes = 2 * d_head * min(task.per_tile, task.end - pos);
        if (!await_room(place))
            return false;
        warp_copy_begin(full, 2 * n_bytes, lane);
        warp_copy(slot, args.session.keys + (row + pos) * d_head, n_bytes, full, lane);
        warp_copy(slot + 2 * d_head * n_positions, args.session.values + (row + pos) * d_head,
                  n_bytes, full, lane);
        warp_copy_end(full, lane);
        ring_advance(place.next, place.n_producers, place.n_slots);
    }
    place.index -= task.n_tiles;
    return true;
}

/*
 * The new keys and values of the token before, which other blocks may have written: this acquires
 * what publish_cache() releases, before the copies that read them. Those of earlier tokens were
 * waited for then, or by the launch.
 */
static __device__ __forceinline__ void await_cache(const cf_token_args &args,
                                                   const token_turn &turn)
{
    uint32_t n_tokens = args.step.n_before + (uint32_t)turn.index;
    gpu_acquire_count(counter_of(args, CF_COUNTER_CACHE),
                      n_tokens * (uint32_t)args.model.schedule.shape.n_heads);
    async_fence();
}

/* Changes how many of the schedule's tiles may be in flight. */
static __device__ __forceinline__ void set_window(const cf_token_args &args, int32_t n_window,
                                                  stream_place &place)
{
    place.n_window = fresh(n_window / args.model.schedule.n_producers);
    await_landing(place, place.n_window);
}

/* Some of a round's tiles. The KV cache's come before the last stretch. */
enum stretch { STRETCH_AHEAD, STRETCH_FIRST, STRETCH_AFTER_KV };

struct stretch_tiles {
    int32_t first, end; /* in the block's tiles */
};

/* Those that come ahead of need are as many as the ring holds; none come so where a launch begins.
 */
static __device__ __forceinline__ stretch_tiles open_stretch(const cf_schedule &schedule,
                                                             int32_t round, bool has_ahead,
                                                             int stretch)
{
    const cf_share &share = block_shared().share;
    bool is_head = round == schedule.shape.n_layers;
    int32_t begin = is_head ? share.n_layer_tiles : 0;
    int32_t middle = is_head ? begin + share.n_head_tiles : share.kv_place;
    int32_t ahead = has_ahead ? min(begin + schedule.n_slots, middle) : begin;
    return stretch == STRETCH_AHEAD   ? stretch_tiles{begin, ahead}
           : stretch == STRETCH_FIRST ? stretch_tiles{ahead, middle}
                                      : stretch_tiles{middle, share.n_layer_tiles};
}

static __device__ __forceinline__ bool stream_stretch(const cf_token_args &args,
                                                      const token_turn &turn, const head_task &task,
                                                      int32_t round, int stretch,
                                                      stretch_tiles part, stream_place &place,
                                                      int lane)
{
    const cf_tile *tiles = block_at<const cf_tile>(args.model.schedule.shared.tiles);
    int32_t n = part.end - part.first;
    if (stretch == STRETCH_AFTER_KV) {
        if (round == 0 && turn.index > 0 && task.begin < task.end)
            await_cache(args, turn);
        if (!stream_kv(args, task, round, place, lane))
            return false;
    }
    return n == 0 || stream_tiles(args, tiles + part.first, n, round, place, lane);
}

/* A layer's tiles before the KV cache's, the cache's, the others; at last the head's. */
static __device__ __forceinline__ bool stream_token(const cf_token_args &args,
                                                    const token_turn &turn, stream_place &place,
                                                    int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    head_task task = block_task(args, turn);
    for (int32_t round = 0; round < n_rounds(args, turn); round++) {
        bool has_ahead = schedule.n_ahead < schedule.n_window && (round > 0 || turn.index > 0);
        int last = round == schedule.shape.n_layers ? STRETCH_FIRST : STRETCH_AFTER_KV;
        for (int stretch = has_ahead ? STRETCH_AHEAD : STRETCH_FIRST; stretch <= last; stretch++) {
            stretch_tiles part = open_stretch(schedule, round, has_ahead, stretch);
            if (has_ahead && stretch != STRETCH_AFTER_KV)
                set_window(args, stretch == STRETCH_AHEAD ? schedule.n_ahead : schedule.n_window,
                           place);
            if (!stream_stretch(args, turn, task, round, stretch, part, place, lane))
                return false;
        }
    }
    return true;
}

/* The next token's first weights flow while the one before is still being finished. */
static __device__ __forceinline__ void stage_stream(const cf_token_args &args, int producer,
                                                    int lane)
{
    stream_place place = {{producer, 0}, {producer, 0}, 0, producer};
    set_window(args, args.model.schedule.n_window, place);
    place.n_slots = fresh(args.model.schedule.n_slots);
    place.n_producers = fresh(args.model.schedule.n_producers);
    place.is_stopped = &choice_shared(args).is_stopped;
    token_turn turn = {0};
    while (stream_token(args, turn, place, lane) && next_turn(args, turn))
        continue;
    await_landing(place, 0); /* nothing may be under way when the block ends */
}

#endif
