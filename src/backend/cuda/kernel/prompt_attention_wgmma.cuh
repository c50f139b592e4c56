/*
 * Attention of a prompt on Hopper's tensor cores, which a warpgroup of four warps uses together: it
 * has 64 queries, and a block has some such groups, that walk the KV cache in tiles of keys and
 * values, each at its own pace. While the next tile's scores become weights, this tile's values are
 * still being added (Shah and others, FlashAttention-3, 2024).
 *
 * The code is there in images for sm_90a only. In all others the kernels are empty and take no
 * block of more than a warp, which is how the host learns what it has got.
 */
#ifndef CF_CUDA_KERNEL_PROMPT_ATTENTION_WGMMA_CUH
#define CF_CUDA_KERNEL_PROMPT_ATTENTION_WGMMA_CUH

#include "backend/cuda/device/format.cuh"
#include "backend/cuda/device/mma.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/kernel/prompt.h"
#include "backend/cuda/kernel/prompt_attention_tiles.cuh"

#include <math_constants.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

#define GROUP_BOUNDS(shape) __launch_bounds__(shape::n_threads, shape::n_blocks)

/* Weights are relative to the largest score so far, or to one that was smaller by up to 8 in powers
 * of two: float16 holds 256 as precisely as 1, and what was added up is rarely rescaled. */
#define MOST_GROWTH 8.0f

/* What a warp knows of its 16 queries: of its lanes' two rows the score that weights are relative
 * to and the sum of the weights in the lane's columns, the sums of the values, and the last tile's
 * weights. */
template <class shape> struct group_state {
    float values[shape::d_head / 8][4];
    uint32_t weights[shape::n_keys / 16][4];
    float sum[2], most[2];
};

/* The group's queries: an operand in shared memory, of which the tensor cores read what is not in
 * registers; what registers are left for spares its bandwidth. */
template <class shape> struct group_queries {
    uint64_t operand;
    uint32_t registers[shape::n_kept > 0 ? shape::n_kept : 1][4];
};

template <class shape> using group_scores = float[shape::n_keys / 8][4];

/* `rows` are the block's. */
template <class shape>
static __device__ __forceinline__ void group_take_queries(group_queries<shape> &queries,
                                                          const uint16_t *rows, int warp)
{
    int lane = threadIdx.x % 32;
    queries.operand =
        operand_of_rows<8>(rows + warp / 4 * N_GROUP_ROWS * 8, 2 * shape::query_column);
    rows += (16 * warp + lane % 16) * 8 + lane / 16 * shape::query_column;
#pragma unroll
    for (int k = 0; k < shape::n_kept; k++)
        warp_load_matrices(queries.registers[k], rows + 2 * k * shape::query_column);
}

/* scores += queries keysᵀ in 16 columns, from number `d` on: `keys` are their operand. */
template <class shape>
static __device__ __forceinline__ void group_score_columns(group_scores<shape> &scores,
                                                           const group_queries<shape> &queries,
                                                           int d, uint64_t keys)
{
    if (d / 16 < shape::n_kept)
        group_multiply<false>(scores, d == 0, queries.registers[d / 16], keys);
    else
        group_multiply(scores, d == 0,
                       operand_further(queries.operand, d / 4 * shape::query_column), keys);
}

/* Begins scores = queries keysᵀ */
template <class shape>
static __device__ __forceinline__ void group_score(group_scores<shape> &scores,
                                                   const group_queries<shape> &queries,
                                                   const uint16_t *keys)
{
    constexpr int n_keys = shape::n_keys, d_part = shape::d_part;
    uint64_t parts = operand_of_rows<d_part>(keys, 0);
#pragma unroll
    for (int d = 0; d < shape::d_head; d += 16)
        group_score_columns<shape>(
            scores, queries, d,
            operand_further(parts, 2 * (d / d_part * d_part * n_keys + d % d_part)));
    products_commit();
}

/* Begins values += weights × values of the tile */
template <class shape>
static __device__ __forceinline__ void group_add_values(group_state<shape> &state,
                                                        const uint16_t *values)
{
    constexpr int n_keys = shape::n_keys;
    uint64_t parts = operand_transposed<shape::d_part>(values, 2 * n_keys * shape::d_part);
#pragma unroll
    for (int k = 0; k < n_keys; k += 16)
        group_multiply<true>(state.values, false, state.weights[k / 16],
                             operand_further(parts, 2 * k * shape::d_part));
    products_commit();
}

