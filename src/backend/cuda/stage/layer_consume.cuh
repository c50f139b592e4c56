/* The consumers of the layer kernel: each warp multiplies every n-th tile and delivers the sums. */
#ifndef CF_CUDA_STAGE_LAYER_CONSUME_CUH
#define CF_CUDA_STAGE_LAYER_CONSUME_CUH

#include "backend/cuda/stage/activation.cuh"
#include "backend/cuda/stage/layer_tasks.cuh"
#include "backend/cuda/stage/product.cuh"

/* GELU's tanh form by the hardware's tanh where there is one; the others as in the token kernel. */
static __device__ __forceinline__ float layer_activate(cf_activation activation, float x)
{
    if (activation != CF_ACTIVATION_GELU_TANH)
        return activate(activation, x);
    float tanh;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tanh) : "f"(0.79788456f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1 + tanh);
}

/* A lane's bias as it lies; of down's chunks the first brings it. */
static __device__ __forceinline__ uint32_t load_bias(const cf_layer_args &args,
                                                     const layer_task &task, int lane)
{
    const cf_layer_tensors &tensors = args.tensors;
    int32_t matrix = task.matrix();
    const void *bias = matrix == CF_LAYER_QKV     ? tensors.qkv_bias
                       : matrix == CF_LAYER_UP    ? tensors.up_bias
                       : matrix == CF_LAYER_DENSE ? tensors.dense_bias
                                                  : tensors.down_bias;
    if (lane >= task.n_rows() || (matrix == CF_LAYER_DOWN && task.chunk() > 0))
        return 0;
    return static_cast<const uint16_t *>(bias)[task.row + lane];
}

/* Counts a tile of qkv or up; the block's last one tells the others. */
static __device__ __forceinline__ void count_layer_tile(const cf_layer_args &args,
                                                        const layer_task &task, int lane)
{
    int32_t count =
        task.matrix() == CF_LAYER_QKV ? CF_LAYER_COUNT_QKV : CF_LAYER_COUNT_UP + task.chunk();
    __syncwarp();
    if (lane == 0 && atomicSub_block(&layer_shared().n_left[count], 1) == 1)
        gpu_count(layer_counter(args, count));
}

/* Which of an output row's sums a consumer makes; of down's chunks a helper makes the next one. */
static __device__ __forceinline__ int32_t part_of(const layer_task &task)
{
    return task.matrix() == CF_LAYER_DENSE ? 0 : 1 + 2 * task.chunk();
}

/*
 * Leaves a part of an output row's sum. The lane whose part is the last adds all, in their order,
 * to the hidden state.
 */
template <class format>
static __device__ __forceinline__ void leave_row(const cf_layer_args &args, int32_t row,
                                                 int32_t own_row, int32_t part, float sum)
{
    const cf_layer_plan &plan = args.plan;
    float *parts = layer_at<float>(plan.layout.partials) + own_row * plan.n_parts;
    uint32_t *arrivals = layer_at<uint32_t>(plan.layout.arrivals) + own_row, n_before;
    parts[part] = sum;
    /* Publishes this lane's part, acquires those of the lanes that came before. */
    asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], 1;"
                 : "=r"(n_before)
                 : "r"(shared_address(arrivals))
                 : "memory");
    if (n_before + 1 < (uint32_t)plan.n_parts)
        return;
    float total = 0;
    for (int32_t p = 0; p < plan.n_parts; p++)
        total += parts[p];
    store_element<format>(args.tensors.output, row,
                          layer_at<float>(plan.layout.hidden)[own_row] + total);
}

template <class format>
static __device__ __forceinline__ void deliver_rows(const cf_layer_args &args,
                                                    const layer_task &task, float sum, int lane)
{
    bool whole = args.plan.options.whole, has_row = lane < task.n_rows();
    int32_t matrix = task.matrix(), row = task.row + lane;
    uint32_t epoch = layer_shared().epoch;
    if (matrix == CF_LAYER_QKV) {
        if (has_row)
            partial_store(args.scratch.qkv + row, sum, epoch);
        count_layer_tile(args, task, lane);
    } else if (matrix == CF_LAYER_UP) {
        sum = layer_activate(args.plan.options.activation, sum);
        if (has_row && whole)
            activation_store(args.scratch.ffn + row, sum, epoch);
        else if (has_row)
            store_element<format>(args.tensors.mlp, row, sum);
        if (whole)
            count_layer_tile(args, task, lane);
    } else if (has_row && whole) {
        leave_row<format>(args, row, task.own_row + lane, part_of(task), sum);
    } else if (has_row) {
        store_element<format>(args.tensors.output, row, sum);
    }
}

