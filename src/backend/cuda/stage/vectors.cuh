/* The vector warps: they bring each layer's input vectors into shared memory as these are made. */
#ifndef CF_CUDA_STAGE_VECTORS_CUH
#define CF_CUDA_STAGE_VECTORS_CUH

#include "backend/cuda/device/format.cuh"
#include "backend/cuda/stage/decide.cuh"

/* Elements come in pieces of four; of a batch, a thread has several under way. */
#define PIECE 4
#define BATCH_PIECES 3
#define BATCH_ELEMENTS (PIECE * BATCH_PIECES * N_VECTOR_THREADS)

static __device__ __forceinline__ int32_t piece_at(int thread, int k)
{
    return PIECE * (thread + k * N_VECTOR_THREADS);
}

/* A thread's pieces of the batch that begins at `first`, of packets for n elements. */
template <class kind>
static __device__ __forceinline__ void load_batch(uint4 (&pieces)[BATCH_PIECES],
                                                  const uint32_t *packets, int32_t first, int32_t n,
                                                  uint32_t epoch, int thread)
{
    packets_load<kind>(
        pieces, packets, [&](int k) { return first + piece_at(thread, k); }, n, epoch);
}

/* One thread polls for all, so that the counter's line is not the busiest place of the GPU. */
static __device__ __forceinline__ void await_count(const cf_token_args &args, int32_t counter,
                                                   uint32_t target, int thread)
{
    if (thread == 0)
        gpu_wait_count(counter_of(args, counter), target);
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS);
}

static __device__ __forceinline__ void vector_is_ready(int32_t vector, int thread)
{
    barrier_arrive_warp(&block_shared().ready[vector], thread % 32);
}

/* Copies n activations of `epoch` to the place of `vector`. */
static __device__ __forceinline__ void gather(const cf_token_args &args, int32_t vector,
                                              const uint32_t *packets, int32_t n, uint32_t epoch,
                                              int thread)
{
    char *destination = block_at<char>(args.model.schedule.shared.vectors[vector]);
    for (int32_t first = 0; first < n; first += BATCH_ELEMENTS) {
        uint4 pieces[BATCH_PIECES];
        load_batch<activation_packets>(pieces, packets, first, n, epoch, thread);
#pragma unroll
        for (int k = 0; k < BATCH_PIECES; k++) {
            int32_t i = first + piece_at(thread, k);
            if (i < n)
                *reinterpret_cast<uint2 *>(destination + 2 * i) =
                    activation_packets::values(pieces[k]);
        }
    }
    vector_is_ready(vector, thread);
}

static __device__ __forceinline__ void gather_attention(const cf_token_args &args,
                                                        const token_turn &turn, int32_t layer,
                                                        int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    uint32_t epoch = layer_epoch(args, turn, layer), n_heads = (uint32_t)schedule.shape.n_heads;
    if (!schedule.chain_bound || !schedule.shape.parallel_residual)
        await_count(args, CF_COUNTER_ATTENTION, epoch * n_heads - (uint32_t)schedule.n_late_heads,
                    thread);
    gather(args, CF_VECTOR_ATTENTION, args.session.attention, schedule.shape.d_model, epoch,
           thread);
    if (thread == 0)
        trace(args, layer, CF_TRACE_ATTENTION_LOADED);
}

static __device__ __forceinline__ void gather_ffn(const cf_token_args &args, const token_turn &turn,
                                                  int32_t layer, int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    uint32_t epoch = layer_epoch(args, turn, layer);
    int32_t first = schedule.shape.parallel_residual ? 1 : 2; /* phase of up */
    for (int32_t chunk = 0; chunk < schedule.n_chunks; chunk++) {
        int32_t p = first + chunk;
        const cf_phase &phase = schedule.phases[p];
        if (chunk == 0 || !schedule.chain_bound)
            await_count(args, p, epoch * phase.n_blocks, thread);
        gather(args, CF_VECTOR_FFN + chunk, args.session.ffn + phase.row, phase.n_rows, epoch,
               thread);
    }
    if (thread == 0)
        trace(args, layer, CF_TRACE_FFN_LOADED);
}

/* The residual in shared memory while it is normalised; each thread touches its own pieces only. */
static __device__ __forceinline__ float4 *norm_pieces(const cf_token_args &args)
{
    return block_at<float4>(args.model.schedule.shared.norm);
}

/* Sums of d = v - centre and of d² over some elements. */
struct norm_sums {
    float centre, first, second;

    __device__ __forceinline__ void add(float4 v)
    {
        float a = v.x - centre, b = v.y - centre, c = v.z - centre, d = v.w - centre;
        first += (a + b) + (c + d);
        second += (a * a + b * b) + (c * c + d * d);
    }
};

