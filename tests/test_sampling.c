/* Choosing tokens: filters against a naive reference, distributions against exact probabilities. */
#include "support/support.h"

#include "base/clock.h"
#include "base/random.h"
#include "engine/logprobs.h"
#include "engine/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VOCAB 3000

static cf_error error;

/* ---- The reference: sorts everything, in double ---- */

typedef struct option {
    double logit, probability;
    int id;
} option;

static int compare_options(const void *left, const void *right)
{
    const option *a = left, *b = right;
    if (a->logit != b->logit)
        return a->logit > b->logit ? -1 : 1;
    return a->id - b->id;
}

static void normalise(option *options, int n)
{
    double total = 0;
    for (int i = 0; i < n; i++)
        total += options[i].probability;
    for (int i = 0; i < n; i++)
        options[i].probability /= total;
}

/* Best first; returns how many are left. */
static int reference_filter(const float *logits, int n, const cf_sampling *sampling,
                            option *options)
{
    double max = -INFINITY;
    for (int i = 0; i < n; i++)
        max = fmax(max, (double)logits[i]);
    for (int i = 0; i < n; i++) {
        double x = ((double)logits[i] - max) / (double)sampling->temperature;
        options[i] = (option){(double)logits[i], exp(x), i};
    }
    qsort(options, (size_t)n, sizeof *options, compare_options);
    if (sampling->top_k > 0 && sampling->top_k < n)
        n = sampling->top_k;
    normalise(options, n);
    if (sampling->top_p > 0 && sampling->top_p < 1) {
        double sum = 0;
        int n_kept = 0;
        while (n_kept < n && sum < (double)sampling->top_p)
            sum += options[n_kept++].probability;
        n = n_kept;
        normalise(options, n);
    }
    int n_kept = 0;
    while (n_kept < n &&
           options[n_kept].probability >= (double)sampling->min_p * options[0].probability)
        n_kept++;
    normalise(options, n_kept);
    return n_kept;
}

/* ---- Filters ---- */

static cf_token ids[MAX_VOCAB];
static float logits[MAX_VOCAB], work[MAX_VOCAB], weights[MAX_VOCAB];
static option options[MAX_VOCAB];

static cf_candidates filter(const float *from, size_t n, const cf_sampling *sampling)
{
    cf_candidates candidates = {.ids = ids, .logits = work, .weights = weights};
    assert_true(cf_candidates_fill(&candidates, from, n, sampling->temperature));
    if (sampling->top_k > 0)
        cf_candidates_top_k(&candidates, (size_t)sampling->top_k);
    if (sampling->top_p > 0)
        cf_candidates_top_p(&candidates, (double)sampling->top_p);
    cf_candidates_min_p(&candidates, sampling->min_p);
    return candidates;
}

static void random_logits(size_t n, uint64_t seed, bool has_ties)
{
    for (size_t i = 0; i < n; i++) {
        double u = cf_random_uniform(seed, 2 * i), v = cf_random_uniform(seed, 2 * i + 1);
        double normal = sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
        logits[i] = (float)(3 * normal);
        if (has_ties)
            logits[i] = rintf(logits[i]); /* both zeros among them */
    }
}

/*
 * Whether rounding alone can decide about a threshold: the float weights have relative errors of a
 * few 1e-7, so that a sum this near to p, or a ratio this near to min_p, may fall on either side.
 */
static bool is_too_close(size_t n, const cf_sampling *sampling)
{
    cf_sampling wider = *sampling, narrower = *sampling;
    wider.top_p = sampling->top_p > 0 ? fminf(1, sampling->top_p + 2e-6f) : 0;
    narrower.top_p = sampling->top_p > 0 ? sampling->top_p - 2e-6f : 0;
    wider.min_p = sampling->min_p * (1 - 2e-6f);
    narrower.min_p = sampling->min_p * (1 + 2e-6f);
    return reference_filter(logits, (int)n, &wider, options) !=
           reference_filter(logits, (int)n, &narrower, options);
}

