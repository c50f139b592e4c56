/* The consumers: each warp multiplies every n-th tile of the stream and delivers the sums. */
#ifndef CF_CUDA_STAGE_CONSUME_CUH
#define CF_CUDA_STAGE_CONSUME_CUH

#include "backend/cuda/stage/activation.cuh"
#include "backend/cuda/stage/attention.cuh"
#include "backend/cuda/stage/block.cuh"
#include "backend/cuda/stage/product.cuh"

/*
 * Counts a tile of up; the block's last one of the phase in a layer tells the others. That only
 * says when to look, so it may be on its way while the tile is still being activated and stored.
 */
static __device__ __forceinline__ void count_tile(const cf_token_args &args, int32_t phase,
                                                  int lane)
{
    block_state &block = block_shared();
    uint32_t last = (uint32_t)block.share.n_phase_tiles[phase] - 1;
    if (lane == 0 && atomicInc_block(&block.n_done[phase], last) == last)
        gpu_count(counter_of(args, phase));
}

/* Whether the residual takes this part, attention's, before the MLP. */
static __device__ __forceinline__ bool is_alone(const cf_schedule &schedule, int32_t part)
{
    return !schedule.shape.parallel_residual && part == 0;
}

/*
 * Leaves a partial sum for its unit; `parity` is that of the layer in this launch. True for the
 * warp whose sum was the last of those that make the residual: all are then visible to it.
 */
static __device__ __forceinline__ bool leave_partial(const cf_token_args &args, const cf_tile &tile,
                                                     int32_t part, float sum, uint32_t parity,
                                                     int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    float *partials = block_at<float>(schedule.shared.partials);
    warp_counter *arrivals = block_at<warp_counter>(schedule.shared.arrivals);
    if (lane < tile.n_rows)
        partials[(part * schedule.max_units + tile.unit) * schedule.unit_rows + lane] = sum;
    bool all = warp_count_round(&arrivals[tile.unit], (uint32_t)schedule.n_parts, parity, lane);
    return all || is_alone(schedule, part);
}

/* Counts a unit of the residual, likewise. */
static __device__ __forceinline__ void count_unit(const cf_token_args &args, int32_t layer,
                                                  int lane)
{
    block_state &block = block_shared();
    uint32_t last = (uint32_t)block.share.n_units - 1;
    if (lane != 0 || atomicInc_block(&block.n_published, last) != last)
        return;
    gpu_count(counter_of(args, CF_COUNTER_RESIDUAL));
    trace(args, layer, CF_TRACE_PUBLISHED);
}

/* Adds the parts of a unit to the block's own residual, in a fixed order, and publishes it. */
static __device__ __forceinline__ void publish_unit(const cf_token_args &args,
                                                    const token_turn &turn, const cf_tile &tile,
                                                    int32_t part, int32_t layer, int lane)
{
    const cf_schedule &schedule = args.model.schedule;
    bool parallel = schedule.shape.parallel_residual, alone = is_alone(schedule, part);
    int32_t first = parallel || alone ? 0 : 1, last = alone ? 1 : schedule.n_parts;
    uint32_t epoch = layer_epoch(args, turn, layer);
    if (!parallel)
        epoch = 2 * epoch - (alone ? 1 : 0);
    if (schedule.chain_bound)
        count_unit(args, layer, lane);
    if (lane < tile.n_rows) {
        int32_t place = tile.unit * schedule.unit_rows + lane;
        float *own = block_at<float>(schedule.shared.residual) + place;
        const float *partial = block_at<const float>(schedule.shared.partials) + place;
        float sum = 0;
        for (int32_t p = first; p < last; p++)
            sum += partial[p * schedule.max_units * schedule.unit_rows];
        *own += sum;
        residual_store(args.session.residual + tile.row + lane, *own, epoch);
    }
    if (!schedule.chain_bound)
        count_unit(args, layer, lane);
    barrier_arrive_warp(&block_shared().published, lane);
}

/* What a warp keeps of the phase that its tile belongs to. */
struct consume_phase {
    int32_t index;
    int32_t matrix, n_columns, part;
    const char *vector;
};

/* Where a consumer warp is in the stream. */
struct consume_place {
    int warp, lane;
    int32_t t; /* the tile of the round that is its next */
    ring_place ring;
    uint32_t round_parity; /* of the LayerNorm that the next round begins with */
};

