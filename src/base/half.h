/* Conversions between float32 and the two 16-bit formats, in plain C: the reference for all others.
 */
#ifndef CF_BASE_HALF_H
#define CF_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t cf_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float cf_float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16 → binary32, exact; NaNs stay NaNs. */
static inline float cf_float_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1Fu;
    uint32_t fraction = half & 0x3FFu;
    if (exponent == 0x1F)
        return cf_float_from_bits(sign | 0x7F800000u | (fraction << 13));
    if (exponent != 0)
        return cf_float_from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
    /* Subnormals count in units of 2^-24. */
    float magnitude = (float)fraction * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

/* binary32 → binary16, to nearest, ties to even; overflow gives infinity. */
static inline uint16_t cf_f16_from_float(float value)
{
    uint32_t bits = cf_float_bits(value);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u);
    if (magnitude >= 0x477FF000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 2^-1 aligns the last bit to 2^-24 */
        float aligned = cf_float_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (cf_float_bits(aligned) - 0x3F000000u));
    }
    uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

/* bfloat16 → binary32, exact. */
static inline float cf_float_from_bf16(uint16_t half)
{
    return cf_float_from_bits((uint32_t)half << 16);
}

/* binary32 → bfloat16, to nearest, ties to even; NaNs stay NaNs. */
static inline uint16_t cf_bf16_from_float(float value)
{
    uint32_t bits = cf_float_bits(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

#endif
