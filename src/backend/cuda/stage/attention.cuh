/*
 * Flash decoding. A block takes a range of positions of one head; with a long context several
 * blocks share a head. The attention warps bring q, k and v of the new position, rotate them and
 * write the KV cache; the cache's positions come through the ring, a tile at a time, to the
 * consumers; and the attention warps merge what these found, over warps and then over blocks.
 */
#ifndef CF_CUDA_STAGE_ATTENTION_CUH
#define CF_CUDA_STAGE_ATTENTION_CUH

#include "backend/cuda/device/format.cuh"
#include "backend/cuda/stage/choice.cuh"
#include "backend/cuda/stage/softmax_part.cuh"

/* How a warp reads keys: `lanes` lanes a position, each in pieces of `width` elements. */
template <int d_head> struct head_lanes {
    static constexpr int lanes = d_head <= 96 ? 8 : d_head <= 128 ? 16 : 32;
    static constexpr int elements = d_head / lanes;
    static constexpr int width = elements % 8 == 0 ? 8 : elements % 4 == 0 ? 4 : 2;
    static constexpr int n_positions = 32 / lanes;
    static constexpr int n_groups = elements <= 8 ? 4 : 2; /* of positions at a time: registers */

    /* The head's element that a lane's i-th one is; pieces of neighbouring lanes are neighbours. */
    static __device__ __forceinline__ int element(int lane, int i)
    {
        return (i / width * lanes + lane % lanes) * width + i % width;
    }
};

/* The work space in shared memory, in the order of attention_bytes() of the schedule. */
template <int d_head> struct attention_space {
    float parts[CF_SCHEDULE_MOST_CONSUMERS(d_head)][d_head + 2]; /* output, maximum, sum */
    float query[d_head];                                         /* rotated, scaled */
    float2 rotation[d_head / 2]; /* of the new position: cosine, sine */
    uint16_t raw[3 * d_head];    /* q, k, v as they come */
    uint16_t key[d_head];        /* rotated */
    float partner[d_head + 2];   /* as parts: of the paired block */
};

template <int d_head>
static __device__ __forceinline__ attention_space<d_head> &space(const cf_token_args &args)
{
    return *block_at<attention_space<d_head>>(args.model.schedule.shared.attention);
}

template <int d_head> static __device__ __forceinline__ void attention_sync()
{
    role_sync(ROLE_BARRIER_ATTENTION, N_ATTENTION_THREADS(d_head));
}

static __device__ __forceinline__ float from_f16(uint16_t half)
{
    return __half2float(__ushort_as_half(half));
}

/* Element i of a head's vector after rotation; pairs are (i, i + half). */
static __device__ __forceinline__ float rotated(const cf_token_args &args, const float2 *rotation,
                                                const uint16_t *raw, int i)
{
    int half = args.model.schedule.shape.d_rotary / 2, pair = i < half ? i : i - half;
    float value = from_f16(raw[i]);
    if (i >= 2 * half)
        return value;
    float other = from_f16(raw[i < half ? i + half : i - half]);
    return value * rotation[pair].x + (i < half ? -other : other) * rotation[pair].y;
}