static void check_filters(size_t n, const cf_sampling *sampling)
{
    cf_candidates found = filter(logits, n, sampling);
    int n_expected = reference_filter(logits, (int)n, sampling, options);
    assert_int_equal(found.n, n_expected);
    double total = 0;
    for (size_t i = 0; i < found.n; i++) {
        assert_true(i == 0 || found.ids[i - 1] < found.ids[i]);
        assert_true(found.logits[i] == logits[found.ids[i]]);
        total += (double)found.weights[i];
    }
    for (int i = 0; i < n_expected; i++) {
        size_t at = 0;
        while (at < found.n && found.ids[at] != options[i].id)
            at++;
        assert_true(at < found.n);
        /* exp of an argument up to 87 that is rounded to 24 bits errs by up to 5e-6 of itself. */
        double difference = fabs((double)found.weights[at] / total - options[i].probability);
        assert_true(difference <= 1e-5 * options[i].probability + 1e-37);
    }
}

static void filters_keep_what_a_full_sort_would(void **state)
{
    (void)state;
    int n_checked = 0, n_close = 0;
    for (uint64_t seed = 0; seed < 600; seed++) {
        double u[6];
        for (uint64_t i = 0; i < 6; i++)
            u[i] = cf_random_uniform(1000 + seed, i);
        size_t n = 1 + (size_t)(u[0] * (seed % 10 == 0 ? MAX_VOCAB - 1 : 100));
        cf_sampling sampling = {.temperature = (float)(0.05 + 2 * u[1])};
        if (seed % 2)
            sampling.top_k = 1 + (int32_t)(u[2] * 1.2 * (double)n);
        if (seed / 2 % 2)
            sampling.top_p = (float)(0.001 + 0.998 * u[3]);
        if (seed / 4 % 2)
            sampling.min_p = (float)(u[4] * u[4]);
        random_logits(n, seed, seed / 8 % 2);
        if (is_too_close(n, &sampling)) {
            n_close++;
            continue;
        }
        check_filters(n, &sampling);
        n_checked++;
    }
    assert_true(n_checked > 550 && n_checked + n_close == 600);
}

static void ties_are_broken_by_the_lower_id(void **state)
{
    (void)state;
    float flat[8] = {1, 2, 2, -0.0f, 0.0f, 2, 0.0f, 1};
    cf_sampling sampling = {.temperature = 1, .top_k = 2};
    cf_candidates found = filter(flat, 8, &sampling);
    assert_int_equal(found.n, 2);
    assert_true(found.ids[0] == 1 && found.ids[1] == 2);
    sampling.top_k = 6;
    found = filter(flat, 8, &sampling);
    assert_int_equal(found.n, 6);
    assert_true(found.ids[3] == 3 && found.ids[4] == 5 && found.ids[5] == 7);
    float same[8] = {5, 5, 5, 5, 5, 5, 5, 5};
    sampling = (cf_sampling){.temperature = 1, .top_p = 0.5f};
    found = filter(same, 8, &sampling);
    assert_int_equal(found.n, 4);
    assert_int_equal(found.ids[3], 3);
}

static void extremes_keep_the_most_probable(void **state)
{
    (void)state;
    float values[5] = {-3e38f, 3e38f, 2.9e38f, -INFINITY, 0};
    cf_sampling sampling = {.temperature = 1e-45f, .top_p = 1e-45f, .min_p = 0.999f, .top_k = 4};
    cf_candidates found = filter(values, 5, &sampling);
    assert_int_equal(found.n, 1);
    assert_int_equal(found.ids[0], 1);
    assert_int_equal(cf_candidates_draw(&found, 0), 1);
    assert_int_equal(cf_candidates_draw(&found, 1 - 0x1p-53), 1);
    cf_candidates candidates = {.ids = ids, .logits = work, .weights = weights};
    float banned[2] = {-INFINITY, -INFINITY}, nan[2] = {NAN, 1}, infinite[2] = {1, INFINITY};
    assert_false(cf_candidates_fill(&candidates, banned, 2, 1));
    assert_false(cf_candidates_fill(&candidates, nan, 2, 1));
    assert_false(cf_candidates_fill(&candidates, infinite, 2, 1));
}

