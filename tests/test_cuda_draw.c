/*
 * Tokens that the GPU draws by itself, against the engine's own choice from the same logits.
 * Skipped by name where there is no GPU.
 */
#include "support/decoding.h"
#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include "base/random.h"
#include "engine/logprobs.h"

#include <math.h>
#include <stdlib.h>

enum { N_DRAWN = 120 };

/*
 * A cumulated probability: weights of relative error 2^-20 (exponents up to 20 in float32), their
 * sums less; so two ways to add them differ by 1e-6 of the total at most. Where top_p cuts, weights
 * are rounded to whole 2^-31 of the total each: 1,009 of them by 2.4e-7 together at worst, 50,304,
 * whose errors have either sign, by some 3e-8. A cut that is nearer than twice the former may keep
 * one token more or less, and of many that are alike that one is more than the tolerance.
 */
#define CUMULATED_TOLERANCE 4e-6
#define CUT_TOLERANCE 5e-7f

/* One logit in the order of the filters, with its weight. */
typedef struct ranked {
    double weight;
    float logit;
    cf_token id;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* How far the draw is from the share of the total that falls to `id`, by the header's definition in
 * float64; 1 if the filters leave it out. */
static double miss(const cf_sampling *options, const float *logits, size_t n, double u, cf_token id)
{
    ranked *all = malloc(n * sizeof *all);
    double total = 0, sum = 0, found = 1;
    for (size_t i = 0; i < n; i++)
        all[i] = (ranked){0, logits[i], (cf_token)i};
    qsort(all, n, sizeof *all, by_rank);
    for (size_t i = 0; i < n; i++)
        all[i].weight = exp(((double)all[i].logit - (double)all[0].logit) / options->temperature);
    n = (size_t)options->top_k < n ? (size_t)options->top_k : n;
    for (size_t i = 0; i < n; i++)
        total += all[i].weight;
    for (size_t i = 0; i < n; i++) {
        if (options->top_p < 1 && sum >= (double)options->top_p * total)
            n = i;
        sum += all[i].weight;
    }
    while (n > 1 && all[n - 1].weight < (double)options->min_p)
        n--;
    qsort(all, n, sizeof *all, by_id);
    total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += all[i].weight;
    for (size_t i = 0; i < n; i++) {
        double low = sum / total, high = (sum += all[i].weight) / total;
        if (all[i].id == id)
            found = u < low ? low - u : u > high ? u - high : 0;
    }
    free(all);
    return found;
}

/* The same, where top_p may cut a little sooner or later. */
static double least_miss(const cf_sampling *options, const float *logits, size_t n, double u,
                         cf_token id)
{
    cf_sampling near = *options;
    double least = miss(options, logits, n, u, id);
    for (int side = -1; side <= 1 && options->top_p < 1 && least >= CUMULATED_TOLERANCE;
         side += 2) {
        near.top_p = options->top_p + (float)side * CUT_TOLERANCE;
        least = fmin(least, miss(&near, logits, n, u, id));
    }
    return least;
}

/* Penalties as the header says, in float32 as both sides have them. */
static void penalise(const cf_sampler *sampler, float *logits)
{
    const cf_sampling *options = &sampler->options;
    for (size_t i = 0; i < sampler->n_seen; i++) {
        float *logit = &logits[sampler->seen[i]];
        uint32_t count = sampler->counts[sampler->seen[i]];
        *logit = *logit > 0 ? *logit / options->repetition_penalty
                            : *logit * options->repetition_penalty;
        *logit -= options->frequency_penalty * (float)count;
        *logit -= count > 0 ? options->presence_penalty : 0;
    }
}

/* Decodes, then walks the same tokens in single steps, choosing on the host at each. */
static void compare_drawn(decoding *self, const cf_sampling *sampling, decoding_ends ends,
                          const char *name)
{
    static cf_decoded found[N_DRAWN];
    cf_sampler sampler, host;
    size_t n_vocab = (size_t)self->shape.n_vocab, n_other = 0, n_banned;
    decoding_sampler(self, sampling, &sampler);
    decoding_sampler(self, sampling, &host);
    size_t n = decoding_run(self, &sampler, ends, N_DRAWN, 50, found);
    assert_true(n >= ends.min_tokens);
    for (size_t i = 0; i < n; i++) {
        cf_error error;
        cf_token id;
        decoding_step_to(self, found, i);
        double log_sum = cf_logits_log_sum(self->logits, n_vocab);
        assert_true(fabs((double)found[i].logprob - ((double)self->logits[found[i].id] - log_sum)) <
                    LOGPROB_TOLERANCE);
        n_banned = i < ends.min_tokens ? ends.n : 0;
        assert_ok(cf_sampler_choose(&host, self->logits, ends.ids, n_banned, i, &id, &error),
                  error);
        penalise(&host, self->logits);
        for (size_t b = 0; b < n_banned; b++)
            self->logits[ends.ids[b]] = -INFINITY;
        n_other += id != found[i].id;
        if (host.options.temperature > 0)
            assert_true(least_miss(&host.options, self->logits, n_vocab,
                                   cf_random_uniform(sampling->seed, i),
                                   found[i].id) < CUMULATED_TOLERANCE);
        else
            assert_int_equal(id, found[i].id);
        cf_sampler_see(&host, found[i].id, true);
    }
    print_message("    %s, vocabulary %zu: %zu of %zu tokens are not the CPU's\n", name, n_vocab,
                  n_other, n);
    cf_sampler_free(&sampler);
    cf_sampler_free(&host);
}

static void drawn_tokens_are_those_of_the_engine(void **state)
{
    static const struct {
        const char *name;
        cf_sampling sampling;
    } cases[] = {
        {"temperature 1", {.temperature = 1}},
        {"temperature 0.3", {.temperature = 0.3f}},
        {"temperature 50", {.temperature = 50}},
        {"top_k 1", {.temperature = 1, .top_k = 1}},
        {"top_k 40", {.temperature = 0.8f, .top_k = 40}},
        {"top_k 90", {.temperature = 2, .top_k = 90}},
        {"top_k 256", {.temperature = 2, .top_k = 256}},
        {"top_k 257", {.temperature = 2, .top_k = 257}},
        {"top_k 900", {.temperature = 2, .top_k = 900}},
        {"top_k 900, top_p 0.9", {.temperature = 3, .top_k = 900, .top_p = 0.9f}},
        {"top_p 0.9", {.temperature = 1, .top_p = 0.9f}},
        {"top_p 0.9, few kept", {.temperature = 0.1f, .top_p = 0.9f}},
        {"top_p 0.9, many kept", {.temperature = 5, .top_p = 0.9f}},
        {"top_p 0.01", {.temperature = 1, .top_p = 0.01f}},
        {"min_p 0.1", {.temperature = 1, .min_p = 0.1f}},
        {"top_p 0.9, min_p 0.3, many kept", {.temperature = 5, .top_p = 0.9f, .min_p = 0.3f}},
        {"top_k 100, top_p 0.8, min_p 0.05",
         {.temperature = 1, .top_k = 100, .top_p = 0.8f, .min_p = 0.05f}},
        {"repetition 1.3", {.temperature = 0.7f, .repetition_penalty = 1.3f, .top_p = 0.95f}},
        {"presence 0.5, frequency 0.2",
         {.temperature = 0.7f, .presence_penalty = 0.5f, .frequency_penalty = 0.2f}},
        {"greedy, all penalties",
         {.repetition_penalty = 1.1f, .presence_penalty = 0.3f, .frequency_penalty = 0.1f}},
    };
    static const int32_t vocabularies[] = {1009, 50304};
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t v = 0; v < 2; v++) {
        decoding self;
        decoding_set_up(&self, vocabularies[v]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            cf_sampling sampling = cases[c].sampling;
            sampling.size = sizeof sampling;
            sampling.seed = 1000 + c;
            compare_drawn(&self, &sampling, NO_ENDS, cases[c].name);
        }
        decoding_tear_down(&self);
    }
}

