/*
 * Tokens that the GPU chooses by itself, against single steps and the engine's own choice. Skipped
 * by name where there is no GPU.
 */
#include "support/random_model.h"
#include "support/runner.h"
#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include "base/random.h"
#include "engine/logprobs.h"
#include "engine/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_CONTEXT = 256, N_PROMPT = 5, N_TOKENS = 200, N_DRAWN = 120, N_HEADS = 12 };

/*
 * Log-probabilities are float32 of size 10 at most, 2^-21 apart; sums of a thousand exponentials of
 * relative error 2^-22 each, in trees of some ten levels, add less than 1e-6.
 */
#define LOGPROB_TOLERANCE 4e-6

/*
 * A cumulated probability: weights of relative error 2^-20 (exponents up to 20 in float32), their
 * sums less; so two ways to add them differ by 1e-6 of the total at most. Where top_p cuts, weights
 * are rounded to 2^-31 of the total each, a thousand of them to 5e-7: of many that are alike, the
 * cut may keep one more or less.
 */
#define CUMULATED_TOLERANCE 4e-6
#define CUT_TOLERANCE 5e-7f

typedef struct fixture {
    cf_shape shape;
    test_model model;
    test_runner gpu;
    cf_token prompt[N_PROMPT];
    float *logits; /* [n_vocab] */
} fixture;

/* With all tokens from n_different on alike: the LM head's rows for them are 0. */
static void set_up_ties(fixture *self, int32_t n_vocab, int32_t n_different)
{
    *self = (fixture){.shape = test_small_shape(64, N_HEADS)};
    self->shape.n_vocab = n_vocab;
    test_model_create(&self->model, &self->shape, CF_DTYPE_F16, 21);
    size_t n_row = (size_t)self->shape.d_model, n_ties = (size_t)(n_vocab - n_different);
    uint16_t *head = (uint16_t *)(uintptr_t)self->model.neox.head->data;
    memset(head + (size_t)n_different * n_row, 0, n_ties * n_row * sizeof *head);
    test_make_ids(self->prompt, N_PROMPT, n_vocab);
    self->logits = malloc((size_t)n_vocab * sizeof *self->logits);
    test_runner_start(&self->gpu, &cf_cuda_backend, &self->model.neox, N_CONTEXT, CF_DTYPE_F16);
    test_runner_advance(&self->gpu, self->prompt, N_PROMPT - 1, N_PROMPT, NULL);
}

static void set_up(fixture *self, int32_t n_vocab)
{
    set_up_ties(self, n_vocab, n_vocab);
}

static void tear_down(fixture *self)
{
    test_runner_stop(&self->gpu);
    test_model_free(&self->model);
    free(self->logits);
}

static cf_sampling sampling_of(float temperature)
{
    return (cf_sampling){.size = sizeof(cf_sampling), .temperature = temperature, .seed = 99};
}

/* The tokens that end a generation, once it has this many. */
typedef struct endings {
    const cf_token *ids;
    size_t n, min_tokens;
} endings;

static const endings none;

/* What the engine keeps of the tokens: options with defaults, counts of the prompt. */
static void make_sampler(const fixture *self, const cf_sampling *sampling, cf_sampler *sampler)
{
    cf_error error;
    assert_ok(cf_sampler_create(sampling, self->shape.n_vocab, true, sampler, &error), error);
    for (size_t i = 0; i < N_PROMPT; i++)
        cf_sampler_see(sampler, self->prompt[i], false);
}

