#include "engine/candidates.h"

#include "base/half.h"
#include "engine/logprobs.h"

#include <math.h>

/*
 * The filters find their threshold digit by digit in the logits' order-preserving bits, as a radix
 * sort would, but follow only the digit in which the threshold lies.
 */
#define DIGIT_BITS 11
#define N_DIGITS (1 << DIGIT_BITS)
static const int shifts[] = {32 - DIGIT_BITS, 32 - 2 * DIGIT_BITS, 0}; /* the last two overlap */

#define LANES 16
#define BLOCK 256

/* What is kept: every key above `key`, with `above` in sum, then ties at `key` up to the need. */
typedef struct threshold {
    uint32_t key;
    double above;
} threshold;

/* Greater floats have greater keys; both zeros have the same. */
static inline uint32_t key_of(float logit)
{
    uint32_t bits = cf_float_bits(logit + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static double block_sum(const float *weights, size_t n)
{
    double lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] += (double)weights[i + j];
    for (; i < n; i++)
        lanes[i % LANES] += (double)weights[i];
    double sum = 0;
    for (size_t j = 0; j < LANES; j++)
        sum += lanes[j];
    return sum;
}

static double total_weight(const cf_candidates *candidates)
{
    double sum = 0;
    for (size_t i = 0; i < candidates->n; i += BLOCK) {
        size_t left = candidates->n - i;
        sum += block_sum(candidates->weights + i, left < BLOCK ? left : BLOCK);
    }
    return sum;
}

bool cf_candidates_fill(cf_candidates *candidates, const float *logits, size_t n, float temperature)
{
    candidates->n = n;
    for (size_t i = 0; i < n; i++)
        candidates->ids[i] = (cf_token)i;
    if (candidates->logits != logits)
        for (size_t i = 0; i < n; i++)
            candidates->logits[i] = logits[i];
    float max = cf_logits_max(logits, n);
    if (!isfinite(max))
        return false;
    cf_logits_exp(logits, n, max, temperature, candidates->weights);
    return isfinite(total_weight(candidates));
}

static double amount(const cf_candidates *candidates, size_t i, bool by_weight)
{
    return by_weight ? (double)candidates->weights[i] : 1.0;
}

/* Sums the amounts of those whose key agrees with `prefix` above `shift` + DIGIT_BITS, by digit. */
static void sum_digits(const cf_candidates *candidates, bool by_weight, uint32_t prefix,
                       uint32_t prefix_mask, int shift, double sums[N_DIGITS])
{
    for (size_t i = 0; i < N_DIGITS; i++)
        sums[i] = 0;
    for (size_t i = 0; i < candidates->n; i++) {
        uint32_t key = key_of(candidates->logits[i]);
        if ((key & prefix_mask) == prefix)
            sums[(key >> shift) & (N_DIGITS - 1)] += amount(candidates, i, by_weight);
    }
}

/*
 * The digit in which the sum from the top reaches `need`; *above becomes the sum over it. Rounding
 * may leave the sum of all a little short: then the lowest digit with any amount.
 */
static uint32_t find_digit(const double sums[N_DIGITS], double need, double *above)
{
    uint32_t lowest = N_DIGITS - 1;
    double before_lowest = *above, sum = *above;
    for (uint32_t digit = N_DIGITS; digit-- > 0;) {
        if (!(sums[digit] > 0))
            continue;
        lowest = digit;
        before_lowest = sum;
        sum += sums[digit];
        if (sum >= need)
            break;
    }
    *above = before_lowest;
    return lowest;
}

static threshold find_threshold(const cf_candidates *candidates, bool by_weight, double need)
{
    double sums[N_DIGITS];
    threshold found = {0};
    uint32_t mask = 0;
    for (size_t level = 0; level < sizeof shifts / sizeof shifts[0]; level++) {
        int shift = shifts[level];
        sum_digits(candidates, by_weight, found.key, mask, shift, sums);
        found.key |= find_digit(sums, need, &found.above) << shift;
        mask |= (uint32_t)(N_DIGITS - 1) << shift;
    }
    return found;
}

static void keep(cf_candidates *candidates, size_t to, size_t from)
{
    candidates->ids[to] = candidates->ids[from];
    candidates->logits[to] = candidates->logits[from];
    candidates->weights[to] = candidates->weights[from];
}

/* The most probable whose amounts reach `need`; ties in the order of their ids. */
static void keep_most_probable(cf_candidates *candidates, bool by_weight, double need)
{
    threshold limit = find_threshold(candidates, by_weight, need);
    double sum = limit.above;
    size_t n = 0;
    for (size_t i = 0; i < candidates->n; i++) {
        uint32_t key = key_of(candidates->logits[i]);
        if (key < limit.key || (key == limit.key && sum >= need))
            continue;
        if (key == limit.key)
            sum += amount(candidates, i, by_weight);
        keep(candidates, n++, i);
    }
    candidates->n = n;
}

void cf_candidates_top_k(cf_candidates *candidates, size_t k)
{
    if (k < candidates->n)
        keep_most_probable(candidates, false, (double)(k > 0 ? k : 1));
}

void cf_candidates_top_p(cf_candidates *candidates, double p)
{
    if (p < 1)
        keep_most_probable(candidates, true, p * total_weight(candidates));
}

void cf_candidates_min_p(cf_candidates *candidates, float p)
{
    size_t n = 0;
    for (size_t i = 0; i < candidates->n; i++)
        if (candidates->weights[i] >= p)
            keep(candidates, n++, i);
    candidates->n = n;
}

cf_token cf_candidates_draw(const cf_candidates *candidates, double u)
{
    double total = total_weight(candidates);
    double target = fmin(u * total, nextafter(total, 0)), sum = 0;
    size_t last = 0; /* with any weight: rounding may leave the sum short of the target */
    for (size_t start = 0; start < candidates->n; start += BLOCK) {
        size_t left = candidates->n - start, n = left < BLOCK ? left : BLOCK;
        double block = block_sum(candidates->weights + start, n);
        if (sum + block <= target && start + n < candidates->n) {
            sum += block;
            continue;
        }
        for (size_t i = start; i < start + n; i++) {
            if (!(candidates->weights[i] > 0))
                continue;
            last = i;
            sum += (double)candidates->weights[i];
            if (sum > target)
                return candidates->ids[i];
        }
    }
    return candidates->ids[last];
}