/* The block's own rows of the residual begin as the embedding's. */
template <class format>
static __device__ __forceinline__ void init_rows(const cf_token_args &args, const char *embedding,
                                                 int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    const cf_share &share = block_shared().share;
    const cf_tile *tiles = block_at<const cf_tile>(schedule.shared.tiles);
    for (int32_t p = 0; schedule.phases[p].matrix != CF_MATRIX_DENSE; p++)
        tiles += share.n_phase_tiles[p];
    for (int32_t i = thread; i < share.n_units * schedule.unit_rows; i += N_VECTOR_THREADS) {
        const cf_tile &tile = tiles[i / schedule.unit_rows];
        int32_t r = i % schedule.unit_rows;
        if (r < tile.n_rows)
            block_at<float>(schedule.shared.residual)[tile.unit * schedule.unit_rows + r] =
                format::unpack(reinterpret_cast<const uint16_t *>(embedding)[tile.row + r]).x;
    }
}

static __device__ __forceinline__ cf_token turn_token(const cf_token_args &args,
                                                      const token_turn &turn)
{
    if (turn.index == 0)
        return args.step.token;
    return args.choice.is_wanted ? choice_shared(args).token : args.step.tokens[turn.index];
}

/* Brings the token's embedding; returns the sums of this thread's elements about its first one. */
template <class format>
static __device__ __forceinline__ norm_sums load_embedding(const cf_token_args &args,
                                                           const token_turn &turn, int thread)
{
    int32_t d_model = args.model.schedule.shape.d_model;
    cf_token token = turn_token(args, turn);
    const char *row = static_cast<const char *>(args.model.embed) + 2 * (int64_t)token * d_model;
    init_rows<format>(args, row, thread);
    norm_sums sums = {format::unpack(*reinterpret_cast<const uint16_t *>(row)).x, 0, 0};
    for (int32_t i = PIECE * thread; i < d_model; i += PIECE * N_VECTOR_THREADS) {
        uint2 packed = *reinterpret_cast<const uint2 *>(row + 2 * i);
        float2 low = format::unpack(packed.x), high = format::unpack(packed.y);
        float4 v = make_float4(low.x, low.y, high.x, high.y);
        norm_pieces(args)[i / PIECE] = v;
        sums.add(v);
    }
    return sums;
}

/* Brings the residual of `epoch`; returns the sums of this thread's elements about `centre`. */
static __device__ __forceinline__ norm_sums load_residual(const cf_token_args &args, uint32_t epoch,
                                                          float centre, int thread)
{
    int32_t d_model = args.model.schedule.shape.d_model;
    const uint32_t *packets = args.session.residual;
    norm_sums sums = {centre, 0, 0};
    for (int32_t first = 0; first < d_model; first += BATCH_ELEMENTS) {
        uint4 pieces[BATCH_PIECES];
        load_batch<residual_packets>(pieces, packets, first, d_model, epoch, thread);
#pragma unroll
        for (int k = 0; k < BATCH_PIECES; k++) {
            int32_t i = first + piece_at(thread, k);
            if (i >= d_model)
                continue;
            float4 v = residual_packets::values(pieces[k]);
            norm_pieces(args)[i / PIECE] = v;
            sums.add(v);
        }
    }
    return sums;
}

struct norm_statistics {
    float mean, factor;
    int number; /* of the LayerNorm in this launch */
};

/*
 * Mean and 1 / deviation, from sums about a centre near the mean: that of the LayerNorm before, or
 * an element of the embedding. A distance of k deviations between the two costs a relative error
 * of k² times that of a float32 sum.
 */
static __device__ __forceinline__ void measure(const cf_token_args &args, norm_sums sums,
                                               norm_statistics &statistics, int thread)
{
    const cf_shape &shape = args.model.schedule.shape;
    float2 *parts = block_shared().norm_sums[statistics.number++ & 1];
    float share = 1 / (float)shape.d_model;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        float first = __shfl_xor_sync(WARP_ALL, sums.first, offset);
        sums.second += __shfl_xor_sync(WARP_ALL, sums.second, offset);
        sums.first += first;
    }
    if (thread % 32 == 0)
        parts[thread / 32] = make_float2(sums.first, sums.second);
    /* Publishes the warps' sums. They are written again after the next LayerNorm's. */
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS);
    float first = 0, second = 0;
#pragma unroll
    for (int w = 0; w < CF_SCHEDULE_N_VECTOR_WARPS; w++) {
        float2 part = parts[w];
        first += part.x;
        second += part.y;
    }
    float shift = first * share, variance = fmaxf(second * share - shift * shift, 0);
    statistics.mean = sums.centre + shift;
    statistics.factor = rsqrtf(variance + shape.layer_norm_eps);
}

