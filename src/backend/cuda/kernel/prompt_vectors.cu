/* What happens to a prompt's tokens between matrix products, but attention. */
#include "backend/cuda/device/format.cuh"
#include "backend/cuda/device/mma.cuh"
#include "backend/cuda/device/warp.cuh"
#include "backend/cuda/kernel/prompt.h"
#include "backend/cuda/stage/activation.cuh"

enum { N_THREADS = 256, N_ROWS = 4, PIECE = 8 };

/* Eight values, which lie in 16 bytes. */
struct piece {
    float values[PIECE];
};

template <class format> static __device__ __forceinline__ piece unpack_piece(uint4 packed)
{
    float2 a = format::unpack(packed.x), b = format::unpack(packed.y);
    float2 c = format::unpack(packed.z), d = format::unpack(packed.w);
    return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}

template <class format> static __device__ __forceinline__ uint4 pack_piece(const piece &p)
{
    return make_uint4(
        format::pack(p.values[0], p.values[1]), format::pack(p.values[2], p.values[3]),
        format::pack(p.values[4], p.values[5]), format::pack(p.values[6], p.values[7]));
}

static __device__ __forceinline__ piece load_floats(const float *from)
{
    float4 a = reinterpret_cast<const float4 *>(from)[0];
    float4 b = reinterpret_cast<const float4 *>(from)[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

static __device__ __forceinline__ void store_floats(float *to, const piece &p)
{
    const float *v = p.values;
    reinterpret_cast<float4 *>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

static __device__ __forceinline__ void add_floats(piece &to, const float *biases)
{
    if (biases == NULL)
        return;
    piece added = load_floats(biases);
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        to.values[i] += added.values[i];
}

template <class format> static __global__ void gather(const __grid_constant__ cf_prompt_embed args)
{
    int64_t d = args.d_model;
    const uint16_t *from =
        static_cast<const uint16_t *>(args.embed) + (int64_t)args.ids[blockIdx.x] * d;
    float *to = args.residual + blockIdx.x * d;
    for (int32_t c = (int32_t)threadIdx.x * 2; c < args.d_model; c += 2 * N_THREADS)
        *reinterpret_cast<float2 *>(to + c) =
            format::unpack(*reinterpret_cast<const uint32_t *>(from + c));
}

/* Threads of a row that is normalised: eight elements each, whole warps. */
enum { MAX_NORM_THREADS = CF_SCHEDULE_MAX_D_MODEL / PIECE, MAX_NORM_WARPS = MAX_NORM_THREADS / 32 };

/* The sum over the block's threads, in each of them. `sums` is not used again. */
static __device__ __forceinline__ float block_sum(float value, float *sums)
{
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = value;
    __syncthreads(); /* publishes the warps' sums */
    float total = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++)
        total += sums[w];
    return total;
}

/* Eight elements of the residual with what layers have still to add to them; settles that. */
static __device__ __forceinline__ piece settle(const cf_prompt_norm &args, int32_t column)
{
    int64_t place = (int64_t)blockIdx.x * args.d_model + column;
    float *residual = args.residual + place;
    piece x = load_floats(residual);
    if (args.added == NULL && args.biases == NULL)
        return x;
    add_floats(x, args.added != NULL ? args.added + place : NULL);
    add_floats(x, args.biases != NULL ? args.biases + column : NULL);
    store_floats(residual, x);
    return x;
}

template <class format>
static __device__ __forceinline__ void store_norm(const cf_prompt_norm &args,
                                                  const cf_prompt_norm_output &output,
                                                  float *hidden, const piece &normed,
                                                  int32_t column)
{
    int64_t place = (int64_t)blockIdx.x * args.d_model + column;
    piece y = unpack_piece<format_f16>(
        *reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(output.weights) + column));
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        y.values[i] *= normed.values[i];
    add_floats(y, output.biases + column);
    if (output.to != NULL)
        *reinterpret_cast<uint4 *>(static_cast<uint16_t *>(output.to) + place) =
            pack_piece<format>(y);
    if (hidden != NULL)
        store_floats(hidden + place, y);
}

/* A block a row. Mean first, then the squares of the differences: one pass would cancel. */
template <class format>
static __global__ void __launch_bounds__(MAX_NORM_THREADS)
    normalise(const __grid_constant__ cf_prompt_norm args)
{
    __shared__ float sums[2][MAX_NORM_WARPS];
    int32_t column = PIECE * (int32_t)threadIdx.x;
    bool is_mine = column < args.d_model;
    piece x = {};
    if (is_mine)
        x = settle(args, column);
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        sum += x.values[i];
    float mean = block_sum(sum, sums[0]) / (float)args.d_model;
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        x.values[i] -= mean;
        squares = fmaf(x.values[i], x.values[i], squares);
    }
    float total = block_sum(is_mine ? squares : 0, sums[1]);
    float factor = rsqrtf(total / (float)args.d_model + args.eps);
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        x.values[i] *= factor;
    if (!is_mine)
        return;
    store_norm<format>(args, args.outputs[0], args.hidden, x, column);
    if (args.outputs[1].to != NULL)
        store_norm<format>(args, args.outputs[1], NULL, x, column);
}

