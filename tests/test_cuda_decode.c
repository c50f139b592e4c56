/*
 * Tokens that the GPU chooses by itself, against single steps; where launches stop. Skipped by name
 * where there is no GPU.
 */
#include "support/decoding.h"
#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include "engine/logprobs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKENS = 200 };

static void any_number_of_tokens_a_launch_gives_the_same_bits(void **state)
{
    static const size_t each[] = {1, 2, 7, 64, N_TOKENS};
    static cf_decoded first[N_TOKENS], again[N_TOKENS];
    enum { N_SAMPLINGS = 7 };
    cf_sampling samplings[N_SAMPLINGS] = {
        decoding_sampling(0), decoding_sampling(0.9f), decoding_sampling(0), decoding_sampling(1),
        decoding_sampling(1), decoding_sampling(5),    decoding_sampling(3)};
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 1009);
    samplings[1].top_k = 40;
    samplings[1].top_p = 0.9f;
    samplings[2].repetition_penalty = 1.2f;
    samplings[4].min_p = 0.02f;
    samplings[5].top_p = 0.9f; /* keeps many */
    samplings[6].top_k = 400;
    for (size_t s = 0; s < N_SAMPLINGS; s++)
        for (size_t e = 0; e < sizeof each / sizeof *each; e++) {
            cf_sampler sampler;
            decoding_sampler(&self, &samplings[s], &sampler);
            size_t n =
                decoding_run(&self, &sampler, NO_ENDS, N_TOKENS, each[e], e == 0 ? first : again);
            assert_int_equal(n, N_TOKENS);
            if (e > 0)
                assert_memory_equal(first, again, sizeof first);
            cf_sampler_free(&sampler);
        }
    decoding_tear_down(&self);
}

static void greedy_tokens_are_those_of_single_steps(void **state)
{
    static cf_decoded found[N_TOKENS];
    cf_sampling greedy = decoding_sampling(0);
    cf_sampler sampler;
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 4003);
    decoding_sampler(&self, &greedy, &sampler);
    decoding_run(&self, &sampler, NO_ENDS, N_TOKENS, 64, found);
    for (size_t i = 0; i < N_TOKENS; i++) {
        decoding_step_to(&self, found, i);
        size_t n_vocab = (size_t)self.shape.n_vocab;
        double log_sum = cf_logits_log_sum(self.logits, n_vocab);
        assert_int_equal(found[i].id, cf_logits_best(self.logits, n_vocab));
        assert_true(fabs((double)found[i].logprob - ((double)self.logits[found[i].id] - log_sum)) <
                    LOGPROB_TOLERANCE);
    }
    cf_sampler_free(&sampler);
    decoding_tear_down(&self);
}

/* After a launch that was stopped the next one goes on from any position. */
static void a_launch_can_be_stopped(void **state)
{
    static cf_decoded found[N_TOKENS];
    cf_sampling greedy = decoding_sampling(0);
    float expected;
    cf_sampler sampler;
    cf_error error;
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 1009);
    decoding_sampler(&self, &greedy, &sampler);
    decoding_run(&self, &sampler, NO_ENDS, N_TOKENS, N_TOKENS, found);
    decoding_step_to(&self, found, 3);
    expected = self.logits[17];
    for (size_t n_taken = 0; n_taken < N_TOKENS / 5; n_taken++) {
        cf_decode request = {.token = self.prompt[DECODING_N_PROMPT - 1],
                             .pos = DECODING_N_PROMPT - 1,
                             .n = N_TOKENS,
                             .sampling = &sampler.options};
        cf_decoded one;
        assert_ok(cf_cuda_backend.decode_begin(self.gpu.session, &request, &error), error);
        for (size_t i = 0; i < n_taken; i++) {
            assert_ok(cf_cuda_backend.decode_next(self.gpu.session, &one, &error), error);
            assert_memory_equal(&one, &found[i], sizeof one);
        }
        assert_ok(cf_cuda_backend.decode_end(self.gpu.session, &error), error);
        decoding_step_to(&self, found, 3);
        assert_memory_equal(&expected, &self.logits[17], sizeof expected);
    }
    cf_sampler_free(&sampler);
    decoding_tear_down(&self);
}

static void an_end_stops_the_launch(void **state)
{
    static cf_decoded found[N_TOKENS], again[N_TOKENS];
    cf_sampling sampling = decoding_sampling(1);
    cf_sampler sampler;
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 1009);
    decoding_sampler(&self, &sampling, &sampler);
    decoding_run(&self, &sampler, NO_ENDS, N_TOKENS, N_TOKENS, found);
    for (size_t at = 0; at < N_TOKENS && at < 30; at += 3) {
        const cf_token ends[] = {1008, found[at].id};
        size_t n = decoding_run(&self, &sampler, (decoding_ends){ends, 2, 0}, N_TOKENS, 64, again);
        assert_in_range(n, 1, at + 1);
        assert_memory_equal(found, again, n * sizeof *found);
    }
    cf_sampler_free(&sampler);
    decoding_tear_down(&self);
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
    cf_sampling sampling = decoding_sampling(0.8f);
    cf_generate_options options = {.size = sizeof options, .sampling = &sampling};
    cf_token first[N], again[N], *next = first;
    cf_model_options model_options = {.size = sizeof model_options, .backend = CF_BACKEND_CUDA};
    cf_generate_stats stats, steps;
    cf_generation *generation;
    cf_model *model;
    cf_session *session;
    cf_event event;
    cf_error error;
    decoding self;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    decoding_set_up(&self, 1009);
    self.shape.eos_token = -1;
    assert_ok(cf_model_create(&self.model.neox.shape, self.model.tensors, self.model.n_tensors,
                              &model_options, &model, &error),
              error);
    assert_ok(cf_session_create(model, NULL, &session, &error), error);
    options.ignore_eos = true;
    assert_ok(cf_generate(session, NULL, self.prompt, DECODING_N_PROMPT, N, &options, keep_event,
                          &next, &stats, &error),
              error);
    assert_int_equal(cf_session_n_tokens(session), DECODING_N_PROMPT + N - 1);
    next = again;
    assert_ok(cf_session_rewind(session, 0, &error), error);
    assert_ok(cf_generation_begin(session, NULL, self.prompt, DECODING_N_PROMPT, N, &options,
                                  &generation, &error),
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
    decoding_tear_down(&self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_tokens_a_launch_gives_the_same_bits),
        cmocka_unit_test(greedy_tokens_are_those_of_single_steps),
        cmocka_unit_test(a_launch_can_be_stopped),
        cmocka_unit_test(an_end_stops_the_launch),
        cmocka_unit_test(the_engine_generates_the_same_in_one_call_and_in_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