static void a_draw_never_gives_what_has_no_weight(void **state)
{
    (void)state;
    enum { N = 1000 };
    for (size_t i = 0; i < N; i++)
        logits[i] = i == 300 || i == 700 ? 1 : -INFINITY;
    cf_sampling sampling = {.temperature = 1};
    cf_candidates found = filter(logits, N, &sampling);
    static const double edges[] = {0, 0x1p-53, 0.5 - 0x1p-53, 0.5, 0.75, 1 - 0x1p-53};
    static const cf_token expected[] = {300, 300, 300, 700, 700, 700};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        assert_int_equal(cf_candidates_draw(&found, edges[i]), expected[i]);
}

/* ---- Distributions ---- */

enum { N_SMALL = 12, N_DRAWS = 40000 };

static const float small_logits[N_SMALL] = {1.5f, -0.3f, 2.1f, 0.0f, 2.1f,  -4.0f,
                                            0.7f, 1.1f,  0.4f, 3.0f, -1.2f, 0.9f};

/* Prompt 9 4 9, then 2 9 2 generated. */
static void see_history(cf_sampler *sampler)
{
    static const cf_token prompt[] = {9, 4, 9}, generated[] = {2, 9, 2};
    for (size_t i = 0; i < 3; i++)
        cf_sampler_see(sampler, prompt[i], false);
    for (size_t i = 0; i < 3; i++)
        cf_sampler_see(sampler, generated[i], true);
}

/* What the history and the bias make of the logits, spelled out as the header says it. */
static void reference_adjust(const cf_sampling *sampling, float adjusted[N_SMALL])
{
    static const int counts[N_SMALL] = {[2] = 2, [9] = 1};
    static const bool is_seen[N_SMALL] = {[2] = true, [4] = true, [9] = true};
    for (int i = 0; i < N_SMALL; i++) {
        double l = (double)small_logits[i], r = (double)sampling->repetition_penalty;
        if (is_seen[i] && r != 0)
            l = l > 0 ? l / r : l * r;
        l -= (double)sampling->frequency_penalty * counts[i];
        l -= counts[i] > 0 ? (double)sampling->presence_penalty : 0;
        for (size_t j = 0; j < sampling->n_bias; j++)
            l += sampling->bias[j].id == i ? (double)sampling->bias[j].bias : 0;
        adjusted[i] = (float)l;
    }
}

/*
 * The 0.9999 quantile of chi-square with k degrees of freedom (Wilson and Hilferty's approximation,
 * z = 3.719): with fixed seeds the tests are repeatable, and one in ten thousand is a fault.
 */
static double chi_square_limit(int k)
{
    double t = 1 - 2.0 / (9 * k) + 3.719 * sqrt(2.0 / (9 * k));
    return k * t * t * t;
}

