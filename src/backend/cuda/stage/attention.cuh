/*
 * The attention warps: rotary embedding, the KV cache, and flash decoding. A block takes a range of
 * positions of one head; with a long context several blocks share a head and the first of them
 * merges what they found.
 */
#ifndef CF_CUDA_STAGE_ATTENTION_CUH
#define CF_CUDA_STAGE_ATTENTION_CUH

#include "backend/cuda/device/format.cuh"
#include "backend/cuda/stage/block.cuh"

/* How a warp reads keys: `lanes` lanes a position, each in pieces of `width` elements. */
template <int d_head> struct head_lanes {
    static constexpr int lanes = d_head <= 128 ? 8 : 16;
    static constexpr int elements = d_head / lanes;
    static constexpr int width = elements % 8 == 0 ? 8 : elements % 4 == 0 ? 4 : 2;
    static constexpr int n_positions = 32 / lanes;

    /* The head's element that a lane's i-th one is; pieces of neighbouring lanes are neighbours. */
    static __device__ __forceinline__ int element(int lane, int i)
    {
        return (i / width * lanes + lane % lanes) * width + i % width;
    }
};

/* Rounds of positions that a warp has in flight: latency, not arithmetic, is what attention costs.
 */
#define ROUNDS_IN_FLIGHT 3

/* One block's part of one head in one layer. */
struct head_task {
    int32_t layer, head, split;
    int32_t begin, end;      /* positions */
    uint16_t *keys, *values; /* [n_context][d_head] */
};

/* The work space in shared memory, in the order of attention_bytes() of the schedule. */
template <int d_head> struct attention_space {
    float partials[CF_SCHEDULE_N_ATTENTION_WARPS][d_head + 2]; /* output, maximum, sum */
    float query[d_head];                                       /* rotated, scaled */
    uint16_t raw[3 * d_head];                                  /* q, k, v as they come */
    uint16_t key[d_head];                                      /* rotated */
};

template <int d_head>
static __device__ __forceinline__ attention_space<d_head> &space(const cf_token_args &args)
{
    return *block_at<attention_space<d_head>>(args.model.schedule.shared.attention);
}

static __device__ __forceinline__ void attention_sync()
{
    role_sync(ROLE_BARRIER_ATTENTION, N_ATTENTION_THREADS);
}

static __device__ __forceinline__ float from_f16(uint16_t half)
{
    return __half2float(__ushort_as_half(half));
}

/* Element i of a head's vector after rotation; pairs are (i, i + half). */
static __device__ __forceinline__ float rotated(const cf_token_args &args, const uint16_t *raw,
                                                int i)
{
    int half = args.model.schedule.shape.d_rotary / 2, pair = i < half ? i : i - half;
    float value = from_f16(raw[i]);
    if (i >= 2 * half)
        return value;
    float other = from_f16(raw[i < half ? i + half : i - half]);
    return value * args.step.cosines[pair] + (i < half ? -other : other) * args.step.sines[pair];
}

