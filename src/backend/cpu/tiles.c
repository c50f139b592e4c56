#include "backend/cpu/tiles.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC diagnostic ignored "-Wsign-conversion"

#define LEAF_FEATURES 7
#define HAS_AMX_BF16 (1u << 22)
#define HAS_AMX_TILE (1u << 24)

/* arch_prctl(2): the state of tiles is large, so a process has to ask for it. */
#define REQUEST_PERMISSION 0x1023
#define TILE_DATA 18

#define TILE_BYTES 64 /* of a row of a tile */

/* Of a row of weights, how far ahead it is asked for: each of a tile's is a stream of its own. */
#define AHEAD_BYTES 512

/* What ldtilecfg reads. */
typedef struct tile_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_configuration;

size_t cf_tiles_weight_parts(cf_dtype dtype)
{
    return dtype == CF_DTYPE_F16 ? 2 : dtype == CF_DTYPE_BF16 ? 1 : 0;
}

bool cf_tiles_granted(void)
{
    unsigned a, b, c, d;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
        !__get_cpuid_count(LEAF_FEATURES, 0, &a, &b, &c, &d))
        return false;
    if ((d & HAS_AMX_BF16) == 0 || (d & HAS_AMX_TILE) == 0)
        return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

void cf_tiles_begin(void)
{
    /* Constant: GCC's intrinsic does not say that it reads all of it. */
    static const tile_configuration all = {
        .palette = 1,
        .row_bytes = {TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES,
                      TILE_BYTES, TILE_BYTES},
        .rows = {CF_TILE_ROWS, CF_TILE_ROWS, CF_TILE_ROWS, CF_TILE_ROWS, CF_TILE_ROWS, CF_TILE_ROWS,
                 CF_TILE_ROWS, CF_TILE_ROWS},
    };
    _tile_loadconfig(&all);
}

void cf_tiles_end(void)
{
    _tile_release();
}

/* The leading part of each: cut off, so that what is left is exact. */
static inline __m512i leading(__m512 x)
{
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000));
}

static inline __m512 without(__m512 x, __m512i part)
{
    return _mm512_sub_ps(x, _mm512_castsi512_ps(part));
}

/* Two vectors' leading parts, one after the other. */
static inline __m512i join(__m512i low, __m512i high)
{
    static const uint16_t upper_halves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                              23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                              45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(low, _mm512_loadu_si512(upper_halves), high);
}

/* Two vectors' leading parts, in pairs: the first of both, the second of both, … */
static inline __m512i interleave(__m512i first, __m512i second)
{
    return _mm512_or_si512(_mm512_srli_epi32(first, 16), second);
}

/* Both parts of 32 float16. */
static inline void split_f16(uint16_t *to, __m512i line)
{
    __m512 a = _mm512_cvtph_ps(_mm512_castsi512_si256(line));
    __m512 b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(line, 1));
    __m512i first = leading(a), second = leading(b);
    _mm512_storeu_si512(to, join(first, second));
    _mm512_storeu_si512(to + CF_TILE_ELEMENTS, join(_mm512_castps_si512(without(a, first)),
                                                    _mm512_castps_si512(without(b, second))));
}

void cf_tiles_split_weights(uint16_t *to, const void *from, size_t row_bytes, cf_dtype dtype,
                            size_t n_columns)
{
    size_t step = cf_tiles_weight_parts(dtype) * CF_TILE_ELEMENTS;
    for (size_t c = 0; c < n_columns; c += CF_TILE_COLUMNS, to += step) {
        const char *line = (const char *)from + c * sizeof *to;
        for (size_t r = 0; r < CF_TILE_ROWS; r++, line += row_bytes) {
            __m512i weights = _mm512_loadu_si512(line);
            __builtin_prefetch(line + AHEAD_BYTES);
            if (dtype == CF_DTYPE_F16)
                split_f16(to + r * CF_TILE_COLUMNS, weights);
            else
                _mm512_storeu_si512(to + r * CF_TILE_COLUMNS, weights);
        }
    }
}

void cf_tiles_split_input(uint16_t *to, size_t apart, const float *from, size_t stride, size_t n)
{
    for (size_t t = 0; t < n; t += CF_TILE_ROWS, to += apart)
        for (size_t c = 0; c < CF_TILE_COLUMNS; c += 2) {
            const float *at = from + c * stride + t;
            uint16_t *part = to + c * CF_TILE_ROWS;
            __m512 a = _mm512_loadu_ps(at), b = _mm512_loadu_ps(at + stride);
            for (size_t i = 0; i < CF_TILE_PARTS; i++, part += CF_TILE_ELEMENTS) {
                __m512i first = leading(a), second = leading(b);
                _mm512_storeu_si512(part, interleave(first, second));
                a = without(a, first);
                b = without(b, second);
            }
        }
}