/* The weights of the LayerNorm that comes next; each thread touches its own pieces only. */
static __device__ __forceinline__ uint2 *next_weights(const cf_token_args &args)
{
    return block_at<uint2>(args.model.schedule.shared.norm_weights);
}

/* Those of the one after it, where there is a place for them. */
static __device__ __forceinline__ uint2 *second_weights(const cf_token_args &args)
{
    return block_at<uint2>(args.model.schedule.shared.norm2_weights);
}

static __device__ __forceinline__ const uint2 *norm1_weights(const cf_token_args &args,
                                                             int32_t round)
{
    bool is_last = round == args.model.schedule.shape.n_layers;
    return static_cast<const uint2 *>(is_last ? args.model.final_norm
                                              : args.model.layers[round].norm1);
}

static __device__ __forceinline__ const uint2 *norm2_weights(const cf_token_args &args,
                                                             int32_t layer)
{
    return static_cast<const uint2 *>(args.model.layers[layer].norm2);
}

/* Fetched long before they are needed: they come from far. */
static __device__ __forceinline__ void fetch_weights(const cf_token_args &args, uint2 *place,
                                                     const uint2 *weights, int thread)
{
    int32_t n_pieces = args.model.schedule.shape.d_model / PIECE;
    for (int32_t i = thread; i < n_pieces; i += N_VECTOR_THREADS)
        place[i] = weights[i];
}

/* What the round's first_norms() will read. */
static __device__ __forceinline__ void fetch_first_weights(const cf_token_args &args, int32_t round,
                                                           int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    fetch_weights(args, next_weights(args), norm1_weights(args, round), thread);
    if (schedule.shared.norm2_weights != 0 && round < schedule.shape.n_layers)
        fetch_weights(args, second_weights(args), norm2_weights(args, round), thread);
}

/* Elements i … i + 3, normalised and scaled. */
static __device__ __forceinline__ float4 normed_piece(const cf_token_args &args,
                                                      const uint2 *weights,
                                                      norm_statistics statistics, int32_t i)
{
    uint2 packed = weights[i / PIECE];
    float2 low = format_f16::unpack(packed.x), high = format_f16::unpack(packed.y);
    float4 v = norm_pieces(args)[i / PIECE];
    return make_float4((v.x - statistics.mean) * statistics.factor * low.x,
                       (v.y - statistics.mean) * statistics.factor * low.y,
                       (v.z - statistics.mean) * statistics.factor * high.x,
                       (v.w - statistics.mean) * statistics.factor * high.y);
}

static __device__ __forceinline__ void store_normed(const cf_token_args &args, int32_t vector,
                                                    const uint2 *weights,
                                                    norm_statistics statistics, int thread)
{
    char *destination = block_at<char>(args.model.schedule.shared.vectors[vector]);
    for (int32_t i = PIECE * thread; i < args.model.schedule.shape.d_model;
         i += PIECE * N_VECTOR_THREADS) {
        float4 v = normed_piece(args, weights, statistics, i);
        *reinterpret_cast<uint2 *>(destination + 2 * i) =
            make_uint2(pack_f16(v.x, v.y), pack_f16(v.z, v.w));
    }
    vector_is_ready(vector, thread);
}

/* The residual, or after the last layer its LayerNorm, for those who asked to see it. */
static __device__ __forceinline__ void store_hidden(const cf_token_args &args, int32_t round,
                                                    norm_statistics statistics, int thread)
{
    const cf_shape &shape = args.model.schedule.shape;
    float *hidden = args.session.hidden + (int64_t)round * shape.d_model;
    if (!args.step.want_hidden || blockIdx.x != 0)
        return;
    for (int32_t i = PIECE * thread; i < shape.d_model; i += PIECE * N_VECTOR_THREADS) {
        float4 v = norm_pieces(args)[i / PIECE];
        if (round == shape.n_layers) {
            const float *shift = args.model.final_shift + i;
            v = normed_piece(args, next_weights(args), statistics, i);
            v = make_float4(v.x + shift[0], v.y + shift[1], v.z + shift[2], v.w + shift[3]);
        }
        *reinterpret_cast<float4 *>(hidden + i) = v;
    }
}

/*
 * Returns when all blocks but `n_late` have published the residual after `n_updates` of this token,
 * this one among them: what its last products read lies where the residual will be normalised.
 */
