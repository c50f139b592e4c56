/*
 * The producers: warps that bring the block's tiles into the ring in turn, each its tiles in order,
 * and do nothing else. One alone is slower than the memory.
 */
#ifndef CF_CUDA_STAGE_STREAM_CUH
#define CF_CUDA_STAGE_STREAM_CUH

#include "backend/cuda/stage/choice.cuh"

/*
 * What fills a slot: pieces of memory, n_bytes each and `step` bytes apart; of the KV cache keys,
 * and values as many bytes behind them as the two caches are apart.
 */
struct slot_filling {
    const char *source;
    uint32_t sizes; /* of both(): in one word, which is one shuffle */
    int32_t step;

    static __device__ __forceinline__ uint32_t both(uint32_t n_bytes, uint32_t n_pieces)
    {
        return n_bytes | n_pieces << 24;
    }

    __device__ __forceinline__ uint32_t n_bytes() const
    {
        return sizes & 0xFFFFFF;
    }

    __device__ __forceinline__ uint32_t n_pieces() const
    {
        return sizes >> 24;
    }

    /* What another lane knows. */
    __device__ __forceinline__ slot_filling of_lane(int lane) const
    {
        return {address_of_lane(source, lane), __shfl_sync(WARP_ALL, sizes, lane),
                __shfl_sync(WARP_ALL, step, lane)};
    }
};

/* Whole rows are one piece of memory, parts of rows one each. */
static __device__ __forceinline__ slot_filling tile_filling(const cf_token_args &args,
                                                            const cf_tile &tile, int32_t round)
{
    const cf_phase &phase = args.model.schedule.phases[tile.phase];
    const void *matrix = phase.matrix == CF_MATRIX_HEAD
                             ? args.model.head
                             : args.model.layers[round].matrices[phase.matrix];
    uint32_t row_bytes = 2 * phase.n_columns, n_rows = tile.n_rows;
    bool is_whole = (int32_t)row_bytes == phase.row_bytes;
    const char *first = static_cast<const char *>(matrix) + 2 * phase.column;
    return {first + (int64_t)tile.row * phase.row_bytes,
            is_whole ? slot_filling::both(n_rows * row_bytes, 1)
                     : slot_filling::both(row_bytes, n_rows),
            phase.row_bytes};
}

/* Keys of per_tile positions. */
static __device__ __forceinline__ slot_filling kv_filling(const cf_token_args &args,
                                                          const head_task &task, int32_t layer,
                                                          int32_t index)
{
    const cf_schedule &schedule = args.model.schedule;
    int32_t d_head = schedule.shape.d_head, pos = task.begin + index * task.per_tile;
    int64_t row = (int64_t)(layer * schedule.shape.n_heads + task.head) * args.session.n_context;
    uint32_t n_bytes = 2 * d_head * min(task.per_tile, task.end - pos);
    return {reinterpret_cast<const char *>(args.session.keys + (row + pos) * d_head),
            slot_filling::both(n_bytes, 1), 0};
}

/* Where a producer is: the next slot to fill, and the oldest tile that may not have landed. */
struct stream_place {
    ring_place next, oldest;
    int32_t n_in_flight;
    int32_t index;                /* of this producer's next tile in the list that it streams */
    int32_t n_producers, n_slots; /* of the schedule */
    int32_t n_window;             /* tiles of its own that may be in flight */
};