/* No query sees a later key: the group's row r sees those up to `last` + r; and none before
 * `first`. */
template <class shape>
static __device__ __forceinline__ void group_mask(group_scores<shape> &scores, int32_t first,
                                                  int32_t last)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x % N_GROUP_THREADS / 32;
    int32_t column = 2 * (lane % 4), seen = last + 16 * warp + lane / 4 - column;
#pragma unroll
    for (int n = 0; n < shape::n_keys / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 > seen + i / 2 * 8 || 8 * n + i % 2 < first - column)
                scores[n][i] = -CUDART_INF_F;
}

/* The largest score of row `i` so far. */
template <class shape>
static __device__ __forceinline__ float group_row_most(const group_state<shape> &state,
                                                       const group_scores<shape> &scores, int i)
{
    float most = state.most[i];
#pragma unroll
    for (int n = 0; n < shape::n_keys / 8; n++)
        most = fmaxf(most, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
    return quad_max(most);
}

/* Turns row `i` of a tile's scores into weights, relative to state.most, and adds them up. */
template <class shape>
static __device__ __forceinline__ void group_soften_row(group_state<shape> &state,
                                                        group_scores<shape> &scores, int i,
                                                        float scale)
{
    float shift = state.most[i] * scale, sum = 0;
#pragma unroll
    for (int n = 0; n < shape::n_keys / 8; n++)
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; j++) {
            scores[n][j] = power_of_two(fmaf(scores[n][j], scale, -shift));
            sum += scores[n][j];
        }
    state.sum[i] += sum;
}

/*
 * Chooses what this tile's weights and all before are relative to: the largest scores so far, if
 * one of the warp's rows has outgrown its own. Returns whether, and what values then shrink by.
 */
template <class shape>
static __device__ __forceinline__ bool group_rebase(group_state<shape> &state,
                                                    const group_scores<shape> &scores, float scale,
                                                    float (&factors)[2])
{
    float most[2] = {group_row_most<shape>(state, scores, 0),
                     group_row_most<shape>(state, scores, 1)};
    float growth = fmaxf(most[0] - state.most[0], most[1] - state.most[1]);
    bool grows = __any_sync(WARP_ALL, growth * scale > MOST_GROWTH);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        most[i] = grows ? most[i] : state.most[i];
        factors[i] = power_of_two((state.most[i] - most[i]) * scale);
        state.sum[i] *= factors[i];
        state.most[i] = most[i];
    }
    return grows;
}

template <class shape>
static __device__ __forceinline__ void group_keep_weights(group_state<shape> &state,
                                                          const group_scores<shape> &weights)
{
#pragma unroll
    for (int k = 0; k < shape::n_keys / 8; k++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            state.weights[k / 2][k % 2 * 2 + i] =
                pack_f16(weights[k][2 * i], weights[k][2 * i + 1]);
}

/* Turn -1: the first tile's keys. `last` is as for group_mask(). */
template <class shape>
static __device__ __forceinline__ void group_begin(group_state<shape> &state,
                                                   const group_queries<shape> &queries,
                                                   const tile_walk<shape> &walk, int32_t last,
                                                   float scale)
{
    group_scores<shape> scores;
    tile_await(walk, TILE_KEYS, 0);
    products_begin();
    group_score<shape>(scores, queries, tile_place<shape>(walk.shared, TILE_KEYS, 0));
    products_await<0>();
    products_take(scores);
    group_mask<shape>(scores, -walk.first_key, last);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        state.most[i] = group_row_most<shape>(state, scores, i);
        group_soften_row<shape>(state, scores, i, scale);
    }
    group_keep_weights<shape>(state, scores);
}

/* A turn: the next tile's keys, and meanwhile this one's values. The turn before is left where the
 * warp would only wait. */