static __device__ __forceinline__ void await_published(const cf_token_args &args,
                                                       const token_turn &turn, int32_t n_updates,
                                                       int32_t n_late, int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    uint32_t per_layer = schedule.shape.parallel_residual ? 1 : 2;
    uint32_t epoch = per_layer * (layer_epoch(args, turn, 0) - 1) + (uint32_t)n_updates;
    uint32_t n_before = per_layer * (uint32_t)turn.n_layers(args) + (uint32_t)n_updates - 1;
    if (thread == 0) {
        gpu_wait_count(counter_of(args, CF_COUNTER_RESIDUAL),
                       epoch * (uint32_t)schedule.n_blocks - (uint32_t)n_late);
        barrier_wait(&block_shared().published, n_before & 1);
    }
    role_sync(ROLE_BARRIER_VECTORS, N_VECTOR_THREADS);
}

/* The residual after `n_updates` of this token. */
template <class format>
static __device__ __forceinline__ void await_residual(const cf_token_args &args,
                                                      const token_turn &turn, int32_t round,
                                                      int32_t n_updates,
                                                      norm_statistics &statistics, int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    uint32_t per_layer = schedule.shape.parallel_residual ? 1 : 2;
    uint32_t epoch = per_layer * (layer_epoch(args, turn, 0) - 1) + (uint32_t)n_updates;
    norm_sums sums;
    if (n_updates == 0) {
        sums = load_embedding<format>(args, turn, thread);
    } else {
        await_published(args, turn, n_updates, schedule.n_late_blocks, thread);
        if (thread == 0)
            trace(args, round, CF_TRACE_RESIDUAL_THERE);
        sums = load_residual(args, epoch, statistics.mean, thread);
        if (thread == 0)
            trace(args, round, CF_TRACE_RESIDUAL_READ);
    }
    measure(args, sums, statistics, thread);
}

/* What a round begins with: the first LayerNorm or the final one, and the second where it is due.
 */
template <class format>
static __device__ __forceinline__ void first_norms(const cf_token_args &args,
                                                   const token_turn &turn, int32_t round,
                                                   norm_statistics &statistics, int thread)
{
    const cf_shape &shape = args.model.schedule.shape;
    int32_t n_updates = shape.parallel_residual ? round : 2 * round;
    await_residual<format>(args, turn, round, n_updates, statistics, thread);
    store_normed(args, CF_VECTOR_NORM1, next_weights(args), statistics, thread);
    if (thread == 0)
        trace(args, round, CF_TRACE_NORM_READY);
    if (shape.parallel_residual && round < shape.n_layers) {
        const uint2 *weights = args.model.schedule.shared.norm2_weights != 0
                                   ? second_weights(args)
                                   : norm2_weights(args, round);
        store_normed(args, CF_VECTOR_NORM2, weights, statistics, thread);
    }
    store_hidden(args, round, statistics, thread);
}

/* Where the residual takes attention's result before the MLP. */
template <class format>
static __device__ __forceinline__ void second_norm(const cf_token_args &args,
                                                   const token_turn &turn, int32_t layer,
                                                   norm_statistics &statistics, int thread)
{
    await_residual<format>(args, turn, layer, 2 * layer + 1, statistics, thread);
    store_normed(args, CF_VECTOR_NORM2, next_weights(args), statistics, thread);
}

/* All blocks have published their last residual, and so read all that the next token overwrites. */
static __device__ __forceinline__ void await_last(const cf_token_args &args, const token_turn &turn,
                                                  int thread)
{
    const cf_shape &shape = args.model.schedule.shape;
    int32_t n_updates = (shape.parallel_residual ? 1 : 2) * shape.n_layers;
    await_published(args, turn, n_updates, 0, thread);
}

template <class format>
static __device__ __forceinline__ void load_token(const cf_token_args &args, const token_turn &turn,
                                                  norm_statistics &statistics, int thread)
{
    const cf_shape &shape = args.model.schedule.shape;
    fetch_first_weights(args, 0, thread);
    for (int32_t round = 0; round < shape.n_layers + (has_last(args, turn) ? 1 : 0); round++) {
        first_norms<format>(args, turn, round, statistics, fresh(thread));
        if (round == shape.n_layers)
            return;
        if (!shape.parallel_residual) {
            fetch_weights(args, next_weights(args), norm2_weights(args, round), fresh(thread));
            gather_attention(args, turn, round, fresh(thread));
            second_norm<format>(args, turn, round, statistics, fresh(thread));
        }
        fetch_first_weights(args, round + 1, fresh(thread));
        gather_ffn(args, turn, round, fresh(thread));
        if (shape.parallel_residual)
            gather_attention(args, turn, round, fresh(thread));
    }
    await_last(args, turn, fresh(thread));
}

template <class format>
static __device__ __forceinline__ void stage_vectors(const cf_token_args &args, int thread)
{
    token_turn turn = {0};
    norm_statistics statistics = {};
    do {
        load_token<format>(args, turn, statistics, fresh(thread));
        if (args.choice.is_wanted && !decide(args, turn, fresh(thread)))
            return;
    } while (next_turn(args, turn));
}

#endif
