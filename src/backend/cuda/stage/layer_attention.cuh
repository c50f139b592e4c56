/*
 * Flash decoding of the layer kernel. A block takes a range of positions of one head; with a long
 * context several blocks share a head. Within a warp, `lanes` lanes have a position, 16 bytes each
 * of its key and value, and as many positions are taken at a time as fit. The cache is read where
 * it lies; each group of lanes keeps a softmax of its own, and these are merged at the end.
 */
#ifndef CF_CUDA_STAGE_LAYER_ATTENTION_CUH
#define CF_CUDA_STAGE_LAYER_ATTENTION_CUH

#include "backend/cuda/stage/layer_block.cuh"
#include "backend/cuda/stage/softmax_part.cuh"

#define LANE_WIDTH 8       /* elements of a lane */
#define BATCH_POSITIONS 4  /* of a group of lanes, under way together */
#define LOG2_E 1.44269504f /* weights are powers of two */

/* How this block's helpers lie over its part of a head. */
struct layer_head {
    int32_t head, split; /* head -1: none */
    int32_t begin, end;  /* cached positions */
    bool has_new;        /* the new position belongs to this part */
    int32_t d_head;
    int32_t lanes, n_groups; /* lanes of a position, positions that all helpers take at a time */
};

/* The work space in shared memory: see attention_bytes() of the host. */
struct layer_attention_space {
    float *query, *key, *value; /* [d_head] of the new position; the query is scaled */
    float *raw;                 /* [3 d_head] as they come */
    float *cosines, *sines;     /* [d_rotary] of the new position */
    float *partner;             /* [d_head + 2] the paired block's part: output, maximum, sum */
    float *maxima, *weights;    /* [n_groups + 1] */
    float *outputs;             /* [n_groups][d_head] */
};

static __device__ __forceinline__ layer_head head_of_block(const cf_layer_args &args)
{
    int32_t n_pos = args.tensors.n_cached + 1, n_splits = args.n_splits;
    int32_t per_split = (n_pos + n_splits - 1) / n_splits;
    layer_head task;
    task.head = blockIdx.x / n_splits;
    task.split = blockIdx.x - task.head * n_splits;
    task.begin = min(task.split * per_split, n_pos);
    int32_t end = min(n_pos, task.begin + per_split);
    task.end = min(end, n_pos - 1);
    task.has_new = end == n_pos && task.begin < n_pos;
    task.d_head = args.plan.d_head;
    task.lanes = task.d_head / LANE_WIDTH;
    task.n_groups = 32 / task.lanes * CF_LAYER_N_HELPERS;
    if (task.head >= args.plan.options.n_heads)
        task.head = -1;
    return task;
}

static __device__ __forceinline__ layer_attention_space
attention_space_of(const cf_layer_args &args, const layer_head &task)
{
    float *memory = layer_at<float>(args.plan.layout.attention);
    layer_attention_space space;
    space.query = memory;
    space.key = space.query + task.d_head;
    space.value = space.key + task.d_head;
    space.raw = space.value + task.d_head;
    space.cosines = space.raw + 3 * task.d_head;
    space.sines = space.cosines + task.d_head;
    space.partner = space.sines + task.d_head;
    space.maxima = space.partner + task.d_head + 2;
    space.weights = space.maxima + 2 * (task.n_groups + 1); /* maxima, then sums */
    space.outputs = space.weights + task.n_groups + 1;
    return space;
}

/* Element i of q or k after rotation; pairs are (i, i + half). */
static __device__ __forceinline__ float rotated_element(const cf_layer_args &args,
                                                        const layer_attention_space &space,
                                                        const float *raw, int i)
{
    int32_t d_rotary = args.plan.options.d_rotary, half = d_rotary / 2;
    if (i >= d_rotary)
        return raw[i];
    float other = i < half ? -raw[i + half] : raw[i - half];
    return raw[i] * space.cosines[i] + other * space.sines[i];
}

/* The value of a packet first read as `v`, when it is of `epoch`; all lanes of a warp wait together
 * (packet.cuh). */
static __device__ __forceinline__ float await_packet(uint64_t v, const uint64_t *packet,
                                                     uint32_t epoch)
{
    uint64_t begin = watchdog_begin();
    while (__any_sync(WARP_ALL, !partial_is_of(v, epoch))) {
        __nanosleep(LATE_PAUSE_NS);
        watchdog_check(begin);
        v = gpu_load(packet);
    }
    return partial_value(v);
}

/* Fetched before q is there: they come from far. */
static __device__ __forceinline__ void fetch_rotation(const cf_layer_args &args,
                                                      const layer_attention_space &space,
                                                      int thread)
{
    for (int32_t i = thread; i < args.plan.options.d_rotary; i += N_HELPER_THREADS) {
        space.cosines[i] = args.tensors.cosines[i];
        space.sines[i] = args.tensors.sines[i];
    }
}