/* Brings q, k and v of the new position, rotates them, and writes the KV cache. */
template <int d_head>
static __device__ __forceinline__ void prepare(const cf_token_args &args, const token_turn &turn,
                                               const head_task &task, int32_t layer, int thread)
{
    attention_space<d_head> &shared = space<d_head>(args);
    const uint32_t *packets = args.session.qkv + task.head * 3 * d_head;
    uint32_t epoch = layer_epoch(args, turn, layer);
    const float scale = 1.44269504f * rsqrtf((float)d_head); /* weights are powers of two */
    for (int first = 0; first < 3 * d_head; first += 4 * N_ATTENTION_THREADS(d_head)) {
        int i = first + 4 * thread;
        uint4 loaded[1];
        packets_load<activation_packets>(
            loaded, packets, [&](int) { return i; }, 3 * d_head, epoch);
        if (i < 3 * d_head)
            *reinterpret_cast<uint2 *>(&shared.raw[i]) = activation_packets::values(loaded[0]);
    }
    attention_sync<d_head>(); /* publishes `raw` */
    if (thread == 0)
        trace(args, layer, CF_TRACE_ATTENTION_BEGIN);
    int64_t row =
        (int64_t)(layer * args.model.schedule.shape.n_heads + task.head) * args.session.n_context +
        turn.pos(args);
    for (int i = thread; i < d_head; i += N_ATTENTION_THREADS(d_head)) {
        uint16_t key = __half_as_ushort(
            __float2half_rn(rotated(args, shared.rotation, shared.raw + d_head, i)));
        shared.query[i] = scale * rotated(args, shared.rotation, shared.raw, i);
        shared.key[i] = key;
        if (task.has_new) {
            args.session.keys[row * d_head + i] = key;
            args.session.values[row * d_head + i] = shared.raw[2 * d_head + i];
        }
    }
    /* Publishes `query` to the consumers, and with `key` to the other attention warps. */
    barrier_arrive(&block_shared().query);
    attention_sync<d_head>();
}

/* A softmax on the way: its largest exponent, sum and output so far. */
template <int d_head> struct softmax_state {
    float maximum, sum;
    float output[head_lanes<d_head>::elements];
};

/* A lane's elements of one position's key or value. */
template <int d_head> struct lane_words {
    uint32_t words[head_lanes<d_head>::elements / 2];

    __device__ __forceinline__ void load(const uint16_t *row, int lane)
    {
        using layout = head_lanes<d_head>;
#pragma unroll
        for (int i = 0; i < layout::elements; i += layout::width) {
            const uint16_t *piece = row + layout::element(lane, i);
            if constexpr (layout::width == 8) {
                uint4 v = *reinterpret_cast<const uint4 *>(piece);
                words[i / 2] = v.x, words[i / 2 + 1] = v.y;
                words[i / 2 + 2] = v.z, words[i / 2 + 3] = v.w;
            } else if constexpr (layout::width == 4) {
                uint2 v = *reinterpret_cast<const uint2 *>(piece);
                words[i / 2] = v.x, words[i / 2 + 1] = v.y;
            } else {
                words[i / 2] = *reinterpret_cast<const uint32_t *>(piece);
            }
        }
    }
};

template <int d_head>
static __device__ __forceinline__ float score(const lane_words<d_head> &query,
                                              const lane_words<d_head> &key)
{
    float2 sum = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < head_lanes<d_head>::elements / 2; i++) {
        float2 q = format_f16::unpack(query.words[i]), k = format_f16::unpack(key.words[i]);
        sum.x = fmaf(q.x, k.x, sum.x);
        sum.y = fmaf(q.y, k.y, sum.y);
    }
    float total = sum.x + sum.y;
#pragma unroll
    for (int offset = head_lanes<d_head>::lanes / 2; offset > 0; offset /= 2)
        total += __shfl_xor_sync(WARP_ALL, total, offset);
    return total;
}

/* The largest of the lanes' values. */
template <int d_head> static __device__ __forceinline__ float positions_max(float value)
{
#pragma unroll
    for (int offset = head_lanes<d_head>::lanes; offset < 32; offset *= 2)
        value = fmaxf(value, __shfl_xor_sync(WARP_ALL, value, offset));
    return value;
}

template <int d_head> static __device__ __forceinline__ float positions_sum(float value)
{
#pragma unroll
    for (int offset = head_lanes<d_head>::lanes; offset < 32; offset *= 2)
        value += __shfl_xor_sync(WARP_ALL, value, offset);
    return value;
}

/*
 * Adds n_groups groups of positions, a position a group of lanes each, of which those before
 * `n` are there. The chain from scores to weights is gone through once for all of them.
 */
