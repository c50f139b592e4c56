/*
 * Attention of a prompt, by the warp; prompt_attention_wgmma.cuh has another way to it, which is
 * taken where the GPU and the image have it. A block takes 64 or 128 queries of one head and walks
 * the KV cache in tiles of keys and values, the next of which arrives while this one is multiplied.
 * Products run on tensor cores; the softmax is kept in float32 and is rescaled when a larger score
 * comes (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018; Dao,
 * FlashAttention-2, 2023).
 */
#ifndef CF_CUDA_KERNEL_PROMPT_ATTENTION_CUH
#define CF_CUDA_KERNEL_PROMPT_ATTENTION_CUH

#include "backend/cuda/device/format.cuh"
#include "backend/cuda/device/mma.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/kernel/prompt.h"
#include "backend/cuda/kernel/prompt_attention_wgmma.cuh"

#include <math_constants.h>

/* Two of them. A product with ones adds up a row of weights, which spares as many additions. */
#define F16_ONES 0x3C003C00u

enum { N_ATTEND_WARPS = 4, N_ATTEND_THREADS = 32 * N_ATTEND_WARPS };

/* A warp has `m` times 16 queries. Rows in shared memory are padded by 16 bytes: an odd number of
 * such pieces apart, eight rows lie in different banks. */
template <int width, int m, int keys, int blocks> struct attend_shape {
    static constexpr int n_blocks = blocks; /* of a multiprocessor */
    static constexpr int d_head = width;
    static constexpr int m_tiles = m;
    static constexpr int warp_rows = 16 * m;
    static constexpr int n_queries = N_ATTEND_WARPS * warp_rows;
    static constexpr int n_keys = keys;
    static constexpr int stride = width + 8;
    static constexpr int tile = n_keys * stride;
    static constexpr int shared_bytes = 2 * (n_queries * stride + 4 * tile);
};

/* What a warp knows of its queries: of each row the largest score, and the sums of the weights (the
 * same in all columns) and of the values. */
template <class shape> struct attend_state {
    float values[shape::m_tiles][shape::d_head / 8][4];
    float sum[shape::m_tiles][4];
    float most[shape::m_tiles][2];
};

template <class shape> using attend_scores = float[shape::m_tiles][shape::n_keys / 8][4];

/*
 * Copies rows into shared memory; those from `n_there` on become zeros. Neighbouring threads copy
 * neighbouring pieces: with some threads to a row it took a fifth longer.
 */
template <class shape, int n_rows>
static __device__ __forceinline__ void block_copy_rows(uint16_t *to, const uint16_t *from,
                                                       int64_t from_stride, int32_t n_there)
{
    constexpr int pieces = shape::d_head / 8;
    static_assert(n_rows * pieces % N_ATTEND_THREADS == 0, "as many pieces for each thread");
#pragma unroll
    for (int i = 0; i < n_rows * pieces; i += N_ATTEND_THREADS) {
        int piece = i + (int)threadIdx.x, row = piece / pieces, column = piece % pieces * 8;
        bool is_there = row < n_there;
        thread_copy_16(to + row * shape::stride + column,
                       from + (is_there ? row : 0) * from_stride + column, is_there);
    }
}

/* scores = queries keysᵀ */
template <class shape>
static __device__ __forceinline__ void warp_score(attend_scores<shape> &scores,
                                                  const uint16_t *queries, const uint16_t *keys)
{
    int lane = threadIdx.x % 32;
    const uint16_t *query = queries + lane % 16 * shape::stride + lane / 16 * 8;
    const uint16_t *key = keys + (lane / 16 * 8 + lane % 8) * shape::stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < shape::d_head; k += 16) {
        uint32_t a[shape::m_tiles][4];
#pragma unroll
        for (int m = 0; m < shape::m_tiles; m++)
            warp_load_matrices(a[m], query + 16 * m * shape::stride + k);
#pragma unroll
        for (int n = 0; n < shape::n_keys; n += 16) {
            uint32_t b[4];
            warp_load_matrices(b, key + n * shape::stride + k);
#pragma unroll
            for (int m = 0; m < shape::m_tiles; m++) {
                warp_multiply(scores[m][n / 8], false, a[m], b[0], b[1]);
                warp_multiply(scores[m][n / 8 + 1], false, a[m], b[2], b[3]);
            }
        }
    }
}