/* Brings q, k and v of the new position, rotates them, and writes the cache and the outputs. */
template <class format>
static __device__ __forceinline__ void prepare_head(const cf_layer_args &args,
                                                    const layer_head &task,
                                                    const layer_attention_space &space, int thread)
{
    const uint64_t *packets = args.scratch.qkv + (int64_t)task.head * 3 * task.d_head;
    uint32_t epoch = layer_shared().epoch;
    for (int first = 0; first < 3 * task.d_head; first += 2 * N_HELPER_THREADS) {
        int i =
            min(first + 2 * thread, 3 * task.d_head - 2); /* lanes beyond bring the last again */
        *reinterpret_cast<float2 *>(space.raw + i) = partials_await(packets + i, epoch);
    }
    helpers_sync(); /* publishes `raw`, cosines and sines */
    float scale = LOG2_E * rsqrtf((float)task.d_head);
    int64_t row = (int64_t)args.tensors.n_cached * args.plan.options.d_model;
    for (int32_t i = thread; i < task.d_head; i += N_HELPER_THREADS) {
        int32_t element = task.head * task.d_head + i;
        uint16_t key = narrowed<format>(rotated_element(args, space, space.raw + task.d_head, i));
        uint16_t value = narrowed<format>(space.raw[2 * task.d_head + i]);
        space.query[i] = rotated_element(args, space, space.raw, i) * scale;
        space.key[i] = widened<format>(&key, 0);
        space.value[i] = widened<format>(&value, 0);
        if (task.has_new) {
            static_cast<uint16_t *>(args.tensors.k_cache)[row + element] = key;
            static_cast<uint16_t *>(args.tensors.v_cache)[row + element] = value;
            static_cast<uint16_t *>(args.tensors.k_new)[element] = key;
            static_cast<uint16_t *>(args.tensors.v_new)[element] = value;
        }
    }
    helpers_sync(); /* publishes query, key and value */
}

/* A group's place among the positions, and a lane's in the head. */
struct layer_lane {
    int32_t group, first; /* first element of the lane */
    bool is_used;
};

static __device__ __forceinline__ layer_lane lane_of(const layer_head &task, int thread)
{
    int32_t lane = thread % 32, per_warp = 32 / task.lanes, within = lane / task.lanes;
    bool is_used = within < per_warp;
    return {thread / 32 * per_warp + min(within, per_warp - 1),
            (lane - within * task.lanes) * LANE_WIDTH, is_used};
}

/* Keys and values of a group's next positions. */
struct layer_batch {
    uint4 keys[BATCH_POSITIONS], values[BATCH_POSITIONS];
};

static __device__ __forceinline__ void load_batch(const cf_layer_args &args, const layer_head &task,
                                                  const layer_lane &lane, int32_t first,
                                                  layer_batch &batch)
{
    const uint16_t *keys = static_cast<const uint16_t *>(args.tensors.k_cache);
    const uint16_t *values = static_cast<const uint16_t *>(args.tensors.v_cache);
#pragma unroll
    for (int k = 0; k < BATCH_POSITIONS; k++) {
        int32_t pos = first + k * task.n_groups + lane.group;
        int64_t at =
            (int64_t)pos * args.plan.options.d_model + task.head * task.d_head + lane.first;
        bool is_there = pos < task.end && lane.is_used;
        batch.keys[k] =
            is_there ? *reinterpret_cast<const uint4 *>(keys + at) : make_uint4(0, 0, 0, 0);
        batch.values[k] =
            is_there ? *reinterpret_cast<const uint4 *>(values + at) : make_uint4(0, 0, 0, 0);
    }
}

/* The sum over a group of lanes, in its first lane: halves while they are even, the rest in turn.
 */
static __device__ __forceinline__ float group_sum(float value, int32_t lanes)
{
    while (lanes % 2 == 0) {
        lanes /= 2;
        value += __shfl_down_sync(WARP_ALL, value, lanes);
    }
    float sum = value;
    for (int32_t i = 1; i < lanes; i++)
        sum += __shfl_down_sync(WARP_ALL, value, i);
    return sum;
}

/* The softmax of a group so far. */
struct layer_softmax {
    float maximum, sum, output[LANE_WIDTH];
};