template <int d_head>
static __device__ __forceinline__ void add_positions(softmax_state<d_head> &state,
                                                     const lane_words<d_head> &query,
                                                     const uint16_t *keys, const uint16_t *values,
                                                     int32_t first, int32_t n, int lane)
{
    using layout = head_lanes<d_head>;
    int32_t pos = first + lane / layout::lanes;
    lane_words<d_head> words[layout::n_groups];
    float exponents[layout::n_groups], maximum = state.maximum;
#pragma unroll
    for (int g = 0; g < layout::n_groups; g++)
        words[g].load(keys + min(pos + g * layout::n_positions, n - 1) * d_head, lane);
#pragma unroll
    for (int g = 0; g < layout::n_groups; g++) {
        float exponent = score<d_head>(query, words[g]);
        exponents[g] = pos + g * layout::n_positions < n ? exponent : -INFINITY;
        maximum = fmaxf(maximum, exponents[g]);
    }
#pragma unroll
    for (int g = 0; g < layout::n_groups; g++)
        words[g].load(values + min(pos + g * layout::n_positions, n - 1) * d_head, lane);
    maximum = positions_max<d_head>(maximum);
    float keep = exp2f(state.maximum - maximum);
    state.maximum = maximum;
    state.sum *= keep;
#pragma unroll
    for (int i = 0; i < layout::elements; i++)
        state.output[i] *= keep;
#pragma unroll
    for (int g = 0; g < layout::n_groups; g++) {
        float weight = exp2f(exponents[g] - maximum);
        state.sum += weight;
#pragma unroll
        for (int i = 0; i < layout::elements / 2; i++) {
            float2 v = format_f16::unpack(words[g].words[i]);
            state.output[2 * i] = fmaf(weight, v.x, state.output[2 * i]);
            state.output[2 * i + 1] = fmaf(weight, v.y, state.output[2 * i + 1]);
        }
    }
}

/* The softmax of a tile's positions: keys, then values, of which `n` are there. */
template <int d_head>
static __device__ __forceinline__ softmax_state<d_head> attend_tile(const cf_token_args &args,
                                                                    const uint16_t *tile, int32_t n,
                                                                    int lane)
{
    using layout = head_lanes<d_head>;
    const attention_space<d_head> &shared = space<d_head>(args);
    const uint16_t *values = tile + args.model.schedule.kv_positions * d_head;
    softmax_state<d_head> state = {-1e30f, 0, {}};
    lane_words<d_head> query;
#pragma unroll
    for (int i = 0; i < layout::elements; i += 2) {
        const float *pair = shared.query + layout::element(lane, i);
        query.words[i / 2] = pack_f16(pair[0], pair[1]);
    }
#pragma unroll 1
    for (int32_t first = 0; first < n; first += layout::n_groups * layout::n_positions)
        add_positions<d_head>(state, query, tile, values, first, n, lane);
    state.sum = positions_sum<d_head>(state.sum);
#pragma unroll
    for (int i = 0; i < layout::elements; i++)
        state.output[i] = positions_sum<d_head>(state.output[i]);
    return state;
}

/* Leaves a tile's result in a place of its warp; the first takes it, others are merged in. */
template <int d_head>
static __device__ __forceinline__ void leave_part(const cf_token_args &args,
                                                  const softmax_state<d_head> &state, bool is_first,
                                                  int32_t place, int lane)
{
    using layout = head_lanes<d_head>;
    float *part = space<d_head>(args).parts[place];
    softmax_part found = {state.maximum, state.sum, 0}, before = found;
    if (!is_first) {
        before.maximum = part[d_head], before.sum = part[d_head + 1];
        __syncwarp(); /* all have read what lane 0 overwrites */
    }
    if (lane < layout::lanes)
#pragma unroll
        for (int i = 0; i < layout::elements; i++) {
            int element = layout::element(lane, i);
            found.output = state.output[i];
            before.output = part[element];
            part[element] = is_first ? found.output : merged(before, found).output;
        }
    if (lane == 0) {
        softmax_part all = is_first ? found : merged(before, found);
        part[d_head] = all.maximum;
        part[d_head + 1] = all.sum;
    }
    __syncwarp();
}

/* The exponent of the new position; the same in all threads. */
template <int d_head>
static __device__ __forceinline__ float new_exponent(const cf_token_args &args, int thread)
{
    const attention_space<d_head> &shared = space<d_head>(args);
    float sum = 0;
    for (int i = thread % 32; i < d_head; i += 32)
        sum = fmaf(shared.query[i], from_f16(shared.key[i]), sum);
    return warp_sum(sum);
}