/* No query sees a later key: row r of the warp's sees those up to `last` + r. */
template <class shape>
static __device__ __forceinline__ void warp_mask(attend_scores<shape> &scores, int32_t last)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < shape::m_tiles; m++)
#pragma unroll
        for (int n = 0; n < shape::n_keys / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = 8 * n + 2 * (lane % 4) + i % 2, row = 16 * m + lane / 4 + i / 2 * 8;
                if (key > last + row)
                    scores[m][n][i] = -CUDART_INF_F;
            }
}

/* Turns row `i` of a tile's scores into weights, and rescales what was added up before. */
template <class shape>
static __device__ __forceinline__ void warp_soften_row(attend_state<shape> &state,
                                                       attend_scores<shape> &scores, int m, int i,
                                                       float scale)
{
    float most = state.most[m][i];
#pragma unroll
    for (int n = 0; n < shape::n_keys / 8; n++)
        most = fmaxf(most, fmaxf(scores[m][n][2 * i], scores[m][n][2 * i + 1]));
    most = quad_max(most);
    float factor = power_of_two((state.most[m][i] - most) * scale), shift = most * scale, sum = 0;
#pragma unroll
    for (int n = 0; n < shape::n_keys / 8; n++)
#pragma unroll
        for (int j = 2 * i; j < 2 * i + 2; j++) {
            scores[m][n][j] = power_of_two(fmaf(scores[m][n][j], scale, -shift));
            sum += scores[m][n][j];
        }
#pragma unroll
    for (int d = 0; d < shape::d_head / 8; d++) {
        state.values[m][d][2 * i] *= factor;
        state.values[m][d][2 * i + 1] *= factor;
    }
    state.sum[m][2 * i] = fmaf(state.sum[m][2 * i], factor, sum);
    state.most[m][i] = most;
}

/* values += weights × values of the tile */
template <class shape>
static __device__ __forceinline__ void warp_add_values(attend_state<shape> &state,
                                                       const attend_scores<shape> &weights,
                                                       const uint16_t *values)
{
    int lane = threadIdx.x % 32;
    const uint16_t *value = values + (lane / 8 % 2 * 8 + lane % 8) * shape::stride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < shape::n_keys; k += 16) {
        uint32_t a[shape::m_tiles][4];
#pragma unroll
        for (int m = 0; m < shape::m_tiles; m++) {
            const float(&left)[4] = weights[m][k / 8], (&right)[4] = weights[m][k / 8 + 1];
            a[m][0] = pack_f16(left[0], left[1]);
            a[m][1] = pack_f16(left[2], left[3]);
            a[m][2] = pack_f16(right[0], right[1]);
            a[m][3] = pack_f16(right[2], right[3]);
        }
#pragma unroll
        for (int d = 0; d < shape::d_head; d += 16) {
            uint32_t b[4];
            warp_load_transposed(b, value + k * shape::stride + d);
#pragma unroll
            for (int m = 0; m < shape::m_tiles; m++) {
                warp_multiply(state.values[m][d / 8], false, a[m], b[0], b[1]);
                warp_multiply(state.values[m][d / 8 + 1], false, a[m], b[2], b[3]);
            }
        }
    }
}

/* Divides by the sums; through the warp's own rows of shared memory, to write whole lines. */
template <class shape>
static __device__ __forceinline__ void warp_store(const cf_prompt_attention &args,
                                                  attend_state<shape> &state, uint16_t *rows,
                                                  uint16_t *to, int32_t n_there)
{
    constexpr int pieces = shape::d_head / 8;
    int lane = threadIdx.x % 32;
    __syncwarp(); /* all lanes have read the queries that lie there */
#pragma unroll
    for (int m = 0; m < shape::m_tiles; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = state.sum[m][2 * i];
            sum += __shfl_xor_sync(WARP_ALL, sum, 1);
            sum += __shfl_xor_sync(WARP_ALL, sum, 2);
            float factor = 1 / sum;
            uint16_t *row = rows + (16 * m + lane / 4 + 8 * i) * shape::stride + 2 * (lane % 4);
#pragma unroll
            for (int d = 0; d < shape::d_head / 8; d++) {
                float low = state.values[m][d][2 * i] * factor;
                float high = state.values[m][d][2 * i + 1] * factor;
                *reinterpret_cast<uint32_t *>(row + 8 * d) =
                    args.weights == CF_DTYPE_BF16 ? pack_bf16(low, high) : pack_f16(low, high);
            }
        }
    __syncwarp(); /* publishes the rows to the lanes that write them out */
    for (int piece = lane; piece < shape::warp_rows * pieces; piece += 32) {
        int row = piece / pieces, column = piece % pieces * 8;
        if (row < n_there)
            *reinterpret_cast<uint4 *>(to + (int64_t)row * args.n_heads * shape::d_head + column) =
                *reinterpret_cast<const uint4 *>(rows + row * shape::stride + column);
    }
}

