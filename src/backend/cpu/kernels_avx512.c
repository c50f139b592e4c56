/* The kernels with AVX-512 F, BW, VL and DQ. */
#ifdef __x86_64__

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Without optimisation GCC's intrinsics are macros, whose conversions it then complains of here. */
#pragma GCC diagnostic ignored "-Wsign-conversion"

typedef __m512 vec;
#define LANES ((size_t)16)

#define FIRST(n) ((__mmask16)((1u << (n)) - 1))
#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline vec v_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline vec v_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(FIRST(n), p);
}

static inline void v_store(float *p, vec v)
{
    _mm512_storeu_ps(p, v);
}

static inline void v_store_part(float *p, vec v, size_t n)
{
    _mm512_mask_storeu_ps(p, FIRST(n), v);
}

static inline vec v_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

static inline vec v_load_f16_part(const void *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FIRST(n), p));
}

static inline vec from_bf16(__m256i halves)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static inline vec v_load_bf16(const void *p)
{
    return from_bf16(_mm256_loadu_si256(p));
}

static inline vec v_load_bf16_part(const void *p, size_t n)
{
    return from_bf16(_mm256_maskz_loadu_epi16(FIRST(n), p));
}

static inline vec v_chain_f32(const void *p, size_t c)
{
    return v_load((const float *)p + c * LANES);
}

/* Half of a whole line: one load for two vectors keeps more lines in flight. */
static inline __m256i half_line(const void *p, size_t c)
{
    __m512i line = _mm512_loadu_si512((const char *)p + c / 2 * 64);
    return c % 2 == 0 ? _mm512_castsi512_si256(line) : _mm512_extracti64x4_epi64(line, 1);
}

static inline vec v_chain_f16(const void *p, size_t c)
{
    return _mm512_cvtph_ps(half_line(p, c));
}

static inline vec v_chain_bf16(const void *p, size_t c)
{
    return from_bf16(half_line(p, c));
}

static inline void v_store_f16(uint16_t *p, vec v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, NEAREST));
}

static inline void v_store_f16_part(uint16_t *p, vec v, size_t n)
{
    _mm256_mask_storeu_epi16(p, FIRST(n), _mm512_cvtps_ph(v, NEAREST));
}

static inline vec v_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec v_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec v_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec v_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

static inline vec v_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static inline vec v_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

static inline vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec v_select_less(vec a, vec b, vec x, vec y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

static inline vec v_round(vec v)
{
    return _mm512_roundscale_ps(v, NEAREST);
}

static inline vec v_scale(vec x, vec n)
{
    return _mm512_scalef_ps(x, n);
}

static inline vec v_abs(vec v)
{
    return _mm512_abs_ps(v);
}

static inline vec v_copy_sign(vec magnitude, vec sign)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}

static inline void v_exchange(vec *a, vec *b, size_t s)
{
    __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i width = _mm512_set1_epi32((int)s);
    __mmask16 upper = _mm512_test_epi32_mask(lane, width);
    /* Bit 4 of an index takes the lane from b. */
    __m512i low = _mm512_mask_add_epi32(lane, upper, lane, _mm512_set1_epi32(16 - (int)s));
    __m512i high =
        _mm512_mask_add_epi32(_mm512_add_epi32(lane, width), upper, lane, _mm512_set1_epi32(16));
    vec first = *a, second = *b;
    *a = _mm512_permutex2var_ps(first, low, second);
    *b = _mm512_permutex2var_ps(first, high, second);
}

static inline float v_sum(vec v)
{
    return _mm512_reduce_add_ps(v);
}

static inline float v_largest(vec v)
{
    return _mm512_reduce_max_ps(v);
}

#include "backend/cpu/kernels_simd.h"

const cf_kernels cf_kernels_avx512 = KERNELS_SIMD("AVX-512", , false);
const cf_kernels cf_kernels_avx512_ahead = KERNELS_SIMD("prefetching AVX-512", _ahead, true);

#else
typedef int cf_kernels_avx512_unused;
#endif
