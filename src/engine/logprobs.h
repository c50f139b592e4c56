/* Passes over a row of logits: the largest, the sum of exponentials, the few best. */
#ifndef CF_ENGINE_LOGPROBS_H
#define CF_ENGINE_LOGPROBS_H

#include "clusterfusion.h"

/* The most alternatives that are reported for one token. */
#define CF_MAX_TOP 64

/* The largest value; -INFINITY when there is none. NaNs are passed over. */
float cf_logits_max(const float *logits, size_t n);

/* The first index of the largest value. */
cf_token cf_logits_best(const float *logits, size_t n);

/* weights[i] = exp((logits[i] - max) / temperature); `max` is the largest, -INFINITY gives 0. */
void cf_logits_exp(const float *logits, size_t n, float max, float temperature, float *weights);

/*
 * log Σ exp(logits): what is to be subtracted from a logit to give its log-probability. Not finite
 * when a logit is NaN or +INFINITY, or all are -INFINITY. Relative error of the sum: 1e-6.
 */
double cf_logits_log_sum(const float *logits, size_t n);

/* The `n_top` ≤ CF_MAX_TOP most probable, best first, ties by the lower id; fewer if n is less. */
size_t cf_logits_top(const float *logits, size_t n, double log_sum, size_t n_top,
                     cf_alternative *top);

#endif