/* Decodes n tokens after the prompt, `each` a launch; stops at an end. Returns how many came. */
static size_t decode(fixture *self, cf_sampler *sampler, endings ends, size_t n, size_t each,
                     cf_decoded *found)
{
    const cf_backend_interface *cuda = &cf_cuda_backend;
    cf_token last = self->prompt[N_PROMPT - 1];
    size_t pos = N_PROMPT - 1, n_found = 0;
    bool is_over = false;
    cf_error error;
    while (n_found < n && !is_over) {
        size_t left = n - n_found, n_now = left < each ? left : each;
        cf_decode request = {.token = last,
                             .pos = pos,
                             .n = n_now,
                             .index = n_found,
                             .sampling = &sampler->options,
                             .ends = ends.ids,
                             .n_ends = ends.n,
                             .min_tokens = ends.min_tokens,
                             .seen = sampler->seen,
                             .n_seen = sampler->n_seen,
                             .counts = sampler->counts};
        assert_true(cuda->decode_limit(self->gpu.session, &request) > 0);
        assert_ok(cuda->decode_begin(self->gpu.session, &request, &error), error);
        for (size_t i = 0; i < n_now && !is_over; i++) {
            cf_decoded *one = &found[n_found++];
            assert_ok(cuda->decode_next(self->gpu.session, one, &error), error);
            assert_true(one->id >= 0 && one->id < self->shape.n_vocab);
            cf_sampler_see(sampler, one->id, true);
            last = one->id;
            for (size_t e = 0; e < ends.n; e++)
                is_over = is_over || one->id == ends.ids[e];
        }
        assert_ok(cuda->decode_end(self->gpu.session, &error), error);
        pos += n_now;
    }
    return n_found;
}

/* The logits after token i of a generation, by a single step; i = 0: after the prompt. */
static void step_to(fixture *self, const cf_decoded *tokens, size_t i)
{
    cf_error error;
    cf_token id = i == 0 ? self->prompt[N_PROMPT - 1] : tokens[i - 1].id;
    cf_step step = {
        .ids = &id, .n = 1, .pos = N_PROMPT - 1 + i, .logits = self->logits, .n_logits = 1};
    assert_ok(cf_cuda_backend.step(self->gpu.session, &step, &error), error);
}

static void any_number_of_tokens_a_launch_gives_the_same_bits(void **state)
{
    static const size_t each[] = {1, 2, 7, 64, N_TOKENS};
    static cf_decoded first[N_TOKENS], again[N_TOKENS];
    enum { N_SAMPLINGS = 7 };
    cf_sampling samplings[N_SAMPLINGS] = {sampling_of(0), sampling_of(0.9f), sampling_of(0),
                                          sampling_of(1), sampling_of(1),    sampling_of(5),
                                          sampling_of(3)};
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 1009);
    samplings[1].top_k = 40;
    samplings[1].top_p = 0.9f;
    samplings[2].repetition_penalty = 1.2f;
    samplings[4].min_p = 0.02f;
    samplings[5].top_p = 0.9f; /* keeps many */
    samplings[6].top_k = 400;
    for (size_t s = 0; s < N_SAMPLINGS; s++)
        for (size_t e = 0; e < sizeof each / sizeof *each; e++) {
            cf_sampler sampler;
            make_sampler(&self, &samplings[s], &sampler);
            size_t n = decode(&self, &sampler, none, N_TOKENS, each[e], e == 0 ? first : again);
            assert_int_equal(n, N_TOKENS);
            if (e > 0)
                assert_memory_equal(first, again, sizeof first);
            cf_sampler_free(&sampler);
        }
    tear_down(&self);
}

