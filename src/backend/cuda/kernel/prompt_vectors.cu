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

/* Eight elements of the residual, with what is still to be added to it, and to them. */
static __device__ __forceinline__ piece settle(const cf_prompt_norm &args, int32_t column)
{
    int64_t place = (int64_t)blockIdx.x * args.d_model + column;
    float *residual = args.residual + place;
    piece x = load_floats(residual);
    if (args.added != NULL) {
        add_floats(x, args.added + place);
        store_floats(residual, x);
    }
    add_floats(x, args.biases != NULL ? args.biases + column : NULL);
    if (args.settled != NULL)
        store_floats(args.settled + place, x);
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
    return (int32_t)(N_THREADS / (3 * (uint32_t)d_head / PIECE));
}

enum { MAX_TURNED = (2 * N_THREADS * PIECE / 3 + 3) / 4 * 4, MAX_PAIRS = 128 };

/* What a block of append() rotates of each of its tokens, and by how much: cosine and sine. */
struct turned_rows {
    float rows[N_ROWS][MAX_TURNED]; /* q and k of the block's first head, of its second one, … */
    float2 rotations[N_ROWS][MAX_PAIRS];
};

static __device__ __forceinline__ int32_t turned_width(const cf_prompt_split &args)
{
    return (args.d_rotary + PIECE - 1) / PIECE * PIECE;
}

/* A thread's eight elements of q, k or v of a head; some threads have none. */
struct split_place {
    bool is_there;
    int32_t start;  /* in a row of qkv */
    int32_t turned; /* in a row of those that rotate; -1: elsewhere */
    uint16_t *to;   /* where they go of the first token of all, */
    int32_t step;   /* and from a token to the next */
};

/* Divisions are a good part of the kernel's time: few, and of unsigned numbers. */
static __device__ __forceinline__ split_place find_place(const cf_prompt_split &args,
                                                         const cf_prompt_span &span)
{
    uint32_t n = (uint32_t)args.d_head / PIECE, n_heads = (uint32_t)heads_a_block(args.d_head);
    uint32_t own_head = threadIdx.x / (3 * n), rest = threadIdx.x - own_head * 3 * n;
    uint32_t part = rest / n, first = (rest - part * n) * PIECE;
    int32_t head = (int32_t)(blockIdx.y * n_heads + own_head);
    bool is_there = own_head < n_heads && head < args.n_heads;
    bool turns = is_there && part < 2 && (int32_t)first < args.d_rotary;
    int64_t pos = (int64_t)head * args.n_context + span.pos;
    uint16_t *to = part == 0 ? args.queries + head * args.d_head
                             : (part == 1 ? args.keys : args.values) + pos * args.d_head;
    return {is_there, (3 * head + (int32_t)part) * args.d_head + (int32_t)first,
            turns ? (int32_t)((2 * own_head + part) * turned_width(args) + first) : -1, to + first,
            part == 0 ? args.n_heads * args.d_head : args.d_head};
}

static __device__ __forceinline__ void store_split(const split_place &place, const piece &p,
                                                   int64_t token)
{
    *reinterpret_cast<uint4 *>(place.to + token * place.step) = pack_piece<format_f16>(p);
}

/* Brings the rotations of the block's tokens. */
static __device__ __forceinline__ void fetch_rotations(const cf_prompt_split &args,
                                                       const cf_prompt_span &span, int32_t first,
                                                       turned_rows &turned)
{
    uint32_t half = (uint32_t)args.d_rotary / 2;
    int32_t n = min(span.n - first, (int32_t)N_ROWS) * (int32_t)half;
    const float2 *rotations = reinterpret_cast<const float2 *>(args.rotation);
    rotations += (int64_t)(span.pos + first) * half;
#pragma unroll 1
    for (int32_t i = (int32_t)threadIdx.x; i < n; i += N_THREADS)
        turned.rotations[(uint32_t)i / half][(uint32_t)i % half] = __ldg(rotations + i);
}

/* Rotates pairs (i, i + half), a thread the same pair of each token. */
static __device__ __forceinline__ void rotate_rows(const cf_prompt_split &args, turned_rows &turned)
{
    uint32_t half = (uint32_t)args.d_rotary / 2;
    uint32_t n_pairs = 2 * (uint32_t)heads_a_block(args.d_head) * half;
#pragma unroll 1
    for (uint32_t p = threadIdx.x; p < n_pairs; p += N_THREADS) {
        uint32_t row = p / half, i = p - row * half;
        uint32_t place = row * (uint32_t)turned_width(args) + i;
#pragma unroll
        for (int r = 0; r < N_ROWS; r++) {
            float2 rotation = turned.rotations[r][i];
            float x = turned.rows[r][place], y = turned.rows[r][place + half];
            turned.rows[r][place] = x * rotation.x - y * rotation.y;
            turned.rows[r][place + half] = y * rotation.x + x * rotation.y;
        }
    }
}

/* Eight elements of each of N_ROWS tokens a thread; all are on their way before one is needed. */
template <class format>
static __global__ void __launch_bounds__(N_THREADS)
    append(const __grid_constant__ cf_prompt_split args)
{
    __shared__ __align__(16) turned_rows turned;
    cf_prompt_span span = *args.span;
    split_place place = find_place(args, span);
    int32_t first = (int32_t)blockIdx.x * N_ROWS;
    int64_t row = 3 * (int64_t)args.n_heads * args.d_head;
    const uint16_t *vector = static_cast<const uint16_t *>(args.qkv) + first * row + place.start;
    uint4 packed[N_ROWS] = {};
    piece biases = {};
#pragma unroll
    for (int r = 0; r < N_ROWS; r++)
        if (place.is_there)
            packed[r] = __ldg(reinterpret_cast<const uint4 *>(vector + r * row));
    if (place.is_there)
        add_floats(biases, args.biases != NULL ? args.biases + place.start : NULL);
    fetch_rotations(args, span, first, turned);
#pragma unroll
    for (int r = 0; r < N_ROWS; r++) {
        piece p = unpack_piece<format>(packed[r]);
#pragma unroll
        for (int i = 0; i < PIECE; i++)
            p.values[i] += biases.values[i];
        if (place.turned >= 0)
            store_floats(&turned.rows[r][place.turned], p);
        else if (place.is_there && first + r < span.n)
            store_split(place, p, first + r);
    }
    __syncthreads(); /* publishes what rotates */
    rotate_rows(args, turned);
    __syncthreads(); /* publishes it rotated */
#pragma unroll
    for (int r = 0; r < N_ROWS; r++)
        if (place.turned >= 0 && first + r < span.n)
            store_split(place, load_floats(&turned.rows[r][place.turned]), first + r);
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
