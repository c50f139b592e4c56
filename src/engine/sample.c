#include "engine/sample.h"

#include "base/memory.h"
#include "base/random.h"
#include "engine/arguments.h"
#include "engine/logprobs.h"

#include <math.h>
#include <string.h>

/* Bounds under which no logit of a model can overflow; stated in the header. */
#define MAX_PENALTY 1000.0f
#define MAX_BIAS 1e9f
#define MAX_TEMPERATURE 1e9f

static cf_status check_bias(const cf_sampling *options, int32_t n_vocab, cf_error *error)
{
    if (options->n_bias > 0)
        CF_NEED(options->bias, error);
    for (size_t i = 0; i < options->n_bias; i++) {
        const cf_logit_bias *entry = &options->bias[i];
        if (entry->id < 0 || entry->id >= n_vocab)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                           "bias %zu is for id %d, the vocabulary has 0 to %d", i, entry->id,
                           n_vocab - 1);
        if (!(fabsf(entry->bias) <= MAX_BIAS) && entry->bias != -INFINITY)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                           "bias of id %d is %g, expected %g to %g or -infinity", entry->id,
                           (double)entry->bias, -(double)MAX_BIAS, (double)MAX_BIAS);
    }
    return CF_STATUS_OK;
}

/* Checks the bounds and replaces every "0 means off" by the value that does nothing. */
static cf_status read_sampling(const cf_sampling *from, int32_t n_vocab, cf_sampling *options,
                               cf_error *error)
{
    CF_TRY(cf_options_read(from, options, sizeof *options, "sampling", error));
    CF_TRY(cf_check_integer("top_k", options->top_k, 0, INT32_MAX, error));
    if (options->top_p == 0)
        options->top_p = 1;
    if (options->repetition_penalty == 0)
        options->repetition_penalty = 1;
    if (options->top_k == 0 || options->top_k > n_vocab)
        options->top_k = n_vocab;
    CF_TRY(cf_check_real("temperature", options->temperature, 0, MAX_TEMPERATURE, error));
    CF_TRY(cf_check_real("top_p", options->top_p, 0, 1, error));
    if (!(options->min_p >= 0) || !(options->min_p < 1))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "min_p is %g, expected at least 0 and less than 1", (double)options->min_p);
    CF_TRY(cf_check_real("repetition_penalty", options->repetition_penalty, 1 / MAX_PENALTY,
                         MAX_PENALTY, error));
    CF_TRY(cf_check_real("presence_penalty", options->presence_penalty, -MAX_PENALTY, MAX_PENALTY,
                         error));
    CF_TRY(cf_check_real("frequency_penalty", options->frequency_penalty, -MAX_PENALTY, MAX_PENALTY,
                         error));
    return check_bias(options, n_vocab, error);
}

static bool has_penalties(const cf_sampling *options)
{
    return options->repetition_penalty != 1 || options->presence_penalty != 0 ||
           options->frequency_penalty != 0;
}

static bool has_adjustments(const cf_sampler *sampler)
{
    return sampler->counts != NULL || sampler->options.n_bias > 0;
}

static cf_status reserve(cf_sampler *sampler, bool may_ban, cf_error *error)
{
    cf_sampling *options = &sampler->options;
    const cf_logit_bias *bias = options->bias;
    cf_logit_bias *copy = NULL;
    options->bias = NULL;
    if (options->n_bias > 0) {
        CF_TRY(CF_ALLOC(&copy, options->n_bias, "logit bias", error));
        memcpy(copy, bias, options->n_bias * sizeof *bias);
        options->bias = copy;
    }
    size_t n = sampler->n_vocab;
    if (has_penalties(options)) {
        CF_TRY(CF_ALLOC(&sampler->counts, n, "token counts", error));
        CF_TRY(CF_ALLOC(&sampler->is_seen, n, "seen tokens", error));
        CF_TRY(CF_ALLOC(&sampler->seen, n, "seen tokens", error));
    }
    cf_candidates *candidates = &sampler->candidates;
    if (options->temperature > 0 || has_adjustments(sampler) || may_ban)
        CF_TRY(CF_ALLOC(&candidates->logits, n, "adjusted logits", error));
    if (options->temperature > 0) {
        CF_TRY(CF_ALLOC(&candidates->weights, n, "probabilities", error));
        CF_TRY(CF_ALLOC(&candidates->ids, n, "candidates", error));
    }
    return CF_STATUS_OK;
}