static void greedy_tokens_are_those_of_single_steps(void **state)
{
    static cf_decoded found[N_TOKENS];
    cf_sampling greedy = sampling_of(0);
    cf_sampler sampler;
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 4003);
    make_sampler(&self, &greedy, &sampler);
    decode(&self, &sampler, none, N_TOKENS, 64, found);
    for (size_t i = 0; i < N_TOKENS; i++) {
        step_to(&self, found, i);
        size_t n_vocab = (size_t)self.shape.n_vocab;
        double log_sum = cf_logits_log_sum(self.logits, n_vocab);
        assert_int_equal(found[i].id, cf_logits_best(self.logits, n_vocab));
        assert_true(fabs((double)found[i].logprob - ((double)self.logits[found[i].id] - log_sum)) <
                    LOGPROB_TOLERANCE);
    }
    cf_sampler_free(&sampler);
    tear_down(&self);
}

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
static void compare_drawn(fixture *self, const cf_sampling *sampling, endings ends,
                          const char *name)
{
    static cf_decoded found[N_DRAWN];
    cf_sampler sampler, host;
    size_t n_vocab = (size_t)self->shape.n_vocab, n_other = 0, n_banned;
    make_sampler(self, sampling, &sampler);
    make_sampler(self, sampling, &host);
    size_t n = decode(self, &sampler, ends, N_DRAWN, 50, found);
    assert_true(n >= ends.min_tokens);
    for (size_t i = 0; i < n; i++) {
        cf_error error;
        cf_token id;
        step_to(self, found, i);
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
        fixture self;
        set_up(&self, vocabularies[v]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            cf_sampling sampling = cases[c].sampling;
            sampling.size = sizeof sampling;
            sampling.seed = 1000 + c;
            compare_drawn(&self, &sampling, none, cases[c].name);
        }
        tear_down(&self);
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
        fixture self;
        set_up_ties(&self, 4003, n_different[d]);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            cf_sampling sampling = cases[c].sampling;
            sampling.size = sizeof sampling;
            sampling.seed = 3000 + c;
            compare_drawn(&self, &sampling, none, cases[c].name);
        }
        tear_down(&self);
    }
}

/* Draws with many random numbers from the same logits, one a launch. */
static void draws_have_the_probabilities_of_the_logits(void **state)
{
    enum { N_DRAWS = 8000, N_GROUPS = 40 };
    cf_sampling sampling = sampling_of(1);
    double expected[N_GROUPS] = {0}, chi_squared = 0;
    size_t seen[N_GROUPS] = {0};
    cf_sampler sampler;
    cf_error error;
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 1009);
    make_sampler(&self, &sampling, &sampler);
    step_to(&self, NULL, 0);
    double log_sum = cf_logits_log_sum(self.logits, 1009);
    for (int i = 0; i < 1009; i++)
        expected[i % N_GROUPS] += N_DRAWS * exp((double)self.logits[i] - log_sum);
    for (size_t i = 0; i < N_DRAWS; i++) {
        cf_decode request = {.token = self.prompt[N_PROMPT - 1],
                             .pos = N_PROMPT - 1,
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
    tear_down(&self);
}

/* After a launch that was stopped the next one goes on from any position. */
static void a_launch_can_be_stopped(void **state)
{
    static cf_decoded found[N_TOKENS];
    cf_sampling greedy = sampling_of(0);
    float expected;
    cf_sampler sampler;
    cf_error error;
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 1009);
    make_sampler(&self, &greedy, &sampler);
    decode(&self, &sampler, none, N_TOKENS, N_TOKENS, found);
    step_to(&self, found, 3);
    expected = self.logits[17];
    for (size_t n_taken = 0; n_taken < N_TOKENS / 5; n_taken++) {
        cf_decode request = {.token = self.prompt[N_PROMPT - 1],
                             .pos = N_PROMPT - 1,
                             .n = N_TOKENS,
                             .sampling = &sampler.options};
        cf_decoded one;
        assert_ok(cf_cuda_backend.decode_begin(self.gpu.session, &request, &error), error);
        for (size_t i = 0; i < n_taken; i++) {
            assert_ok(cf_cuda_backend.decode_next(self.gpu.session, &one, &error), error);
            assert_memory_equal(&one, &found[i], sizeof one);
        }
        assert_ok(cf_cuda_backend.decode_end(self.gpu.session, &error), error);
        step_to(&self, found, 3);
        assert_memory_equal(&expected, &self.logits[17], sizeof expected);
    }
    cf_sampler_free(&sampler);
    tear_down(&self);
}

