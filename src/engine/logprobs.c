#include "engine/logprobs.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

/*
 * Compilers may not reorder floating-point reductions, so these carry their own lanes: enough for
 * two vectors of AVX-512, in a fixed order on every machine.
 */
#define LANES 16
#define BLOCK 256 /* values between two flushes of float lanes to a double */

/* log2 e; ln 2 as a part with few bits and the rest, so that n × LN2_HIGH is exact. */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
/* Adding it rounds to an integer, which then lies in the low bits: 1.5 × 2^23. */
#define ROUNDER 12582912.0f
/* exp() of less is below the smallest normal float. */
#define EXP_LOWEST -87.0f

/*
 * exp(x) for x ≤ 0: x = n ln 2 + r, |r| ≤ ln 2 / 2, and Taylor's polynomial of degree 7, whose rest
 * is below r^8 / 8! = 5e-9. 0 below EXP_LOWEST; NaN stays NaN.
 */
static inline float exp_nonpositive(float x)
{
    float shifted = x * LOG2_E + ROUNDER;
    float n = shifted - ROUNDER;
    float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float scale = cf_float_from_bits((cf_float_bits(shifted) + 127u) << 23);
    /* A mask where a condition would keep compilers from making vectors of it. */
    uint32_t keep = 0u - (uint32_t) !(x < EXP_LOWEST);
    return cf_float_from_bits(cf_float_bits(p * scale) & keep);
}

float cf_logits_max(const float *logits, size_t n)
{
    float lanes[LANES];
    for (size_t j = 0; j < LANES; j++)
        lanes[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
    for (; i < n; i++)
        lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
    float max = lanes[0];
    for (size_t j = 1; j < LANES; j++)
        max = lanes[j] > max ? lanes[j] : max;
    return max;
}

cf_token cf_logits_best(const float *logits, size_t n)
{
    float max = cf_logits_max(logits, n);
    size_t best = 0;
    while (best + 1 < n && logits[best] != max)
        best++;
    return (cf_token)best;
}

void cf_logits_exp(const float *logits, size_t n, float max, float temperature, float *weights)
{
    for (size_t i = 0; i < n; i++)
        weights[i] = exp_nonpositive((logits[i] - max) / temperature);
}

/* Σ exp(logits - max) over at most BLOCK values. */
static double block_sum(const float *logits, size_t n, float max)
{
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] += exp_nonpositive(logits[i + j] - max);
    for (; i < n; i++)
        lanes[i % LANES] += exp_nonpositive(logits[i] - max);
    double sum = 0;
    for (size_t j = 0; j < LANES; j++)
        sum += (double)lanes[j];
    return sum;
}

double cf_logits_log_sum(const float *logits, size_t n)
{
    float max = cf_logits_max(logits, n);
    double sum = 0;
    for (size_t i = 0; i < n; i += BLOCK)
        sum += block_sum(logits + i, n - i < BLOCK ? n - i : BLOCK, max);
    return sum > 0 ? (double)max + log(sum) : -(double)INFINITY; /* also for NaN */
}

/* Whether a comes before b: more probable, or as probable with a lower id. */
static bool is_better(const cf_alternative *a, const cf_alternative *b)
{
    return a->logprob > b->logprob || (a->logprob == b->logprob && a->id < b->id);
}

size_t cf_logits_top(const float *logits, size_t n, double log_sum, size_t n_top,
                     cf_alternative *top)
{
    size_t n_found = 0;
    for (size_t i = 0; i < n && n_top > 0; i++) {
        /* Ids ascend, so that one as good as the last of a full list comes after it. */
        if (n_found == n_top && !(logits[i] > top[n_top - 1].logprob))
            continue;
        cf_alternative found = {.id = (cf_token)i, .logprob = logits[i]};
        size_t at = n_found < n_top ? n_found++ : n_top - 1;
        for (; at > 0 && is_better(&found, &top[at - 1]); at--)
            top[at] = top[at - 1];
        top[at] = found;
    }
    for (size_t i = 0; i < n_found; i++)
        top[i].logprob = (float)((double)top[i].logprob - log_sum);
    return n_found;
}