/* False if there will be no room: the launch has ended, and nobody uses what was streamed ahead. */
static __device__ __forceinline__ bool await_room(stream_place &place)
{
    block_state &block = block_shared();
    /* Protects the tile that lay here: its warp has read it. */
    uint64_t begin = watchdog_begin();
    while (!barrier_test(&block.empty[place.next.slot], place.next.parity ^ 1)) {
        if (barrier_peek(&block.stopped, 0))
            return false;
        watchdog_check(begin);
    }
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
 * Returns when the next slot has room, and few enough tiles are in flight for one more; false if
 * there will be none. A producer that is alone finds it so mostly, and needs but one look; two are
 * ahead of the memory.
 */
template <bool is_alone>
static __device__ __forceinline__ bool await_slot_to_fill(stream_place &place)
{
    block_state &block = block_shared();
    if (is_alone && place.n_in_flight == place.n_window &&
        barriers_test(&block.empty[place.next.slot], place.next.parity ^ 1,
                      &block.full[place.oldest.slot], place.oldest.parity)) {
        place.n_in_flight--;
        ring_advance(place.oldest, place.n_producers, place.n_slots);
        return true;
    }
    if (!await_room(place))
        return false;
    await_landing(place, place.n_window - 1);
    return true;
}

/* Fills the next slot. */
template <bool is_kv>
static __device__ __forceinline__ void fill_slot(const cf_token_args &args,
                                                 const slot_filling &filling, stream_place &place,
                                                 int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    char *slot = block_at<char>(schedule.shared.ring) + place.next.slot * schedule.slot_bytes;
    const char *source = filling.source;
    uint32_t n_bytes = filling.n_bytes(), n_pieces = filling.n_pieces();
    uint64_t *full = &block_shared().full[place.next.slot];
    warp_copy_begin(full, (is_kv ? 2 : n_pieces) * n_bytes, lane);
    warp_copy(slot, source, n_bytes, full, lane);
    if (is_kv)
        warp_copy(slot + 2 * schedule.shape.d_head * schedule.kv_positions,
                  source + ((const char *)args.session.values - (const char *)args.session.keys),
                  n_bytes, full, lane);
#pragma unroll 1
    for (uint32_t p = 1; p < (is_kv ? 1 : n_pieces); p++) {
        slot += n_bytes;
        source += filling.step;
        warp_copy(slot, source, n_bytes, full, lane);
    }
    warp_copy_end(full, lane);
    ring_advance(place.next, place.n_producers, place.n_slots);
    place.n_in_flight++;
}

/*
 * Streams this producer's share of a list of n. Each lane works out what fills one of the next 32
 * slots, so that hardly anything is left to do between the waits.
 */
template <bool is_alone, bool is_kv, class describer>
static __device__ __forceinline__ bool stream_list(const cf_token_args &args,
                                                   const describer &filling_of, int32_t n,
                                                   stream_place &place, int lane)
{
#pragma unroll 1
    while (place.index < n) {
        slot_filling mine = filling_of(min(place.index + lane * place.n_producers, n - 1));
        slot_filling filling = {};
        if (is_alone)
            filling = mine.of_lane(0);
#pragma unroll 1
        for (int k = 0; k < 32 && place.index < n; k++) {
            if (!is_alone)
                filling = mine.of_lane(k);
            if (!await_slot_to_fill<is_alone>(place))
                return false;
            fill_slot<is_kv>(args, filling, place, lane);
            if (is_alone)
                filling = mine.of_lane(k + 1); /* on its way while the next slot is waited for */
            place.index += place.n_producers;
        }
    }
    place.index -= n;
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

template <bool is_alone>
static __device__ __forceinline__ bool stream_stretch(const cf_token_args &args,
                                                      const token_turn &turn, const head_task &task,
                                                      int32_t round, int stretch,
                                                      stretch_tiles part, stream_place &place,
                                                      int lane)
{
    const cf_tile *tiles = block_at<const cf_tile>(args.model.schedule.shared.tiles);
    if (stretch == STRETCH_AFTER_KV) {
        if (round == 0 && turn.index > 0 && task.begin < task.end)
            await_cache(args, turn);
        auto filling_of = [&](int32_t i) { return kv_filling(args, task, round, i); };
        if (!stream_list<is_alone, true>(args, filling_of, task.n_tiles, place, lane))
            return false;
    }
    auto filling_of = [&](int32_t i) { return tile_filling(args, tiles[part.first + i], round); };
    return stream_list<is_alone, false>(args, filling_of, part.end - part.first, place, lane);
}

/* Tiles in flight ahead of a round. While a token is chosen there is time to fill the ring, and
 * blocks that still stream tiles of the head need the memory. */
static __device__ __forceinline__ int32_t window_ahead(const cf_token_args &args, int32_t round)
{
    const cf_schedule &schedule = args.model.schedule;
    return round == 0 && args.choice.is_wanted ? schedule.n_producers : schedule.n_ahead;
}

/* A layer's tiles before the KV cache's, the cache's, the others; at last the head's. */
template <bool is_alone>
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
                set_window(args,
                           stretch == STRETCH_AHEAD ? window_ahead(args, round) : schedule.n_window,
                           place);
            if (!stream_stretch<is_alone>(args, turn, task, round, stretch, part, place, lane))
                return false;
        }
    }
    return true;
}

/* The next token's first weights flow while the one before is still being finished. */
template <bool is_alone>
static __device__ __forceinline__ void stream_tokens(const cf_token_args &args, int producer,
                                                     int lane)
{
    stream_place place = {{producer, 0}, {producer, 0}, 0, producer};
    set_window(args, args.model.schedule.n_window, place);
    /* What a shuffle gives stays in a register; what memory gives is asked for again. */
    place.n_slots = args.model.schedule.n_slots;
    place.n_slots = is_alone ? __shfl_sync(WARP_ALL, place.n_slots, 0) : fresh(place.n_slots);
    place.n_producers = is_alone ? 1 : fresh(args.model.schedule.n_producers);
    token_turn turn = {0};
    while (stream_token<is_alone>(args, turn, place, lane) && next_turn(args, turn))
        continue;
    await_landing(place, 0); /* nothing may be under way when the block ends */
}

static __device__ __forceinline__ void stage_stream(const cf_token_args &args, int producer,
                                                    int lane)
{
    if (args.model.schedule.n_producers == 1)
        stream_tokens<true>(args, producer, lane);
    else
        stream_tokens<false>(args, producer, lane);
}

#endif