static void check_distribution(cf_sampling sampling)
{
    sampling.size = sizeof sampling;
    sampling.seed = 20240607;
    cf_sampler sampler;
    assert_ok(cf_sampler_create(&sampling, N_SMALL, false, &sampler, &error), error);
    see_history(&sampler);
    int counts[N_SMALL] = {0};
    for (size_t i = 0; i < N_DRAWS; i++) {
        cf_token token;
        assert_ok(cf_sampler_choose(&sampler, small_logits, NULL, 0, i, &token, &error), error);
        assert_in_range(token, 0, N_SMALL - 1);
        counts[token]++;
    }
    cf_sampler_free(&sampler);
    float adjusted[N_SMALL];
    reference_adjust(&sampling, adjusted);
    int n = reference_filter(adjusted, N_SMALL, &sampling, options), n_drawn = 0;
    double chi_square = 0;
    for (int i = 0; i < n; i++) {
        double expected = N_DRAWS * options[i].probability;
        double difference = counts[options[i].id] - expected;
        if (expected > 0)
            chi_square += difference * difference / expected;
        n_drawn += counts[options[i].id];
    }
    assert_int_equal(n_drawn, N_DRAWS); /* nothing that was filtered out */
    if (n > 1 && !(chi_square < chi_square_limit(n - 1)))
        fail_msg("chi-square %g with %d degrees of freedom", chi_square, n - 1);
}

static void temperature_gives_its_distribution(void **state)
{
    (void)state;
    check_distribution((cf_sampling){.temperature = 1});
    check_distribution((cf_sampling){.temperature = 0.4f});
    check_distribution((cf_sampling){.temperature = 3});
}

static void filters_give_their_distributions(void **state)
{
    (void)state;
    check_distribution((cf_sampling){.temperature = 1, .top_k = 4});
    check_distribution((cf_sampling){.temperature = 1, .top_p = 0.7f});
    check_distribution((cf_sampling){.temperature = 1, .min_p = 0.2f});
    check_distribution(
        (cf_sampling){.temperature = 1.3f, .top_k = 8, .top_p = 0.85f, .min_p = 0.1f});
}

static void penalties_give_their_distributions(void **state)
{
    (void)state;
    check_distribution((cf_sampling){.temperature = 1, .repetition_penalty = 1.8f});
    check_distribution((cf_sampling){.temperature = 1, .repetition_penalty = 0.5f});
    check_distribution((cf_sampling){.temperature = 1, .presence_penalty = 1.5f});
    check_distribution((cf_sampling){.temperature = 1, .frequency_penalty = 0.8f});
    check_distribution((cf_sampling){.temperature = 1, .frequency_penalty = -0.8f});
}

static void bias_gives_its_distribution(void **state)
{
    (void)state;
    static const cf_logit_bias bias[] = {{9, -1}, {5, 6}, {9, -0.5f}, {2, -INFINITY}, {2, 100}};
    check_distribution((cf_sampling){.temperature = 1, .bias = bias, .n_bias = 5});
    check_distribution((cf_sampling){.temperature = 0.8f,
                                     .top_k = 9,
                                     .top_p = 0.9f,
                                     .repetition_penalty = 1.2f,
                                     .presence_penalty = 0.3f,
                                     .frequency_penalty = 0.2f,
                                     .bias = bias,
                                     .n_bias = 5});
}

/* ---- The sampler ---- */

static cf_token choose(const cf_sampling *sampling, const float *from, int32_t n, size_t index)
{
    cf_sampler sampler;
    cf_token token = -1;
    assert_ok(cf_sampler_create(sampling, n, false, &sampler, &error), error);
    assert_ok(cf_sampler_choose(&sampler, from, NULL, 0, index, &token, &error), error);
    cf_sampler_free(&sampler);
    return token;
}

static void greedy_is_the_first_of_the_best(void **state)
{
    (void)state;
    for (int n = 1; n <= 70; n++)
        for (int best = 0; best < n; best++) {
            for (int i = 0; i < n; i++)
                logits[i] = i == best || i == best + 3 ? -1 : -2;
            assert_int_equal(choose(NULL, logits, n, 0), best);
        }
}