/* More tokens have one logit than can be compared with each other; or all have. */
static void ties_are_kept_in_the_order_of_their_ids(void **state)
{
    static const struct {
        const char *name;
        cf_sampling sampling;
    } cases[] = {
        {"temperature 1, ties", {.temperature = 1}},
        {"top_k 40, ties", {.temperature = 1, .top_k = 40}},
        {"top_k 700, ties", {.temperature = 1, .top_k = 700}},
        {"top_p 0.5, ties", {.temperature = 1, .top_p = 0.5f}},
        {"top_k 2000, top_p 0.7, ties", {.temperature = 1, .top_k = 2000, .top_p = 0.7f}},
        {"presence 0.5, top_p 0.6, ties",
         {.temperature = 1, .presence_penalty = 0.5f, .top_p = 0.6f}},
    };
    static const int32_t n_different[] = {0, 60};
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t d = 0; d < 2; d++) {
        decoding self;
        decoding_set_up_ties(&self, 4003, n_different[d]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            cf_sampling sampling = cases[c].sampling;
            sampling.size = sizeof sampling;
            sampling.seed = 3000 + c;
            compare_drawn(&self, &sampling, NO_ENDS, cases[c].name);
        }
        decoding_tear_down(&self);
    }
}

/* Draws with many random numbers from the same logits, one a launch. */
static void draws_have_the_probabilities_of_the_logits(void **state)
{
    enum { N_DRAWS = 8000, N_GROUPS = 40 };
    cf_sampling sampling = decoding_sampling(1);
    double expected[N_GROUPS] = {0}, chi_squared = 0;
    size_t seen[N_GROUPS] = {0};
    cf_sampler sampler;
    cf_error error;
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 1009);
    decoding_sampler(&self, &sampling, &sampler);
    decoding_step_to(&self, NULL, 0);
    double log_sum = cf_logits_log_sum(self.logits, 1009);
    for (int i = 0; i < 1009; i++)
        expected[i % N_GROUPS] += N_DRAWS * exp((double)self.logits[i] - log_sum);
    for (size_t i = 0; i < N_DRAWS; i++) {
        cf_decode request = {.token = self.prompt[DECODING_N_PROMPT - 1],
                             .pos = DECODING_N_PROMPT - 1,
                             .n = 1,
                             .index = i,
                             .sampling = &sampler.options};
        cf_decoded drawn;
        assert_ok(cf_cuda_backend.decode_begin(self.gpu.session, &request, &error), error);
        assert_ok(cf_cuda_backend.decode_next(self.gpu.session, &drawn, &error), error);
        assert_ok(cf_cuda_backend.decode_end(self.gpu.session, &error), error);
        seen[drawn.id % N_GROUPS]++;
    }
    for (int g = 0; g < N_GROUPS; g++) {
        double distance = (double)seen[g] - expected[g];
        chi_squared += distance * distance / expected[g];
    }
    print_message("    chi-squared %.1f, %d degrees of freedom\n", chi_squared, N_GROUPS - 1);
    /* Mean 39, deviation 8.8: five deviations are reached by one seed in a million. */
    assert_true(chi_squared < N_GROUPS - 1 + 5 * sqrt(2.0 * (N_GROUPS - 1)));
    cf_sampler_free(&sampler);
    decoding_tear_down(&self);
}