/* What a phase's index is before the round's LayerNorm was waited for, and before its first tile.
 */
enum { NOT_BEGUN = -2, NO_PHASE = -1 };

/* Also protects what attention of the layer before has read of this warp's part. */
static __device__ __forceinline__ void begin_round(consume_place &place, consume_phase &phase)
{
    if (phase.index != NOT_BEGUN)
        return;
    barrier_wait(&block_shared().ready[CF_VECTOR_NORM1], place.round_parity);
    place.round_parity ^= 1;
    phase.index = NO_PHASE;
}

/*
 * Waits for what the phase's tiles are multiplied with. Each layer of the launch has every vector
 * once, so that its number says the parity, also to a warp that had no tile for the vector in the
 * layer before: when the LayerNorm came that a round begins with, all of the layer before was done.
 */
static __device__ __forceinline__ void enter_phase(consume_place &place, consume_phase &phase,
                                                   int32_t index, uint32_t layer)
{
    phase_entry entered = block_shared().phases[index];
    begin_round(place, phase);
    if (entered.input != CF_VECTOR_NORM1)
        barrier_wait(&block_shared().ready[entered.input], layer & 1);
    phase = {index, entered.matrix, entered.n_columns, entered.part,
             block_at<char>(entered.vector)};
}

static __device__ __forceinline__ void deliver(const cf_token_args &args, const token_turn &turn,
                                               const consume_phase &phase, const cf_tile &tile,
                                               int32_t layer, float sum, int lane)
{
    int32_t row = tile.row + lane;
    bool has_row = lane < tile.n_rows;
    if (phase.matrix == CF_MATRIX_QKV) {
        if (has_row)
            activation_store(args.session.qkv + row, sum, layer_epoch(args, turn, layer));
    } else if (phase.matrix == CF_MATRIX_UP) {
        bool is_ahead = args.model.schedule.chain_bound;
        if (is_ahead)
            count_tile(args, tile.phase, lane);
        sum = activate(args.model.schedule.shape.activation, sum);
        if (has_row)
            activation_store(args.session.ffn + row, sum, layer_epoch(args, turn, layer));
        if (!is_ahead)
            count_tile(args, tile.phase, lane);
    } else if (phase.matrix == CF_MATRIX_HEAD) {
        if (has_row)
            args.session.logits[row] = sum;
    } else {
        uint32_t parity = (uint32_t)(turn.n_layers(args) + layer) & 1;
        if (leave_partial(args, tile, phase.part, sum, parity, lane))
            publish_unit(args, turn, tile, phase.part, layer, lane);
    }
}

static __device__ __forceinline__ const char *await_slot(const cf_token_args &args,
                                                         ring_place place)
{
    const cf_schedule &schedule = args.model.schedule;
    barrier_wait(&block_shared().full[place.slot], place.parity);
    return block_at<char>(schedule.shared.ring) + place.slot * schedule.slot_bytes;
}

/* Protects the slot's next tile: all lanes have read this one. */
static __device__ __forceinline__ void leave_slot(ring_place place, int lane)
{
    barrier_arrive_warp(&block_shared().empty[place.slot], lane);
}

/*
 * The biases of a round's tiles; of a tile, each lane's row. Tiles of the KV cache get some other
 * tile's, which nobody uses: to tell them apart would cost more.
 */
struct bias_stream {
    const float *first;
    int32_t n_rows, last;

    __device__ __forceinline__ float load(const round_stream &stream, int32_t t, int lane) const
    {
        return lane < n_rows ? __ldg(first + min(stream.tile(t), last) * n_rows + lane) : 0;
    }
};

static __device__ __forceinline__ bias_stream round_biases(const cf_token_args &args, int32_t round)
{
    const cf_schedule &schedule = args.model.schedule;
    int64_t layer = round < schedule.shape.n_layers ? round : 0;
    int64_t place = (layer * schedule.n_blocks + blockIdx.x) * schedule.max_tiles;
    return {args.model.biases + place * schedule.bias_rows, schedule.bias_rows,
            schedule.max_tiles - 1};
}

