/* The kernels with AVX2, FMA and F16C. */
#ifdef __x86_64__

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef __m256 vec;
#define LANES ((size_t)8)

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline vec v_set(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline __m256i lanes_below(size_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

static inline vec v_load_part(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, lanes_below(n));
}

static inline void v_store(float *p, vec v)
{
    _mm256_storeu_ps(p, v);
}

static inline void v_store_part(float *p, vec v, size_t n)
{
    _mm256_maskstore_ps(p, lanes_below(n), v);
}

/* The first n < 8 halves; there is no masked load of 16-bit elements. */
static inline __m128i load_halves_part(const void *p, size_t n)
{
    uint16_t halves[8] = {0};
    memcpy(halves, p, n * sizeof *halves);
    return _mm_loadu_si128((const void *)halves);
}

static inline vec v_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

static inline vec v_load_f16_part(const void *p, size_t n)
{
    return _mm256_cvtph_ps(load_halves_part(p, n));
}

static inline vec from_bf16(__m128i halves)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static inline vec v_load_bf16(const void *p)
{
    return from_bf16(_mm_loadu_si128(p));
}

static inline vec v_load_bf16_part(const void *p, size_t n)
{
    return from_bf16(load_halves_part(p, n));
}

static inline vec v_chain_f32(const void *p, size_t c)
{
    return v_load((const float *)p + c * LANES);
}

static inline vec v_chain_f16(const void *p, size_t c)
{
    return v_load_f16((const uint16_t *)p + c * LANES);
}

static inline vec v_chain_bf16(const void *p, size_t c)
{
    return v_load_bf16((const uint16_t *)p + c * LANES);
}

static inline void v_store_f16(uint16_t *p, vec v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, NEAREST));
}

static inline void v_store_f16_part(uint16_t *p, vec v, size_t n)
{
    uint16_t halves[8];
    v_store_f16(halves, v);
    memcpy(p, halves, n * sizeof *halves);
}

static inline vec v_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec v_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec v_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec v_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

static inline vec v_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline vec v_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec v_select_less(vec a, vec b, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

static inline vec v_round(vec v)
{
    return _mm256_round_ps(v, NEAREST);
}

static inline vec power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* In two steps: 2^n itself may lie outside float32 where x 2^n does not. */
static inline vec v_scale(vec x, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return v_mul(v_mul(x, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}

static inline vec v_abs(vec v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

static inline vec v_copy_sign(vec magnitude, vec sign)
{
    return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}

static inline void v_exchange(vec *a, vec *b, size_t s)
{
    vec first = *a, second = *b;
    if (s == 4) {
        *a = _mm256_permute2f128_ps(first, second, 0x20);
        *b = _mm256_permute2f128_ps(first, second, 0x31);
    } else if (s == 2) {
        *a = _mm256_shuffle_ps(first, second, _MM_SHUFFLE(1, 0, 1, 0));
        *b = _mm256_shuffle_ps(first, second, _MM_SHUFFLE(3, 2, 3, 2));
    } else {
        *a = _mm256_blend_ps(first, _mm256_moveldup_ps(second), 0xAA);
        *b = _mm256_blend_ps(_mm256_movehdup_ps(first), second, 0xAA);
    }
}

static inline float v_sum(vec v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float v_largest(vec v)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#include "backend/cpu/kernels_simd.h"

const cf_kernels cf_kernels_avx2 = KERNELS_SIMD("AVX2", , false);
const cf_kernels cf_kernels_avx2_ahead = KERNELS_SIMD("prefetching AVX2", _ahead, false);

#else
typedef int cf_kernels_avx2_unused;
#endif