/* The bans end within a launch: the tokens that would come without them are the ends. */
static void no_end_is_chosen_before_min_tokens(void **state)
{
    enum { N_BEFORE = 70, N_ENDS = 8 };
    static const struct {
        const char *name;
        cf_sampling sampling;
    } cases[] = {
        {"greedy, ends banned", {.temperature = 0}},
        {"greedy, penalties, ends banned", {.repetition_penalty = 1.2f}},
        {"temperature 1, ends banned", {.temperature = 1}},
        {"top_k 3, ends banned", {.temperature = 1, .top_k = 3}},
        {"top_p 0.5, ends banned", {.temperature = 1, .top_p = 0.5f}},
        {"min_p 0.3, presence 0.4, ends banned",
         {.temperature = 1, .min_p = 0.3f, .presence_penalty = 0.4f}},
    };
    static cf_decoded free_ones[N_DRAWN];
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 1009);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        cf_sampling sampling = cases[c].sampling;
        cf_token ends[N_ENDS];
        cf_sampler sampler;
        sampling.size = sizeof sampling;
        sampling.seed = 2000 + c;
        decoding_sampler(&self, &sampling, &sampler);
        decoding_run(&self, &sampler, NO_ENDS, N_DRAWN, 50, free_ones);
        cf_sampler_free(&sampler);
        for (size_t e = 0; e < N_ENDS; e++)
            ends[e] = free_ones[e].id;
        compare_drawn(&self, &sampling, (decoding_ends){ends, N_ENDS, N_BEFORE}, cases[c].name);
    }
    decoding_tear_down(&self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_tokens_are_those_of_the_engine),
        cmocka_unit_test(ties_are_kept_in_the_order_of_their_ids),
        cmocka_unit_test(draws_have_the_probabilities_of_the_logits),
        cmocka_unit_test(no_end_is_chosen_before_min_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
