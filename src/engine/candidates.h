/* The tokens that a sampled choice is between, and the filters that narrow them. */
#ifndef CF_ENGINE_CANDIDATES_H
#define CF_ENGINE_CANDIDATES_H

#include "clusterfusion.h"

typedef struct cf_candidates {
    size_t n;
    cf_token *ids;  /* [n], ascending */
    float *logits;  /* [n], after penalties and bias, before temperature */
    float *weights; /* [n], probabilities over that of the most probable */
} cf_candidates;

/*
 * Makes all `n` tokens candidates; the arrays hold at least n. `logits` may be candidates->logits.
 * Returns false if no logit is finite, or one is NaN or +INFINITY.
 */
bool cf_candidates_fill(cf_candidates *candidates, const float *logits, size_t n,
                        float temperature);

/* Each keeps at least one, and needs no sort: a few passes over the candidates at most. */
void cf_candidates_top_k(cf_candidates *candidates, size_t k);
void cf_candidates_top_p(cf_candidates *candidates, double p);
void cf_candidates_min_p(cf_candidates *candidates, float p);

/* The candidate that the random number u in [0, 1) points at, in proportion to the weights. */
cf_token cf_candidates_draw(const cf_candidates *candidates, double u);

#endif