/* Brings q, k and v of the new position, rotates them, and writes the KV cache. */
template <int d_head>
static __device__ __forceinline__ void prepare(const cf_token_args &args, const head_task &task,
                                               int thread)
{
    attention_space<d_head> &shared = space<d_head>(args);
    const uint32_t *packets = args.session.qkv + task.head * 3 * d_head;
    uint32_t epoch = layer_epoch(args, task.layer);
    const float scale = 1.44269504f * rsqrtf((float)d_head); /* weights are powers of two */
    for (int i = 4 * thread; i < 3 * d_head; i += 4 * N_ATTENTION_THREADS)
        *reinterpret_cast<uint2 *>(&shared.raw[i]) =
            activations_await(gpu_load4(packets + i), packets + i, epoch);
    attention_sync(); /* publishes `raw` */
    bool owns_new = task.end == args.step.pos + 1;
    for (int i = thread; i < d_head; i += N_ATTENTION_THREADS) {
        uint16_t key = __half_as_ushort(__float2half_rn(rotated(args, shared.raw + d_head, i)));
        shared.query[i] = scale * rotated(args, shared.raw, i);
        shared.key[i] = key;
        if (owns_new) {
            task.keys[(int64_t)args.step.pos * d_head + i] = key;
            task.values[(int64_t)args.step.pos * d_head + i] = shared.raw[2 * d_head + i];
        }
    }
    attention_sync(); /* publishes `query` and `key` */
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

template <int d_head>
static __device__ __forceinline__ void add_position(softmax_state<d_head> &state, float exponent,
                                                    const lane_words<d_head> &value)
{
    float maximum = fmaxf(state.maximum, exponent);
    float keep = exp2f(state.maximum - maximum), weight = exp2f(exponent - maximum);
    state.maximum = maximum;
    state.sum = state.sum * keep + weight;
#pragma unroll
    for (int i = 0; i < head_lanes<d_head>::elements / 2; i++) {
        float2 v = format_f16::unpack(value.words[i]);
        state.output[2 * i] = state.output[2 * i] * keep + weight * v.x;
        state.output[2 * i + 1] = state.output[2 * i + 1] * keep + weight * v.y;
    }
}

/* One round of a warp: ROUNDS_IN_FLIGHT × n_positions positions from `first` on. */
template <int d_head>
static __device__ __forceinline__ void add_round(const cf_token_args &args, const head_task &task,
                                                 softmax_state<d_head> &state,
                                                 const lane_words<d_head> &query, int32_t first,
                                                 int lane)
{
    using layout = head_lanes<d_head>;
    attention_space<d_head> &shared = space<d_head>(args);
    lane_words<d_head> keys[ROUNDS_IN_FLIGHT], values[ROUNDS_IN_FLIGHT];
#pragma unroll
    for (int k = 0; k < ROUNDS_IN_FLIGHT; k++) {
        int32_t pos = min(first + k * layout::n_positions + lane / layout::lanes, task.end - 1);
        /* The new position's are still here; the cache's copy may not have arrived. */
        bool is_new = pos == args.step.pos;
        keys[k].load(is_new ? shared.key : task.keys + (int64_t)pos * d_head, lane);
        values[k].load(is_new ? shared.raw + 2 * d_head : task.values + (int64_t)pos * d_head,
                       lane);
    }
#pragma unroll
    for (int k = 0; k < ROUNDS_IN_FLIGHT; k++) {
        bool is_there = first + k * layout::n_positions + lane / layout::lanes < task.end;
        float exponent = score<d_head>(query, keys[k]);
        add_position<d_head>(state, is_there ? exponent : -INFINITY, values[k]);
    }
}

/* Merges the lanes that read different positions; all then hold the warp's state. */
template <int d_head>
static __device__ __forceinline__ void merge_lanes(softmax_state<d_head> &state)
{
#pragma unroll
    for (int offset = head_lanes<d_head>::lanes; offset < 32; offset *= 2) {
        float other = __shfl_xor_sync(WARP_ALL, state.maximum, offset);
        float maximum = fmaxf(state.maximum, other);
        float mine = exp2f(state.maximum - maximum), theirs = exp2f(other - maximum);
        state.maximum = maximum;
        state.sum = state.sum * mine + __shfl_xor_sync(WARP_ALL, state.sum, offset) * theirs;
#pragma unroll
        for (int i = 0; i < head_lanes<d_head>::elements; i++)
            state.output[i] = state.output[i] * mine +
                              __shfl_xor_sync(WARP_ALL, state.output[i], offset) * theirs;
    }
}

/* A warp's share of the positions, into the work space. */
template <int d_head>
static __device__ __forceinline__ void attend_positions(const cf_token_args &args,
                                                        const head_task &task, int thread)
{
    using layout = head_lanes<d_head>;
    int warp = thread / 32, lane = thread % 32;
    constexpr int per_round = ROUNDS_IN_FLIGHT * layout::n_positions;
    attention_space<d_head> &shared = space<d_head>(args);
    softmax_state<d_head> state = {-1e30f, 0, {}};
    lane_words<d_head> query;
#pragma unroll
    for (int i = 0; i < layout::elements; i += 2) {
        const float *pair = shared.query + layout::element(lane, i);
        query.words[i / 2] = pack_f16(pair[0], pair[1]);
    }
    for (int32_t first = task.begin + warp * per_round; first < task.end;
         first += CF_SCHEDULE_N_ATTENTION_WARPS * per_round)
        add_round<d_head>(args, task, state, query, first, lane);
    merge_lanes<d_head>(state);
    float *partial = shared.partials[warp];
    if (lane < layout::lanes)
#pragma unroll
        for (int i = 0; i < layout::elements; i++)
            partial[layout::element(lane, i)] = state.output[i];
    if (lane == 0) {
        partial[d_head] = state.maximum;
        partial[d_head + 1] = state.sum;
    }
}

/* A part of a softmax: of one warp, one block or all so far. */
struct softmax_part {
    float maximum, sum, output;
};

static __device__ __forceinline__ softmax_part merged(softmax_part a, softmax_part b)
{
    float maximum = fmaxf(a.maximum, b.maximum);
    float of_a = exp2f(a.maximum - maximum), of_b = exp2f(b.maximum - maximum);
    return {maximum, a.sum * of_a + b.sum * of_b, a.output * of_a + b.output * of_b};
}

/* Element i of the block's part. */
template <int d_head>
static __device__ __forceinline__ softmax_part merge_warps(const cf_token_args &args, int i)
{
    attention_space<d_head> &shared = space<d_head>(args);
    softmax_part all = {-1e30f, 0, 0};
#pragma unroll
    for (int w = 0; w < CF_SCHEDULE_N_ATTENTION_WARPS; w++) {
        const float *partial = shared.partials[w];
        all = merged(all, {partial[d_head], partial[d_head + 1], partial[i]});
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

/* Adds element i of all other splits, in their order; loads of several are under way at a time. */
template <int d_head>
static __device__ __forceinline__ softmax_part merge_splits(const cf_token_args &args,
                                                            const head_task &task, softmax_part all,
                                                            int i)
{
    uint32_t epoch = layer_epoch(args, task.layer);
#pragma unroll 3
    for (int32_t split = 1; split < args.step.n_splits; split++) {
        const uint64_t *packets = split_packets<d_head>(args, task, split);
        uint64_t maximum = gpu_load(packets + d_head), sum = gpu_load(packets + d_head + 1);
        uint64_t output = gpu_load(packets + i);
        all = merged(all, {partial_await(maximum, packets + d_head, epoch),
                           partial_await(sum, packets + d_head + 1, epoch),
                           partial_await(output, packets + i, epoch)});
    }
    return all;
}

template <int d_head>
static __device__ __forceinline__ void deliver_head(const cf_token_args &args,
                                                    const head_task &task, int thread)
{
    uint32_t epoch = layer_epoch(args, task.layer);
    uint64_t *packets = split_packets<d_head>(args, task, task.split);
    for (int i = thread; i < d_head; i += N_ATTENTION_THREADS) {
        softmax_part all = merge_warps<d_head>(args, i);
        if (task.split > 0) {
            partial_store(packets + i, all.output, epoch);
            if (i == 0) {
                partial_store(packets + d_head, all.maximum, epoch);
                partial_store(packets + d_head + 1, all.sum, epoch);
            }
            continue;
        }
        all = merge_splits<d_head>(args, task, all, i);
        activation_store(args.session.attention + task.head * d_head + i, all.output / all.sum,
                         epoch);
    }
    if (task.split == 0 && thread == 0)
        gpu_count(counter_of(args, CF_COUNTER_ATTENTION));
}

template <int d_head>
static __device__ __forceinline__ head_task make_task(const cf_token_args &args, int32_t layer,
                                                      int32_t item)
{
    head_task task;
    int32_t n_pos = args.step.pos + 1, n_splits = args.step.n_splits;
    int32_t per_split = (n_pos + n_splits - 1) / n_splits;
    task.layer = layer;
    task.head = item / n_splits;
    task.split = item % n_splits;
    task.begin = task.split * per_split;
    task.end = min(n_pos, task.begin + per_split);
    int64_t row =
        (int64_t)(layer * args.model.schedule.shape.n_heads + task.head) * args.session.n_context;
    task.keys = args.session.keys + row * d_head;
    task.values = args.session.values + row * d_head;
    return task;
}

/* The cache's part can come before q is known. */
template <int d_head> static __device__ __forceinline__ void prefetch_cache(const head_task &task)
{
    uint32_t n_bytes = 2 * d_head * max(task.end - task.begin, 0);
    thread_prefetch(task.keys + (int64_t)task.begin * d_head, n_bytes);
    thread_prefetch(task.values + (int64_t)task.begin * d_head, n_bytes);
}

template <int d_head>
static __device__ __forceinline__ void stage_attention(const cf_token_args &args, int thread)
{
    const cf_schedule &schedule = args.model.schedule;
    const cf_phase &qkv = schedule.phases[0];
    int32_t n_items = schedule.shape.n_heads * args.step.n_splits;
    for (int32_t layer = 0; layer < schedule.shape.n_layers; layer++)
        for (int32_t item = blockIdx.x; item < n_items; item += gridDim.x) {
            head_task task = make_task<d_head>(args, layer, item);
            if (thread == 0) {
                prefetch_cache<d_head>(task);
                gpu_wait_count(counter_of(args, 0), layer_epoch(args, layer) * qkv.n_blocks);
                trace(args, layer, CF_TRACE_ATTENTION_BEGIN);
            }
            attention_sync(); /* the work space is free, q, k and v are on their way */
            prepare<d_head>(args, task, fresh(thread));
            attend_positions<d_head>(args, task, fresh(thread));
            attention_sync(); /* publishes the warps' parts */
            deliver_head<d_head>(args, task, fresh(thread));
            if (thread == 0)
                trace(args, layer, CF_TRACE_ATTENTION_DONE);
        }
}

#endif