/*
 * Element i of the block's part: what the consumers found, and the new position. In the order of
 * the tiles, whichever warps had them: that depends on the tokens which the launch has evaluated.
 */
template <int d_head>
static __device__ __forceinline__ softmax_part merge_warps(const cf_token_args &args,
                                                           const head_task &task, float exponent,
                                                           int i)
{
    constexpr int most = CF_SCHEDULE_MOST_CONSUMERS(d_head);
    const attention_space<d_head> &shared = space<d_head>(args);
    int n_parts = min(task.n_tiles, args.model.schedule.n_consumers);
    softmax_part all = {task.has_new ? exponent : -1e30f, 0, 0};
    float maxima[most];
#pragma unroll
    for (int w = 0; w < most; w++) {
        maxima[w] = w < n_parts ? shared.parts[w][d_head] : -1e30f;
        all.maximum = fmaxf(all.maximum, maxima[w]);
    }
    if (task.has_new) {
        all.sum = exp2f(exponent - all.maximum);
        all.output = all.sum * from_f16(shared.raw[2 * d_head + i]);
    }
#pragma unroll
    for (int w = 0; w < most; w++) {
        if (w >= n_parts)
            continue;
        float weight = exp2f(maxima[w] - all.maximum);
        all.sum += weight * shared.parts[w][d_head + 1];
        all.output += weight * shared.parts[w][i];
    }
    return all;
}

/* Where another block finds a split's part: d_head elements, maximum, sum. */
template <int d_head>
static __device__ __forceinline__ uint64_t *split_packets(const cf_token_args &args,
                                                          const head_task &task, int32_t split)
{
    int32_t max_splits = args.model.schedule.max_splits;
    return args.session.partials + (int64_t)(task.head * max_splits + split) * (d_head + 2);
}

/* Adds element i of the splits that come this way, in their order; a group's at the same time. All
 * lanes of a warp wait together (packet.cuh). */
template <int d_head>
static __device__ __forceinline__ softmax_part merge_splits(const cf_token_args &args,
                                                            const token_turn &turn,
                                                            const head_task &task, uint32_t epoch,
                                                            softmax_part all, int i)
{
    enum { GROUP = 4 };
    int32_t n_splits = task.n_splits;
    int32_t step = published_step(args.step.has_pairs);
    int32_t first_split = first_published(args.step.has_pairs);
    for (int32_t first = first_split; first < n_splits; first += step * GROUP) {
        uint64_t maxima[GROUP], sums[GROUP], outputs[GROUP];
        uint64_t begin = watchdog_begin();
        bool is_late;
        do {
            is_late = false;
#pragma unroll
            for (int k = 0; k < GROUP; k++) {
                int32_t split = first + step * k < n_splits ? first + step * k : first;
                const uint64_t *packets = split_packets<d_head>(args, task, split);
                maxima[k] = gpu_load(packets + d_head);
                sums[k] = gpu_load(packets + d_head + 1);
                outputs[k] = gpu_load(packets + i);
            }
#pragma unroll
            for (int k = 0; k < GROUP; k++)
                is_late = is_late || !partial_is_of(maxima[k], epoch) ||
                          !partial_is_of(sums[k], epoch) || !partial_is_of(outputs[k], epoch);
            watchdog_check(begin);
        } while (__any_sync(WARP_ALL, is_late));
#pragma unroll
        for (int k = 0; k < GROUP; k++)
            if (first + step * k < n_splits)
                all = merged(all, {partial_value(maxima[k]), partial_value(sums[k]),
                                   partial_value(outputs[k])});
    }
    return all;
}