static void an_end_stops_the_launch(void **state)
{
    static cf_decoded found[N_TOKENS], again[N_TOKENS];
    cf_sampling sampling = sampling_of(1);
    cf_sampler sampler;
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 1009);
    make_sampler(&self, &sampling, &sampler);
    decode(&self, &sampler, none, N_TOKENS, N_TOKENS, found);
    for (size_t at = 0; at < N_TOKENS && at < 30; at += 3) {
        const cf_token ends[] = {1008, found[at].id};
        size_t n = decode(&self, &sampler, (endings){ends, 2, 0}, N_TOKENS, 64, again);
        assert_in_range(n, 1, at + 1);
        assert_memory_equal(found, again, n * sizeof *found);
    }
    cf_sampler_free(&sampler);
    tear_down(&self);
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
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 1009);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        cf_sampling sampling = cases[c].sampling;
        cf_token ends[N_ENDS];
        cf_sampler sampler;
        sampling.size = sizeof sampling;
        sampling.seed = 2000 + c;
        make_sampler(&self, &sampling, &sampler);
        decode(&self, &sampler, none, N_DRAWN, 50, free_ones);
        cf_sampler_free(&sampler);
        for (size_t e = 0; e < N_ENDS; e++)
            ends[e] = free_ones[e].id;
        compare_drawn(&self, &sampling, (endings){ends, N_ENDS, N_BEFORE}, cases[c].name);
    }
    tear_down(&self);
}

static bool keep_event(void *user, const cf_event *event)
{
    cf_token **next = user;
    if (event->kind == CF_EVENT_TOKEN)
        *(*next)++ = event->token;
    return true;
}

/*
 * Through the engine: in one call, many tokens a launch; in steps, one. Both begin with an empty
 * session: a prompt of one token, where the rest is kept, goes another way than a whole one.
 */
static void the_engine_generates_the_same_in_one_call_and_in_steps(void **state)
{
    enum { N = 100 };
    cf_sampling sampling = sampling_of(0.8f);
    cf_generate_options options = {.size = sizeof options, .sampling = &sampling};
    cf_token first[N], again[N], *next = first;
    cf_model_options model_options = {.size = sizeof model_options, .backend = CF_BACKEND_CUDA};
    cf_generate_stats stats, steps;
    cf_generation *generation;
    cf_model *model;
    cf_session *session;
    cf_event event;
    cf_error error;
    fixture self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    set_up(&self, 1009);
    self.shape.eos_token = -1;
    assert_ok(cf_model_create(&self.model.neox.shape, self.model.tensors, self.model.n_tensors,
                              &model_options, &model, &error),
              error);
    assert_ok(cf_session_create(model, NULL, &session, &error), error);
    options.ignore_eos = true;
    assert_ok(cf_generate(session, NULL, self.prompt, N_PROMPT, N, &options, keep_event, &next,
                          &stats, &error),
              error);
    assert_int_equal(cf_session_n_tokens(session), N_PROMPT + N - 1);
    next = again;
    assert_ok(cf_session_rewind(session, 0, &error), error);
    assert_ok(
        cf_generation_begin(session, NULL, self.prompt, N_PROMPT, N, &options, &generation, &error),
        error);
    do {
        assert_ok(cf_generation_next(generation, &event, &error), error);
        keep_event(&next, &event);
    } while (event.kind != CF_EVENT_END);
    cf_generation_stats(generation, &steps);
    assert_memory_equal(first, again, sizeof first);
    assert_int_equal(stats.logits_hash, steps.logits_hash);
    cf_generation_free(generation);
    cf_session_free(session);
    cf_model_close(model);
    tear_down(&self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_tokens_a_launch_gives_the_same_bits),
        cmocka_unit_test(greedy_tokens_are_those_of_single_steps),
        cmocka_unit_test(drawn_tokens_are_those_of_the_engine),
        cmocka_unit_test(ties_are_kept_in_the_order_of_their_ids),
        cmocka_unit_test(draws_have_the_probabilities_of_the_logits),
        cmocka_unit_test(a_launch_can_be_stopped),
        cmocka_unit_test(an_end_stops_the_launch),
        cmocka_unit_test(no_end_is_chosen_before_min_tokens),
        cmocka_unit_test(the_engine_generates_the_same_in_one_call_and_in_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