cf_status cf_sampler_create(const cf_sampling *options, int32_t n_vocab, bool may_ban,
                            cf_sampler *sampler, cf_error *error)
{
    cf_sampling read;
    CF_TRY(read_sampling(options, n_vocab, &read, error));
    *sampler = (cf_sampler){.options = read, .n_vocab = (size_t)n_vocab};
    cf_status status = reserve(sampler, may_ban, error);
    if (status != CF_STATUS_OK)
        cf_sampler_free(sampler);
    return status;
}

void cf_sampler_free(cf_sampler *sampler)
{
    cf_dealloc((void *)(uintptr_t)sampler->options.bias);
    cf_dealloc(sampler->candidates.ids);
    cf_dealloc(sampler->candidates.logits);
    cf_dealloc(sampler->candidates.weights);
    cf_dealloc(sampler->counts);
    cf_dealloc(sampler->is_seen);
    cf_dealloc(sampler->seen);
    *sampler = (cf_sampler){0};
}

void cf_sampler_see(cf_sampler *sampler, cf_token id, bool is_generated)
{
    if (sampler->counts == NULL)
        return;
    if (!sampler->is_seen[id]) {
        sampler->is_seen[id] = 1;
        sampler->seen[sampler->n_seen++] = id;
    }
    if (is_generated)
        sampler->counts[id]++;
}

/* Penalties, bias and bans, in the header's order, into candidates.logits. */
static void adjust(cf_sampler *sampler, const float *logits, const cf_token *banned,
                   size_t n_banned)
{
    const cf_sampling *options = &sampler->options;
    float *adjusted = sampler->candidates.logits;
    memcpy(adjusted, logits, sampler->n_vocab * sizeof *logits);
    for (size_t i = 0; i < sampler->n_seen; i++) {
        cf_token id = sampler->seen[i];
        float logit = adjusted[id], r = options->repetition_penalty;
        uint32_t count = sampler->counts[id];
        logit = logit > 0 ? logit / r : logit * r;
        logit -= options->frequency_penalty * (float)count;
        logit -= count > 0 ? options->presence_penalty : 0;
        adjusted[id] = logit;
    }
    for (size_t i = 0; i < options->n_bias; i++)
        adjusted[options->bias[i].id] += options->bias[i].bias;
    for (size_t i = 0; i < n_banned; i++)
        adjusted[banned[i]] = -INFINITY;
}

static bool sample(cf_sampler *sampler, const float *logits, size_t index, cf_token *token)
{
    const cf_sampling *options = &sampler->options;
    cf_candidates *candidates = &sampler->candidates;
    if (!cf_candidates_fill(candidates, logits, sampler->n_vocab, options->temperature))
        return false;
    cf_candidates_top_k(candidates, (size_t)options->top_k);
    cf_candidates_top_p(candidates, (double)options->top_p);
    cf_candidates_min_p(candidates, options->min_p);
    *token = cf_candidates_draw(candidates, cf_random_uniform(options->seed, index));
    return true;
}

cf_status cf_sampler_choose(cf_sampler *sampler, const float *logits, const cf_token *banned,
                            size_t n_banned, size_t index, cf_token *token, cf_error *error)
{
    if (has_adjustments(sampler) || n_banned > 0) {
        adjust(sampler, logits, banned, n_banned);
        logits = sampler->candidates.logits;
    }
    bool chosen;
    if (sampler->options.temperature > 0) {
        chosen = sample(sampler, logits, index, token);
    } else {
        *token = cf_logits_best(logits, sampler->n_vocab);
        chosen = isfinite(logits[*token]);
    }
    if (!chosen)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "logit bias and min_tokens leave no token to choose");
    return CF_STATUS_OK;
}