/* Products of one block: tiles 0 to 3 add up, 4 and 5 are weights, 6 and 7 inputs. */
typedef struct block {
    float *product;
    size_t stride_bytes, n_parts, n_steps;
    const uint16_t *weights[2], *inputs[2];
} block;

static inline void load_weights(const block *it, size_t step, size_t part)
{
    size_t at = (step * it->n_parts + part) * CF_TILE_ELEMENTS;
    _tile_loadd(4, it->weights[0] + at, TILE_BYTES);
    _tile_loadd(5, it->weights[1] + at, TILE_BYTES);
}

static inline void multiply_input(const block *it, size_t step, size_t part)
{
    size_t at = (step * CF_TILE_PARTS + part) * CF_TILE_ELEMENTS;
    _tile_loadd(6, it->inputs[0] + at, TILE_BYTES);
    _tile_loadd(7, it->inputs[1] + at, TILE_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* Two tiles of rows by two of tokens; where there is no second, it is the first again. */
static void multiply_block(const block *it, bool second_rows, bool second_tokens)
{
    char *rows[2] = {(char *)it->product,
                     (char *)it->product + (second_rows ? CF_TILE_ROWS * it->stride_bytes : 0)};
    size_t right = second_tokens ? TILE_BYTES : 0;
    _tile_loadd(0, rows[0], it->stride_bytes);
    _tile_loadd(1, rows[0] + right, it->stride_bytes);
    _tile_loadd(2, rows[1], it->stride_bytes);
    _tile_loadd(3, rows[1] + right, it->stride_bytes);
    for (size_t step = 0; step < it->n_steps; step++) {
        load_weights(it, step, 0);
        multiply_input(it, step, 2);
        multiply_input(it, step, 1);
        multiply_input(it, step, 0);
        if (it->n_parts == 1)
            continue;
        load_weights(it, step, 1);
        multiply_input(it, step, 0);
        multiply_input(it, step, 1);
    }
    _tile_stored(3, rows[1] + right, it->stride_bytes);
    _tile_stored(2, rows[1], it->stride_bytes);
    _tile_stored(1, rows[0] + right, it->stride_bytes);
    _tile_stored(0, rows[0], it->stride_bytes);
}

void cf_tiles_multiply(const cf_tiles_product *all)
{
    size_t weights_apart = all->n_steps * all->n_parts * CF_TILE_ELEMENTS;
    /* GCC's intrinsics do not say that they read memory: what was written is to be there. */
    atomic_signal_fence(memory_order_seq_cst);
    for (size_t t = 0; t < all->n_token_tiles; t += 2)
        for (size_t r = 0; r < all->n_row_tiles; r += 2) {
            bool second_rows = r + 1 < all->n_row_tiles, second_tokens = t + 1 < all->n_token_tiles;
            const uint16_t *weights = all->weights + r * weights_apart;
            const uint16_t *inputs = all->inputs + t * all->inputs_apart;
            block it = {
                .product = all->product + r * CF_TILE_ROWS * all->stride + t * CF_TILE_ROWS,
                .stride_bytes = all->stride * sizeof(float),
                .n_parts = all->n_parts,
                .n_steps = all->n_steps,
                .weights = {weights, weights + (second_rows ? weights_apart : 0)},
                .inputs = {inputs, inputs + (second_tokens ? all->inputs_apart : 0)},
            };
            multiply_block(&it, second_rows, second_tokens);
        }
}

#else

size_t cf_tiles_weight_parts(cf_dtype dtype)
{
    (void)dtype;
    return 0;
}

bool cf_tiles_granted(void)
{
    return false;
}

void cf_tiles_begin(void)
{
}

void cf_tiles_end(void)
{
}

void cf_tiles_split_weights(uint16_t *to, const void *from, size_t row_bytes, cf_dtype dtype,
                            size_t n_columns)
{
    (void)to, (void)from, (void)row_bytes, (void)dtype, (void)n_columns;
}

void cf_tiles_split_input(uint16_t *to, size_t apart, const float *from, size_t stride, size_t n)
{
    (void)to, (void)apart, (void)from, (void)stride, (void)n;
}

void cf_tiles_multiply(const cf_tiles_product *product)
{
    (void)product;
}

#endif