template <int d_head>
static __device__ __forceinline__ void deliver_head(const cf_token_args &args,
                                                    const token_turn &turn, const head_task &task,
                                                    int32_t layer, float exponent, uint32_t &taken,
                                                    int thread)
{
    uint32_t epoch = layer_epoch(args, turn, layer);
    uint64_t *packets = split_packets<d_head>(args, task, task.split);
    bool takes = takes_part(args.step.has_pairs, task.split, task.n_splits);
    if (takes && thread == 0)
        pair_expect(&block_shared().partner, part_bytes(d_head));
    for (int first = 0; first < d_head; first += N_ATTENTION_THREADS(d_head)) {
        if (first + thread / 32 * 32 >= d_head)
            continue;
        /* Lanes beyond go along with the last element. */
        bool is_own = d_head % 32 == 0 || first + thread < d_head;
        int i = is_own ? first + thread : d_head - 1;
        softmax_part all = merge_warps<d_head>(args, task, exponent, i);
        if (gives_part(args.step.has_pairs, task.split)) {
            if (is_own)
                give_part(space<d_head>(args).partner, &block_shared().partner, d_head, all, i);
            continue;
        }
        if (takes) {
            pair_await(&block_shared().partner, taken);
            all = merged(all, given_part(space<d_head>(args).partner, d_head, i));
        }
        if (task.split > 0) {
            if (is_own)
                publish_part(packets, d_head, all, epoch, i);
            continue;
        }
        all = merge_splits<d_head>(args, turn, task, epoch, all, i);
        if (is_own)
            activation_store(args.session.attention + task.head * d_head + i, all.output / all.sum,
                             epoch);
    }
    taken ^= takes ? 1 : 0;
    if (task.split == 0 && thread == 0)
        gpu_count(counter_of(args, CF_COUNTER_ATTENTION));
}

/* Fetched a token ahead of its use in each layer: it comes from far. */
template <int d_head>
static __device__ __forceinline__ void fetch_rotation(const cf_token_args &args, int32_t pos,
                                                      int thread)
{
    int32_t half = args.model.schedule.shape.d_rotary / 2;
    const float2 *rotation =
        reinterpret_cast<const float2 *>(args.session.rotation) + (int64_t)pos * half;
    for (int i = thread; i < half; i += N_ATTENTION_THREADS(d_head))
        space<d_head>(args).rotation[i] = __ldg(rotation + i);
}

/*
 * Publishes the token's keys and values to the copies that other blocks' producers make of them for
 * the next token: each thread's fence orders its writes before asynchronous copies, the barrier
 * gathers them, and the count releases them. await_cache() is the other side.
 */
template <int d_head>
static __device__ __forceinline__ void publish_cache(const cf_token_args &args, int thread)
{
    async_fence();
    attention_sync<d_head>();
    if (thread == 0)
        gpu_count_release(counter_of(args, CF_COUNTER_CACHE));
}

template <int d_head>
static __device__ __forceinline__ void attend_token(const cf_token_args &args,
                                                    const token_turn &turn, const head_task &task,
                                                    uint32_t &taken, int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    fetch_rotation<d_head>(args, turn.pos(args), thread);
    for (int32_t layer = 0; layer < schedule.shape.n_layers; layer++) {
        attention_sync<d_head>(); /* the work space is free */
        prepare<d_head>(args, turn, task, layer, fresh(thread));
        float exponent = new_exponent<d_head>(args, fresh(thread));
        barrier_wait(&block_shared().attended, task.parity(layer));
        deliver_head<d_head>(args, turn, task, layer, exponent, taken, fresh(thread));
        /* A phase that nobody waits for is an error to compute-sanitizer; this one is complete. */
        if (task.n_tiles == 0)
            barrier_wait(&block_shared().query, task.parity(layer));
        if (thread == 0)
            trace(args, layer, CF_TRACE_ATTENTION_DONE);
    }
    if (task.has_new)
        publish_cache<d_head>(args, thread);
}

template <int d_head>
static __device__ __forceinline__ void stage_attention(const cf_token_args &args, int thread)
{
    token_turn turn = {0};
    uint32_t taken = 0; /* parity of the parts that the paired block has left here */
    do {
        head_task task = block_task(args, turn);
        if (task.head >= 0)
            attend_token<d_head>(args, turn, task, taken, fresh(thread));
    } while (await_turn(args, turn));
}

#endif