template <class shape>
static __device__ __forceinline__ void copy_tile(const cf_prompt_attention &args, uint16_t *tiles,
                                                 int32_t key, int32_t n_seen)
{
    int64_t place =
        ((int64_t)(blockIdx.x % (unsigned)args.n_heads) * args.n_context + key) * shape::d_head;
    uint16_t *to = tiles + key / shape::n_keys % 2 * 2 * shape::tile;
    block_copy_rows<shape, shape::n_keys>(to, args.keys + place, shape::d_head, n_seen - key);
    block_copy_rows<shape, shape::n_keys>(to + shape::tile, args.values + place, shape::d_head,
                                          n_seen - key);
}

/* One tile of keys and values, by one warp whose first query is at position `pos`. */
template <class shape>
static __device__ __forceinline__ void warp_attend(attend_state<shape> &state,
                                                   const uint16_t *queries, const uint16_t *tile,
                                                   int32_t pos, int32_t key, float scale)
{
    attend_scores<shape> scores = {};
    warp_score<shape>(scores, queries, tile);
    if (key + shape::n_keys - 1 > pos)
        warp_mask<shape>(scores, pos - key);
#pragma unroll
    for (int m = 0; m < shape::m_tiles; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            warp_soften_row<shape>(state, scores, m, i, scale);
    warp_add_values<shape>(state, scores, tile + shape::tile);
}

template <class shape>
__global__ void __launch_bounds__(N_ATTEND_THREADS, shape::n_blocks)
    prompt_attend(const __grid_constant__ cf_prompt_attention args)
{
    extern __shared__ __align__(128) uint16_t shared[];
    uint16_t *tiles = shared + shape::n_queries * shape::stride;
    int warp = threadIdx.x / 32;
    /* The last queries see the most keys: they begin. */
    int32_t first =
        ((int32_t)((gridDim.x - 1 - blockIdx.x) / (unsigned)args.n_heads)) * shape::n_queries;
    cf_prompt_span span = *args.span;
    int32_t n_rows = min(span.n - first, shape::n_queries), n_seen = span.pos + first + n_rows;
    if (n_rows <= 0)
        return;
    int64_t row = (int64_t)args.n_heads * shape::d_head;
    uint16_t *mixed =
        args.mixed + first * row + blockIdx.x % (unsigned)args.n_heads * shape::d_head;
    uint16_t *queries = shared + warp * shape::warp_rows * shape::stride;
    int32_t n_mine = min(n_rows - warp * shape::warp_rows, shape::warp_rows);
    int32_t pos = span.pos + first + warp * shape::warp_rows; /* of the warp's first query */
    float scale = rsqrtf((float)shape::d_head) * 1.44269504f; /* log2 e: powers of two, not of e */
    attend_state<shape> state = {};
#pragma unroll
    for (int m = 0; m < shape::m_tiles; m++)
        state.most[m][0] = state.most[m][1] = -CUDART_INF_F;
    block_copy_rows<shape, shape::n_queries>(shared, mixed, row, n_rows);
    copy_tile<shape>(args, tiles, 0, n_seen);
    for (int32_t key = 0; key < n_seen; key += shape::n_keys) {
        thread_copies_await();
        __syncthreads(); /* publishes the tile; all have read the one that the next overwrites */
        if (key + shape::n_keys < n_seen)
            copy_tile<shape>(args, tiles, key + shape::n_keys, n_seen);
        if (key < pos + n_mine && n_mine > 0)
            warp_attend<shape>(state, queries, tiles + key / shape::n_keys % 2 * 2 * shape::tile,
                               pos, key, scale);
    }
    warp_store<shape>(args, state, queries, mixed + warp * shape::warp_rows * row, n_mine);
}

template <class shape>
static cudaError_t launch_attend(const cf_prompt_attention *args, cudaStream_t stream)
{
    unsigned grid = (unsigned)args->n_heads * (unsigned)((args->n_rows - 1) / shape::n_queries + 1);
    cudaError_t error = cudaFuncSetAttribute(
        prompt_attend<shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::shared_bytes);
    if (error != cudaSuccess)
        return error;
    prompt_attend<shape><<<grid, N_ATTEND_THREADS, shape::shared_bytes, stream>>>(*args);
    return cudaGetLastError();
}

/* Whether blocks of this shape are enough to fill all multiprocessors. */
template <class shape>
static bool fills_gpu(const cf_prompt_attention *args, const cf_gpu_limits *limits)
{
    int64_t n_blocks = (int64_t)args->n_heads * ((args->n_rows - 1) / shape::n_queries + 1);
    return n_blocks >= 2 * limits->n_multiprocessors && shape::shared_bytes <= limits->shared_bytes;
}

/* Twice the queries a block reuse keys twice as often, where blocks enough for all are left. */
template <int d_head>
static cudaError_t choose_attend(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                 cudaStream_t stream)
{
    constexpr int n_keys = d_head <= 128 ? 64 : 32;
    using wide = attend_shape<d_head, d_head == 80 ? 2 : 1, n_keys, 2>;
    using narrow = attend_shape<d_head, 1, n_keys, d_head <= 80 ? 4 : 2>;
    return fills_gpu<wide>(args, limits) ? launch_attend<wide>(args, stream)
                                         : launch_attend<narrow>(args, stream);
}

/* The warpgroups' shapes, of those that were measured (docs/speed_log.md). Registers set what they
 * can be: one block of four groups, or two of two, have 128 a thread, one of three has 168. */
template <int d_head> struct group_shapes;
template <> struct group_shapes<32> {
    using wide = group_shape<32, 1, 64, 4, 4, 32, 2>;
    using narrow = wide;
};
template <> struct group_shapes<64> {
    using wide = group_shape<64, 1, 128, 2, 2, 64, 4>;
    using narrow = wide;
};
template <> struct group_shapes<80> {
    using wide = group_shape<80, 4, 64, 1, 4, 16, 3>;
    using narrow = group_shape<80, 2, 64, 2, 4, 16, 3>;
};
template <> struct group_shapes<96> {
    using wide = group_shape<96, 3, 96, 1, 3, 32, 4>;
    using narrow = group_shape<96, 1, 64, 3, 2, 32, 6>;
};
template <> struct group_shapes<128> {
    using wide = group_shape<128, 3, 96, 1, 3, 64, 0>;
    using narrow = group_shape<128, 1, 64, 2, 2, 64, 8>;
};

/* Up to so many rows the launch is the longer part, and the warps' kernel has less to set up. */
#define FEW_ROWS 128

/* Whether blocks of this shape can keep all multiprocessors busy until the end: each has on average
 * at least as much to do as the block with the last queries, to which the causal mask leaves twice
 * as many keys as to the average. */
template <class shape>
static bool balances(const cf_prompt_attention *args, const cf_gpu_limits *limits)
{
    int64_t n_longest = (args->n_rows - 1) / shape::n_queries + 1;
    return args->n_heads * (n_longest + 1) >= 2 * limits->n_multiprocessors;
}

/* The same by the group; `has` false: this GPU, image or driver cannot, and nothing was launched.
 */
template <int d_head>
static cudaError_t choose_group_attend(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                                       cudaStream_t stream, bool *has)
{
    using shapes = group_shapes<d_head>;
    cudaError_t error = has_group_attend<typename shapes::narrow>(has);
    if (error != cudaSuccess || !*has)
        return error;
    if (balances<typename shapes::wide>(args, limits))
        return launch_group_attend<typename shapes::wide>(args, stream, has);
    return launch_group_attend<typename shapes::narrow>(args, stream, has);
}

template <int d_head>
static cudaError_t attend(const cf_prompt_attention *args, const cf_gpu_limits *limits,
                          cudaStream_t stream)
{
    if constexpr (d_head <= 128) {
        bool has = false;
        cudaError_t error = cudaSuccess;
        if (args->n_rows > FEW_ROWS)
            error = choose_group_attend<d_head>(args, limits, stream, &has);
        if (error != cudaSuccess || has)
            return error;
    }
    return choose_attend<d_head>(args, limits, stream);
}

/* The host's way to the kernels of one head width: a file each, so that they compile side by side.
 */
#define PROMPT_ATTENTION(d_head)                                                                   \
    extern "C" cudaError_t cf_prompt_attend_##d_head(                                              \
        const cf_prompt_attention *args, const cf_gpu_limits *limits, cudaStream_t stream)         \
    {                                                                                              \
        return attend<d_head>(args, limits, stream);                                               \
    }

#endif