template <class shape, bool is_masked>
static __device__ __forceinline__ void group_turn(group_state<shape> &state,
                                                  const group_queries<shape> &queries,
                                                  const tile_walk<shape> &walk, int32_t turn,
                                                  int32_t last, float scale)
{
    group_scores<shape> scores;
    float factors[2];
    tile_await(walk, TILE_KEYS, turn + 1);
    tile_await(walk, TILE_VALUES, turn);
    products_begin();
    group_score<shape>(scores, queries, tile_place<shape>(walk.shared, TILE_KEYS, turn + 1));
    group_add_values<shape>(state, tile_place<shape>(walk.shared, TILE_VALUES, turn));
    tile_leave(walk, turn - 1);
    products_await<1>();
    products_take(scores);
    if (is_masked)
        group_mask<shape>(scores, 0, last);
    bool grows = group_rebase<shape>(state, scores, scale, factors);
    group_soften_row<shape>(state, scores, 0, scale);
    group_soften_row<shape>(state, scores, 1, scale);
    products_let_pass(state.sum[0] + state.sum[1]);
    products_await<0>();
    products_take(state.values);
    products_release(state.weights);
    if (grows)
#pragma unroll
        for (int d = 0; d < shape::d_head / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                state.values[d][i] *= factors[i / 2];
    group_keep_weights<shape>(state, scores);
}

/* The group's last turn: only values. */
template <class shape>
static __device__ __forceinline__ void group_end(group_state<shape> &state,
                                                 const tile_walk<shape> &walk, int32_t turn)
{
    tile_await(walk, TILE_VALUES, turn);
    products_begin();
    group_add_values<shape>(state, tile_place<shape>(walk.shared, TILE_VALUES, turn));
    tile_leave(walk, turn - 1);
    products_await<0>();
    products_take(state.values);
    products_release(state.weights);
}

/* What a block has to do, and of it a warp's group. */
struct group_part {
    int32_t head, first; /* query of the span */
    int32_t pos;         /* of that query */
    int32_t n_rows;      /* queries; none if not above 0 */
    int32_t n_mine;      /* the group's */
    int warp;
};

/* The last queries see the most keys: they begin. */
template <class shape>
static __device__ __forceinline__ group_part group_part_of(const cf_prompt_attention &args,
                                                           unsigned block, unsigned thread)
{
    group_part part;
    unsigned n_heads = (unsigned)args.n_heads;
    cf_prompt_span span = *args.span;
    /* Of lane 0, so that the compiler knows it to be the same in a warp. */
    part.warp = __shfl_sync(WARP_ALL, (int)thread / 32, 0);
    part.head = (int32_t)(block % n_heads);
    part.first = (int32_t)((gridDim.x - 1 - block) / n_heads) * shape::n_queries;
    part.pos = span.pos + part.first;
    part.n_rows = min(span.n - part.first, shape::n_queries);
    part.n_mine = min(part.n_rows - part.warp / 4 * N_GROUP_ROWS, (int32_t)N_GROUP_ROWS);
    return part;
}

/* Where the block's first query is. */
template <class shape>
static __device__ __forceinline__ uint16_t *block_rows(const cf_prompt_attention &args,
                                                       const group_part &part)
{
    return args.mixed + ((int64_t)part.first * args.n_heads + part.head) * shape::d_head;
}

/* Divides by the sums; through the warp's rows in shared memory, to write whole lines. What part
 * this is, is worked out again: registers are short before. */
template <class shape>
static __device__ __forceinline__ void group_store(const cf_prompt_attention &args,
                                                   const group_state<shape> &state, uint16_t *rows)
{
    group_part part = group_part_of<shape>(args, fresh(blockIdx.x), fresh(threadIdx.x));
    int lane = threadIdx.x % 32, first_row = part.warp * 16;
    int64_t d_row = (int64_t)args.n_heads * shape::d_head;
    uint16_t *to = block_rows<shape>(args, part) + first_row * d_row;
    rows += first_row * 8;
    /* The queries that lie there have been read: by the group's products, or by the warp alone. */
    if (shape::n_kept < shape::d_head / 16)
        role_sync(GROUP_BARRIERS + part.warp / 4, N_GROUP_THREADS);
    else
        __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = state.sum[i];
        sum += __shfl_xor_sync(WARP_ALL, sum, 1);
        sum += __shfl_xor_sync(WARP_ALL, sum, 2);
        float factor = 1 / sum;
        uint16_t *row = rows + (lane / 4 + 8 * i) * 8 + 2 * (lane % 4);
#pragma unroll
        for (int d = 0; d < shape::n_pieces; d++) {
            float low = state.values[d][2 * i] * factor, high = state.values[d][2 * i + 1] * factor;
            *reinterpret_cast<uint32_t *>(row + d * shape::query_column) =
                args.weights == CF_DTYPE_BF16 ? pack_bf16(low, high) : pack_f16(low, high);
        }
    }
    __syncwarp(); /* publishes the rows to the lanes that write them out */
    for (int piece = lane; piece < 16 * shape::n_pieces; piece += 32) {
        int row = piece / shape::n_pieces, column = piece % shape::n_pieces;
        if (first_row + row < part.n_rows)
            *reinterpret_cast<uint4 *>(to + row * d_row + column * 8) =
                *reinterpret_cast<const uint4 *>(rows + row * 8 + column * shape::query_column);
    }
}