static void greedy_heeds_penalties_bias_and_bans(void **state)
{
    (void)state;
    static const cf_logit_bias bias[] = {{9, -1}};
    cf_sampling sampling = {.size = sizeof sampling, .bias = bias, .n_bias = 1};
    assert_int_equal(choose(NULL, small_logits, N_SMALL, 0), 9);
    assert_int_equal(choose(&sampling, small_logits, N_SMALL, 0), 2);
    cf_sampler sampler;
    cf_token token, banned[] = {9, 2};
    assert_ok(cf_sampler_create(NULL, N_SMALL, true, &sampler, &error), error);
    assert_ok(cf_sampler_choose(&sampler, small_logits, banned, 2, 0, &token, &error), error);
    assert_int_equal(token, 4);
    cf_sampler_free(&sampler);
    sampling = (cf_sampling){.size = sizeof sampling, .repetition_penalty = 2};
    assert_ok(cf_sampler_create(&sampling, N_SMALL, true, &sampler, &error), error);
    see_history(&sampler);
    assert_ok(cf_sampler_choose(&sampler, small_logits, NULL, 0, 0, &token, &error), error);
    assert_int_equal(token,
                     0); /* 9, 2 and 4 are halved to 1.5, 1.05, 1.05; 0 has 1.5, a lower id */
    cf_sampler_free(&sampler);
}

static void the_same_seed_and_position_give_the_same_token(void **state)
{
    (void)state;
    cf_sampling sampling = {.size = sizeof sampling, .temperature = 2, .seed = 5};
    int n_same_seed = 0, n_other_seed = 0;
    for (size_t i = 0; i < 200; i++) {
        cf_token first = choose(&sampling, small_logits, N_SMALL, i);
        n_same_seed += choose(&sampling, small_logits, N_SMALL, i) == first;
        cf_sampling other = sampling;
        other.seed = 6;
        n_other_seed += choose(&other, small_logits, N_SMALL, i) == first;
    }
    assert_int_equal(n_same_seed, 200);
    assert_true(n_other_seed < 100);
}

static void no_token_left_is_an_error(void **state)
{
    (void)state;
    static const cf_logit_bias bias[] = {{0, -INFINITY}, {1, -INFINITY}};
    cf_sampling sampling = {.size = sizeof sampling, .bias = bias, .n_bias = 2};
    for (int i = 0; i < 2; i++) {
        cf_sampler sampler;
        cf_token token;
        sampling.temperature = (float)i;
        assert_ok(cf_sampler_create(&sampling, 2, true, &sampler, &error), error);
        assert_fails(cf_sampler_choose(&sampler, small_logits, NULL, 0, 0, &token, &error),
                     CF_STATUS_INVALID_ARGUMENT, error, "no token");
        cf_sampler_free(&sampler);
    }
}