template <class format>
static __device__ __forceinline__ void attend_batch(const layer_head &task, const layer_lane &lane,
                                                    const float (&query)[LANE_WIDTH],
                                                    const layer_batch &batch, int32_t first,
                                                    layer_softmax &state)
{
    float exponents[BATCH_POSITIONS], maximum = state.maximum;
    int32_t leader = threadIdx.x % 32 - lane.first / LANE_WIDTH;
#pragma unroll
    for (int k = 0; k < BATCH_POSITIONS; k++) {
        float key[LANE_WIDTH], sum = 0;
        unpack8<format>(key, batch.keys[k]);
#pragma unroll
        for (int i = 0; i < LANE_WIDTH; i++)
            sum = fmaf(query[i], key[i], sum);
        sum = __shfl_sync(WARP_ALL, group_sum(sum, task.lanes), leader);
        bool is_there = first + k * task.n_groups + lane.group < task.end;
        exponents[k] = is_there ? sum : -INFINITY;
        maximum = fmaxf(maximum, exponents[k]);
    }
    float keep = exp2f(state.maximum - maximum);
    state.maximum = maximum;
    state.sum *= keep;
#pragma unroll
    for (int i = 0; i < LANE_WIDTH; i++)
        state.output[i] *= keep;
#pragma unroll
    for (int k = 0; k < BATCH_POSITIONS; k++) {
        float value[LANE_WIDTH], weight = exp2f(exponents[k] - maximum);
        unpack8<format>(value, batch.values[k]);
        state.sum += weight;
#pragma unroll
        for (int i = 0; i < LANE_WIDTH; i++)
            state.output[i] = fmaf(weight, value[i], state.output[i]);
    }
}

/* Leaves each group's result in shared memory. The sums stand behind the maxima. */
static __device__ __forceinline__ void leave_group(const layer_head &task, const layer_lane &lane,
                                                   const layer_attention_space &space,
                                                   const layer_softmax &state)
{
    if (!lane.is_used)
        return;
    float *output = space.outputs + lane.group * task.d_head + lane.first;
#pragma unroll
    for (int i = 0; i < LANE_WIDTH; i++)
        output[i] = state.output[i];
    if (lane.first == 0) {
        space.maxima[lane.group] = state.maximum;
        space.maxima[task.n_groups + 1 + lane.group] = state.sum;
    }
}

/* The new position as one more group: its exponent, and 1 as the sum. */
static __device__ __forceinline__ void leave_new(const layer_head &task,
                                                 const layer_attention_space &space, int thread)
{
    float sum = 0;
    if (thread >= 32)
        return;
    for (int i = thread; i < task.d_head; i += 32)
        sum = fmaf(space.query[i], space.key[i], sum);
    sum = warp_sum(sum);
    if (thread == 0) {
        space.maxima[task.n_groups] = task.has_new ? sum : -1e30f;
        space.maxima[2 * task.n_groups + 1] = task.has_new ? 1 : 0;
    }
}

/* Finds the weight of each group and the new position; returns the largest exponent. */
static __device__ __forceinline__ float weigh_groups(const layer_head &task,
                                                     const layer_attention_space &space, int thread)
{
    int32_t n = task.n_groups + 1;
    float maximum = -1e30f;
    for (int32_t g = 0; g < n; g++)
        maximum = fmaxf(maximum, space.maxima[g]);
    if (thread < n)
        space.weights[thread] = exp2f(space.maxima[thread] - maximum);
    helpers_sync(); /* publishes `weights` */
    return maximum;
}

/* Element i of the block's part: the groups, in their order, and the new position. */
static __device__ __forceinline__ softmax_part merge_groups(const layer_head &task,
                                                            const layer_attention_space &space,
                                                            float maximum, int i)
{
    const float *sums = space.maxima + task.n_groups + 1;
    softmax_part part = {maximum, 0, 0};
#pragma unroll 4
    for (int32_t g = 0; g < task.n_groups; g++) {
        part.sum = fmaf(space.weights[g], sums[g], part.sum);
        part.output = fmaf(space.weights[g], space.outputs[g * task.d_head + i], part.output);
    }
    float weight = space.weights[task.n_groups] * sums[task.n_groups];
    part.sum += weight;
    part.output = fmaf(weight, space.value[i], part.output);
    return part;
}

/* Where another block finds a split's part: d_head elements, maximum, sum. */
static __device__ __forceinline__ uint64_t *part_packets(const cf_layer_args &args,
                                                         const layer_head &task, int32_t split)
{
    return args.scratch.partials +
           (int64_t)(task.head * args.plan.max_splits + split) * (task.d_head + 2);
}

static __device__ __forceinline__ void publish_split(const cf_layer_args &args,
                                                     const layer_head &task, softmax_part part,
                                                     int i)
{
    uint64_t *packets = part_packets(args, task, task.split);
    uint32_t epoch = layer_shared().epoch;
    publish_part(packets, task.d_head, part, epoch, i);
}