/* Protects the slot's next tile: all lanes have read their part of this one. */
static __device__ __forceinline__ void leave_slot(ring_place place, uint32_t n_uses, int lane)
{
    __syncwarp();
    if (lane == 0)
        barrier_arrive(&layer_shared().empty[place.slot], n_uses);
}

/* The consumer has no tile left that comes before down's. */
static __device__ __forceinline__ void let_help(const cf_layer_plan &plan, int lane)
{
    if (plan.options.whole)
        barrier_arrive_warp(&layer_shared().helped, lane);
}

template <class format>
static __device__ __forceinline__ void stage_layer_consume(const cf_layer_args &args, int warp,
                                                           int lane)
{
    const cf_layer_plan &plan = args.plan;
    layer_block &block = layer_shared();
    cf_layer_share share = block.share;
    if (warp >= share.n_tiles) {
        let_help(plan, lane);
        return;
    }
    task_list tasks = {open_tasks(plan, share, warp, plan.n_consumers, lane), 0};
    layer_task task = tasks.take(plan, share, warp, plan.n_consumers, lane);
    uint32_t bias = load_bias(args, task, lane);
    ring_place place = {warp, 0};
    bool is_down = false;
#pragma unroll 1
    for (int32_t t = warp; t < share.n_tiles; t += plan.n_consumers) {
        layer_task next = tasks.take(plan, share, t + plan.n_consumers, plan.n_consumers, lane);
        /* Fetched a tile ahead, and not touched before: it comes from far. */
        uint32_t next_bias = load_bias(args, next, lane);
        if (!is_down && task.matrix() == CF_LAYER_DOWN) {
            is_down = true;
            let_help(plan, lane);
        }
        barrier_wait(&block.ready[task.input()], 0);
        barrier_wait(&block.full[place.slot], place.parity);
        const char *weights = layer_at<char>(plan.layout.ring) + place.slot * plan.slot_bytes;
        const char *vector = layer_at<char>(plan.layout.vectors[task.input()]);
        float sum = tile_product<format>(weights, vector, task.n_rows(), task.n_own(), lane);
        leave_slot(place, is_down ? 1 : SLOT_USES, lane);
        deliver_rows<format>(args, task, sum + format::unpack(bias).x, lane);
        ring_advance(place, plan.n_consumers, plan.n_slots);
        task = next;
        bias = next_bias;
    }
    if (!is_down)
        let_help(plan, lane);
}

/*
 * The last columns of each of a consumer's tiles of down, by a helper. The consumer has waited for
 * all tiles before these: so the parity of a slot's barrier tells this one.
 */
template <class format>
static __device__ __forceinline__ void stage_layer_assist(const cf_layer_args &args, int warp,
                                                          int lane)
{
    const cf_layer_plan &plan = args.plan;
    layer_block &block = layer_shared();
    cf_layer_share share = block.share;
    int32_t first = share.n_free + share.n_units, n_warps = plan.n_consumers;
    first += (warp + n_warps - first % n_warps) % n_warps;
    ring_place place = {first % plan.n_slots, (uint32_t)(first / plan.n_slots) & 1};
    task_list tasks = {open_tasks(plan, share, first, n_warps, lane), 0};
    barrier_wait(&block.helped, 0);
#pragma unroll 1
    for (int32_t t = first; t < share.n_tiles; t += n_warps) {
        layer_task task = tasks.take(plan, share, t, n_warps, lane);
        const char *weights = layer_at<char>(plan.layout.ring) + place.slot * plan.slot_bytes;
        const char *vector = layer_at<char>(plan.layout.vectors[task.input()]);
        barrier_wait(&block.ready[task.input()], 0);
        barrier_wait(&block.full[place.slot], place.parity);
        float sum = tile_product<format>(weights + 2 * task.n_own(), vector + 2 * task.n_own(), 1,
                                         task.n_others(), lane);
        leave_slot(place, 1, lane);
        if (lane == 0)
            leave_row<format>(args, task.row, task.own_row, part_of(task) + 1, sum);
        ring_advance(place, n_warps, plan.n_slots);
    }
}

#endif