/* One tile of the KV cache. */
template <int d_head>
static __device__ __forceinline__ void consume_kv(const cf_token_args &args, const token_turn &turn,
                                                  const head_task &task, int32_t layer,
                                                  int32_t index, const consume_place &place)
{
    int32_t n_consumers = args.model.schedule.n_consumers;
    barrier_wait(&block_shared().query, task.parity(layer));
    const char *slot = await_slot(args, place.ring);
    softmax_state<d_head> state = attend_tile<d_head>(
        args, reinterpret_cast<const uint16_t *>(slot),
        min(task.per_tile, task.end - task.begin - index * task.per_tile), place.lane);
    leave_slot(place.ring, place.lane);
    leave_part<d_head>(args, state, index < n_consumers, index % n_consumers, place.lane);
}

/*
 * Tells attention, at the tile after which this warp has no more of the layer's KV tiles. With
 * `kv_end` 0 the block does not attend.
 */
static __device__ __forceinline__ void finish_kv(const cf_token_args &args, int32_t t,
                                                 int32_t kv_end, int lane)
{
    if (t < kv_end && t + args.model.schedule.n_consumers >= kv_end)
        barrier_arrive_warp(&block_shared().attended, lane);
}

/* A warp's tiles of one round. */
template <class format, int d_head>
static __device__ __forceinline__ void consume_round(const cf_token_args &args,
                                                     const token_turn &turn, const head_task &task,
                                                     int32_t round, consume_place &place)
{
    constexpr int most_rows = d_head <= 64 ? 4 : 2; /* narrow heads are of small models */
    const cf_schedule &schedule = args.model.schedule;
    round_stream stream = open_round(args, task, round);
    const cf_tile *tiles = block_at<const cf_tile>(schedule.shared.tiles);
    bias_stream biases = round_biases(args, round);
    int32_t kv_end = task.head >= 0 ? stream.kv_end : 0; /* 0 in the head's round, too */
    consume_phase phase = {NOT_BEGUN};
    float bias = biases.load(stream, place.t, place.lane);
    if (kv_end > 0 && place.t >= kv_end) {
        begin_round(place, phase);
        barrier_arrive_warp(&block_shared().attended, place.lane);
    }
    for (; place.t < stream.n; place.t += schedule.n_consumers) {
        /* Fetched a tile ahead: it comes from far. */
        float next_bias = biases.load(stream, place.t + schedule.n_consumers, place.lane);
        if (stream.is_kv(place.t)) {
            begin_round(place, phase);
            consume_kv<d_head>(args, turn, task, round, place.t - stream.kv_begin, place);
            finish_kv(args, place.t, kv_end, place.lane);
        } else {
            cf_tile tile = tiles[stream.tile(place.t)];
            /* Both before the vector, which comes last: nothing is left to do then but multiply. */
            const char *slot = await_slot(args, place.ring);
            if (tile.phase != phase.index)
                enter_phase(place, phase, tile.phase, (uint32_t)(turn.n_layers(args) + round));
            finish_kv(args, place.t, kv_end, place.lane);
            float sum = tile_product<format, most_rows>(slot, phase.vector, tile.n_rows,
                                                        phase.n_columns, place.lane);
            leave_slot(place.ring, place.lane);
            deliver(args, turn, phase, tile, round, sum + bias, place.lane);
        }
        ring_advance(place.ring, schedule.n_consumers, schedule.n_slots);
        bias = next_bias;
    }
    place.t -= stream.n;
    begin_round(place, phase);
}

/* Publishes the warp's logits of this token to the block's vector warps. */
static __device__ __forceinline__ void logits_are_there(const cf_token_args &args, int lane)
{
    barrier_arrive_warp(&choice_shared(args).judged, lane);
}

template <class format, int d_head>
static __device__ __forceinline__ void stage_consume(const cf_token_args &args, int warp, int lane)
{
    consume_place place = {warp, lane, warp, {warp, 0}, 0};
    token_turn turn = {0};
    do {
        head_task task = block_task(args, turn);
        for (int32_t round = 0; round < n_rounds(args, turn); round++) {
            consume_round<format, d_head>(args, turn, task, round, place);
            if (warp == 0 && lane == 0)
                trace(args, round, CF_TRACE_TILES_DONE);
        }
        if (args.choice.is_wanted)
            logits_are_there(args, lane);
    } while (await_turn(args, turn));
}

#endif