/* Adds the splits that come this way, in their order; loads of several are under way at a time. */
static __device__ __forceinline__ softmax_part merge_parts(const cf_layer_args &args,
                                                           const layer_head &task, softmax_part all,
                                                           int i)
{
    uint32_t epoch = layer_shared().epoch;
    int32_t d_head = task.d_head;
    int32_t step = published_step(args.has_pairs), first_split = first_published(args.has_pairs);
#pragma unroll 3
    for (int32_t split = first_split; split < args.n_splits; split += step) {
        const uint64_t *packets = part_packets(args, task, split);
        uint64_t first = gpu_load(packets + d_head), second = gpu_load(packets + d_head + 1);
        uint64_t third = gpu_load(packets + i);
        softmax_part part = {await_packet(first, packets + d_head, epoch),
                             await_packet(second, packets + d_head + 1, epoch),
                             await_packet(third, packets + i, epoch)};
        all = merged(all, part);
    }
    return all;
}

/*
 * A long cache's rows into L2, a share a block, while q, k and v are made. One warp's lanes issue
 * them: a row is one piece.
 */
static __device__ __forceinline__ void prefetch_cache(const cf_layer_args &args, int thread)
{
    int64_t row_bytes = 2 * args.plan.options.d_model;
    if (thread >= 32 || args.n_splits == 1)
        return;
    for (int64_t row = blockIdx.x + thread * gridDim.x; row < args.tensors.n_cached;
         row += 32 * gridDim.x) {
        prefetch_bytes(static_cast<const char *>(args.tensors.k_cache) + row * row_bytes,
                       row_bytes);
        prefetch_bytes(static_cast<const char *>(args.tensors.v_cache) + row * row_bytes,
                       row_bytes);
    }
}

/* From the groups' results to the head's output, or to what another block makes it of. */
static __device__ __forceinline__ void deliver_head(const cf_layer_args &args,
                                                    const layer_head &task,
                                                    const layer_attention_space &space, int thread)
{
    float maximum = weigh_groups(task, space, thread);
    for (int first = 0; first < task.d_head; first += N_HELPER_THREADS) {
        if (first + thread / 32 * 32 >= task.d_head)
            continue;
        bool is_own =
            first + thread < task.d_head; /* lanes beyond go along with the last element */
        int i = is_own ? first + thread : task.d_head - 1;
        softmax_part part = merge_groups(task, space, maximum, i);
        if (gives_part(args.has_pairs, task.split)) {
            if (is_own)
                give_part(space.partner, &layer_shared().partner, task.d_head, part, i);
            continue;
        }
        if (takes_part(args.has_pairs, task.split, args.n_splits)) {
            pair_await(&layer_shared().partner, 0);
            part = merged(part, given_part(space.partner, task.d_head, i));
        }
        if (task.split > 0) {
            if (is_own)
                publish_split(args, task, part, i);
            continue;
        }
        part = merge_parts(args, task, part, i);
        if (is_own)
            activation_store(args.scratch.attention + task.head * task.d_head + i,
                             part.output / part.sum, layer_shared().epoch);
    }
    if (task.split == 0 && thread == 0)
        gpu_count(layer_counter(args, CF_LAYER_COUNT_ATTENTION));
}

template <class format>
static __device__ __forceinline__ void stage_layer_attention(const cf_layer_args &args, int thread)
{
    layer_head task = head_of_block(args);
    if (task.head < 0)
        return;
    layer_attention_space space = attention_space_of(args, task);
    layer_lane lane = lane_of(task, thread);
    layer_softmax state = {-1e30f, 0, {}};
    if (takes_part(args.has_pairs, task.split, args.n_splits) && thread == 0)
        pair_expect(&layer_shared().partner, part_bytes(task.d_head));
    layer_batch batch, next;
    load_batch(args, task, lane, task.begin, batch); /* does not need the query */
    fetch_rotation(args, space, thread);
    /* With a short context the stream is what limits, and looking at the values slows it. */
    if (args.n_splits == 1)
        helpers_await(args, CF_LAYER_COUNT_QKV, thread);
    prepare_head<format>(args, task, space, thread);
    float query[LANE_WIDTH];
#pragma unroll
    for (int i = 0; i < LANE_WIDTH; i++)
        query[i] = space.query[lane.first + i];
    int32_t step = BATCH_POSITIONS * task.n_groups;
#pragma unroll 1
    for (int32_t first = task.begin; first < task.end; first += step) {
        load_batch(args, task, lane, first + step, next);
        attend_batch<format>(task, lane, query, batch, first, state);
        batch = next;
    }
    leave_group(task, lane, space, state);
    leave_new(task, space, thread);
    helpers_sync(); /* publishes the groups' results */
    deliver_head(args, task, space, thread);
}

#endif