/* The heads that a block of append() takes, and its room for what rotates of their q and k. */
static __host__ __device__ __forceinline__ int32_t heads_a_block(int32_t d_head)
{
    return N_THREADS / (3 * d_head / PIECE);
}

enum { MAX_TURNED = (2 * N_THREADS * PIECE / 3 + 3) / 4 * 4 };

/* A thread's eight elements of q, k or v of a head. */
struct split_place {
    int32_t head, part, first; /* part: q, k, v */
    int32_t turned;            /* where they lie among those that rotate; -1: elsewhere */
};

/* Rows of what rotates follow each other: q and k of the block's first head, of its second one … */
static __device__ __forceinline__ split_place find_place(const cf_prompt_split &args)
{
    int32_t n = args.d_head / PIECE, head = (int32_t)threadIdx.x / (3 * n);
    int32_t rest = (int32_t)threadIdx.x % (3 * n), part = rest / n, first = rest % n * PIECE;
    int32_t n_turned = (args.d_rotary + PIECE - 1) / PIECE * PIECE;
    bool turns = part < 2 && first < args.d_rotary;
    return {(int32_t)blockIdx.y * heads_a_block(args.d_head) + head, part, first,
            turns ? (2 * head + part) * n_turned + first : -1};
}

static __device__ __forceinline__ void store_split(const cf_prompt_split &args,
                                                   const split_place &place, const piece &p,
                                                   int64_t token, int64_t pos)
{
    uint16_t *to = place.part == 0
                       ? args.queries + (token * args.n_heads + place.head) * args.d_head
                       : (place.part == 1 ? args.keys : args.values) +
                             ((int64_t)place.head * args.n_context + pos) * args.d_head;
    *reinterpret_cast<uint4 *>(to + place.first) = pack_piece<format_f16>(p);
}

/* Rotates the block's rows of one token, a warp a row: pairs are (i, i + half). */
static __device__ __forceinline__ void rotate_rows(const cf_prompt_split &args, float *rows,
                                                   int64_t pos)
{
    int32_t half = args.d_rotary / 2, n_turned = (args.d_rotary + PIECE - 1) / PIECE * PIECE;
    int32_t n_rows = 2 * heads_a_block(args.d_head), lane = (int32_t)threadIdx.x % 32;
    const float2 *rotations = reinterpret_cast<const float2 *>(args.rotation) + pos * half;
    for (int32_t i = lane; i < half; i += 32) {
        float2 rotation = __ldg(rotations + i);
        for (int32_t r = (int32_t)threadIdx.x / 32; r < n_rows; r += N_THREADS / 32) {
            float *low = rows + r * n_turned + i, *high = low + half, x = *low, y = *high;
            *low = x * rotation.x - y * rotation.y;
            *high = y * rotation.x + x * rotation.y;
        }
    }
}

/* Eight elements of each of N_ROWS tokens a thread; all are on their way before one is needed. */
template <class format>
static __global__ void __launch_bounds__(N_THREADS)
    append(const __grid_constant__ cf_prompt_split args)
{
    __shared__ __align__(16) float turned[N_ROWS][MAX_TURNED];
    cf_prompt_span span = *args.span;
    split_place place = find_place(args);
    bool is_mine = place.head < args.n_heads &&
                   (int32_t)threadIdx.x / (3 * args.d_head / PIECE) < heads_a_block(args.d_head);
    int64_t first = (int64_t)blockIdx.x * N_ROWS, row = 3 * (int64_t)args.n_heads * args.d_head;
    int64_t start = (3 * (int64_t)place.head + place.part) * args.d_head + place.first;
    const uint16_t *vector = static_cast<const uint16_t *>(args.qkv) + first * row + start;
    uint4 packed[N_ROWS] = {};
#pragma unroll
    for (int r = 0; r < N_ROWS; r++)
        if (is_mine)
            packed[r] = __ldg(reinterpret_cast<const uint4 *>(vector + r * row));
#pragma unroll
    for (int r = 0; r < N_ROWS; r++) {
        piece p = unpack_piece<format>(packed[r]);
        if (is_mine)
            add_floats(p, args.biases != NULL ? args.biases + start : NULL);
        if (is_mine && place.turned >= 0)
            store_floats(&turned[r][place.turned], p);
        else if (is_mine && first + r < span.n)
            store_split(args, place, p, first + r, span.pos + first + r);
    }
    __syncthreads(); /* publishes what rotates */
    for (int r = 0; r < N_ROWS && first + r < span.n; r++)
        rotate_rows(args, turned[r], span.pos + first + r);
    __syncthreads(); /* publishes it rotated */
    for (int r = 0; r < N_ROWS && first + r < span.n; r++)
        if (is_mine && place.turned >= 0)
            store_split(args, place, load_floats(&turned[r][place.turned]), first + r,
                        span.pos + first + r);
}