static void sampling_options_have_bounds(void **state)
{
    (void)state;
    static const cf_logit_bias outside[] = {{2, 0}, {12, 0}}, nan[] = {{3, NAN}},
                               infinite[] = {{3, INFINITY}};
    static const struct {
        cf_sampling sampling;
        const char *part;
    } cases[] = {
        {{.temperature = -0.1f}, "temperature is -0.1"},
        {{.temperature = NAN}, "temperature"},
        {{.temperature = INFINITY}, "temperature"},
        {{.top_k = -1}, "top_k is -1, expected 0 to 2147483647"},
        {{.top_p = -0.5f}, "top_p"},
        {{.top_p = 1.5f}, "top_p is 1.5"},
        {{.top_p = NAN}, "top_p"},
        {{.min_p = 1}, "min_p is 1, expected at least 0 and less than 1"},
        {{.min_p = -0.1f}, "min_p"},
        {{.repetition_penalty = -1}, "repetition_penalty"},
        {{.repetition_penalty = 1e-5f}, "repetition_penalty"},
        {{.presence_penalty = NAN}, "presence_penalty"},
        {{.frequency_penalty = 1e4f}, "frequency_penalty"},
        {{.bias = outside, .n_bias = 2}, "bias 1 is for id 12"},
        {{.bias = nan, .n_bias = 1}, "bias of id 3"},
        {{.bias = infinite, .n_bias = 1}, "bias of id 3"},
        {{.bias = NULL, .n_bias = 1}, "bias is NULL"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cf_sampling sampling = cases[i].sampling;
        sampling.size = sizeof sampling;
        cf_sampler sampler;
        assert_fails(cf_sampler_create(&sampling, 12, false, &sampler, &error),
                     CF_STATUS_INVALID_ARGUMENT, error, cases[i].part);
    }
    cf_sampling none = {.size = 0};
    cf_sampler sampler;
    assert_fails(cf_sampler_create(&none, 12, false, &sampler, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "size");
}

/* ---- Log-probabilities ---- */

static void log_sums_agree_with_double(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        size_t n = 1 + (size_t)(cf_random_uniform(9, seed) * (MAX_VOCAB - 1));
        random_logits(n, seed, false);
        for (size_t i = 0; i < n; i++)
            logits[i] += seed % 3 == 0 ? 500 : 0;
        double max = -INFINITY, sum = 0;
        for (size_t i = 0; i < n; i++)
            max = fmax(max, (double)logits[i]);
        for (size_t i = 0; i < n; i++)
            sum += exp((double)logits[i] - max);
        /* The sum's relative error, as logprobs.h bounds it, is the logarithm's absolute one. */
        assert_true(fabs(cf_logits_log_sum(logits, n) - (max + log(sum))) < 1e-6);
    }
}

static bool has_finite_sum(size_t n)
{
    return isfinite(cf_logits_log_sum(logits, n)) != 0;
}

static void log_sums_of_what_is_no_number_are_not_finite(void **state)
{
    (void)state;
    for (size_t n = 1; n < 40; n++)
        for (size_t at = 0; at < n; at++) {
            random_logits(n, n, false);
            logits[at] = NAN;
            assert_false(has_finite_sum(n));
            logits[at] = INFINITY;
            assert_false(has_finite_sum(n));
            logits[at] = -INFINITY;
            assert_int_equal(has_finite_sum(n), n > 1);
        }
}

static void the_best_come_first_and_ties_by_id(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        size_t n = 1 + (size_t)(cf_random_uniform(9, seed) * 300);
        random_logits(n, seed, seed % 2);
        cf_sampling plain = {.temperature = 1};
        reference_filter(logits, (int)n, &plain, options);
        cf_alternative top[CF_MAX_TOP];
        size_t n_top = seed % (CF_MAX_TOP + 1);
        double log_sum = cf_logits_log_sum(logits, n);
        size_t n_found = cf_logits_top(logits, n, log_sum, n_top, top);
        assert_int_equal(n_found, n_top < n ? n_top : n);
        for (size_t i = 0; i < n_found; i++) {
            assert_int_equal(top[i].id, options[i].id);
            assert_true(fabs((double)top[i].logprob - log(options[i].probability)) < 5e-6);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_keep_what_a_full_sort_would),
        cmocka_unit_test(ties_are_broken_by_the_lower_id),
        cmocka_unit_test(extremes_keep_the_most_probable),
        cmocka_unit_test(a_draw_never_gives_what_has_no_weight),
        cmocka_unit_test(temperature_gives_its_distribution),
        cmocka_unit_test(filters_give_their_distributions),
        cmocka_unit_test(penalties_give_their_distributions),
        cmocka_unit_test(bias_gives_its_distribution),
        cmocka_unit_test(greedy_is_the_first_of_the_best),
        cmocka_unit_test(greedy_heeds_penalties_bias_and_bans),
        cmocka_unit_test(the_same_seed_and_position_give_the_same_token),
        cmocka_unit_test(no_token_left_is_an_error),
        cmocka_unit_test(sampling_options_have_bounds),
        cmocka_unit_test(log_sums_agree_with_double),
        cmocka_unit_test(log_sums_of_what_is_no_number_are_not_finite),
        cmocka_unit_test(the_best_come_first_and_ties_by_id),
    };
    return cmocka_run_group_tests_name("sampling", tests, NULL, NULL);
}
