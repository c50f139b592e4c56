/* Arithmetic of sizes and counts. */
#ifndef CF_BASE_INTEGERS_H
#define CF_BASE_INTEGERS_H

#include <stdint.h>

static inline int32_t cf_min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t cf_max(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Both of a ≥ 0 and b > 0, a + b - 1 within range. */
static inline int32_t cf_divide_up(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static inline int32_t cf_round_up(int32_t a, int32_t b)
{
    return cf_divide_up(a, b) * b;
}

#endif