/* The turns of a group that has queries; `rows` are the block's. */
template <class shape>
static __device__ __forceinline__ void group_walk(group_state<shape> &state,
                                                  const tile_walk<shape> &walk,
                                                  const uint16_t *rows, const group_part &part)
{
    constexpr int n_keys = shape::n_keys;
    float scale = rsqrtf((float)shape::d_head) * 1.44269504f; /* log2 e: powers of two, not of e */
    int32_t first_row = part.warp / 4 * N_GROUP_ROWS;
    int32_t last = part.pos + first_row - walk.first_key; /* as for group_mask() in tile 0 */
    int32_t n_tiles = (last + part.n_mine - 1) / n_keys + 1;
    int32_t n_whole = (last + 1) / n_keys; /* which all its queries see */
    int32_t turn = 0;
    group_queries<shape> queries;
    state.most[0] = state.most[1] = -CUDART_INF_F;
    group_take_queries<shape>(queries, rows, part.warp);
    group_begin<shape>(state, queries, walk, last, scale);
    for (; turn + 1 < n_whole; turn++)
        group_turn<shape, false>(state, queries, walk, turn, 0, scale);
    for (; turn + 1 < n_tiles; turn++)
        group_turn<shape, true>(state, queries, walk, turn, last - (turn + 1) * n_keys, scale);
    group_end<shape>(state, walk, turn);
    tile_leave(walk, turn);
    group_sit_out(walk, n_tiles);
}

#else

#define GROUP_BOUNDS(shape) __launch_bounds__(32)

#endif

template <class shape>
__global__ void GROUP_BOUNDS(shape) group_attend(const __grid_constant__ group_launch launch)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint16_t group_shared[];
    uint16_t *rows = group_shared + shape::ring_bytes / 2; /* the queries' */
    if (threadIdx.x == 0)
        for (int which = TILE_KEYS; which <= TILE_VALUES; which++)
            tensor_prefetch(&launch.tensors[which]); /* it is not yet known what to ask for */
    group_part part = group_part_of<shape>(launch.args, blockIdx.x, threadIdx.x);
    if (part.n_rows <= 0)
        return;
    int32_t n_seen = part.pos + part.n_rows, n_tiles = (n_seen - 1) / shape::n_keys + 1;
    tile_walk<shape> walk = {&launch, group_shared, part.head, n_seen - n_tiles * shape::n_keys,
                             n_tiles};
    if (part.warp == 0 && warp_elect())
        tiles_begin(walk);
    block_copy_queries<shape>(rows, block_rows<shape>(launch.args, part),
                              launch.args.n_heads * shape::d_head, part.n_rows);
    thread_copies_await();
    products_see_writes();
    __syncthreads(); /* publishes the queries and the barriers */
    if (part.n_mine > 0) {
        group_state<shape> state = {};
        group_walk<shape>(state, walk, rows, part);
        group_store<shape>(launch.args, state, rows);
    } else {
        group_sit_out(walk, -1);
    }
#endif
}

/* Whether the image that this GPU runs has the code: a question of what was built, and, where a
 * process has several kinds of GPUs, of which is current; so it is asked each time. */
template <class shape> static cudaError_t has_group_attend(bool *has)
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, group_attend<shape>);
    *has = error == cudaSuccess && attributes.maxThreadsPerBlock >= shape::n_threads;
    return error;
}

/* `has` false: nothing was launched, because the driver cannot describe tensors. */
template <class shape>
static cudaError_t launch_group_attend(const cf_prompt_attention *args, cudaStream_t stream,
                                       bool *has)
{
    unsigned grid = (unsigned)args->n_heads * (unsigned)((args->n_rows - 1) / shape::n_queries + 1);
    group_launch launch;
    *has = group_describe<shape>(args, &launch);
    if (!*has)
        return cudaSuccess;
    cudaError_t error = cudaFuncSetAttribute(
        group_attend<shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::shared_bytes);
    if (error != cudaSuccess)
        return error;
    group_attend<shape><<<grid, shape::n_threads, shape::shared_bytes, stream>>>(launch);
    return cudaGetLastError();
}

#endif