/*
 * x (1 + erf(x / √2)) / 2. erfc z is a power of two whose exponent is a polynomial in z, fitted to
 * [0, 4] so that the result is off by at most 1.4e-7, and by 4.1e-4 of itself: less than its
 * rounding to 16 bits. At z = 4, erfc is 1.5e-8, and there it stays.
 */
static __device__ __forceinline__ float gelu_erf(float x)
{
    float z = fminf(fabsf(x) * 0.70710678f, 4), exponent = 2.6431438e-4f;
    exponent = fmaf(exponent, z, -4.3143956e-3f);
    exponent = fmaf(exponent, z, 3.2153606e-2f);
    exponent = fmaf(exponent, z, -1.5078701e-1f);
    exponent = fmaf(exponent, z, -9.1775441e-1f);
    exponent = fmaf(exponent, z, -1.6279776f);
    return fmaf(-0.5f * fabsf(x), power_of_two(exponent * z), fmaxf(x, 0));
}

/* Eight elements of each of N_ROWS tokens a thread, one after the other: with all on their way at
 * once it took longer. */
template <class format>
static __global__ void activate_all(const __grid_constant__ cf_prompt_activation args)
{
    int32_t column = PIECE * (int32_t)(blockIdx.y * N_THREADS + threadIdx.x);
    if (column >= args.d_ffn)
        return;
    bool is_erf = args.activation == CF_ACTIVATION_GELU_ERF;
    piece biases = load_floats(args.biases + column);
#pragma unroll 1
    for (int r = 0; r < N_ROWS; r++) {
        int64_t token = (int64_t)blockIdx.x * N_ROWS + r;
        uint4 *place = reinterpret_cast<uint4 *>(static_cast<uint16_t *>(args.ffn) +
                                                 token * args.d_ffn + column);
        piece p = unpack_piece<format>(*place);
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            float x = p.values[i] + biases.values[i];
            p.values[i] = is_erf ? gelu_erf(x) : activate(args.activation, x);
        }
        *place = pack_piece<format>(p);
    }
}

#define LAUNCH(kernel, grid, n_threads)                                                            \
    do {                                                                                           \
        if (weights == CF_DTYPE_BF16)                                                              \
            kernel<format_bf16><<<grid, n_threads, 0, stream>>>(*args);                            \
        else                                                                                       \
            kernel<format_f16><<<grid, n_threads, 0, stream>>>(*args);                             \
        return cudaGetLastError();                                                                 \
    } while (0)

/* Blocks of threads with eight elements each. */
static unsigned n_piece_blocks(int64_t n)
{
    return (unsigned)((n + PIECE * N_THREADS - 1) / (PIECE * N_THREADS));
}

cudaError_t cf_prompt_gather(const cf_prompt_embed *args, cf_dtype weights, cudaStream_t stream)
{
    LAUNCH(gather, (unsigned)args->n, N_THREADS);
}

cudaError_t cf_prompt_normalise(const cf_prompt_norm *args, cf_dtype weights, cudaStream_t stream)
{
    LAUNCH(normalise, (unsigned)args->n, (unsigned)(args->d_model / PIECE + 31) / 32 * 32);
}

cudaError_t cf_prompt_append(const cf_prompt_split *args, cf_dtype weights, cudaStream_t stream)
{
    int32_t n_heads = heads_a_block(args->d_head);
    dim3 grid((unsigned)(args->n_rows / N_ROWS),
              (unsigned)((args->n_heads + n_heads - 1) / n_heads));
    LAUNCH(append, grid, N_THREADS);
}

cudaError_t cf_prompt_activate(const cf_prompt_activation *args, cf_dtype weights,
                               cudaStream_t stream)
{
    dim3 grid((unsigned)(args->n / N_ROWS), n_piece_blocks(args->d_ffn));
    LAUNCH(activate_all, grid, N_THREADS);
}
