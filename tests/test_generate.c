/* Generation, on a backend whose logits are scripted: the promises of the header's section 8. */
#include "support/scripted_generation.h"

#include "engine/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static cf_error error;

/* ---- Lengths and ends ---- */

static void greedy_takes_the_scripted_tokens(void **state)
{
    (void)state;
    static const cf_token ids[] = {7, 299, 256, 1, 77};
    script_tokens(5, ids, 5);
    cf_generate_stats stats;
    transcript found = generate(5, NULL, &stats);
    assert_int_equal(found.n, 5);
    assert_memory_equal(found.ids, ids, sizeof ids);
    assert_int_equal(found.finish, CF_FINISH_LENGTH);
    assert_int_equal(found.n_prompt_events, 1);
    assert_int_equal(stats.n_prompt, 5);
    assert_int_equal(stats.n_reused, 0);
    assert_int_equal(stats.n_tokens, 5);
    assert_int_equal(stats.finish, CF_FINISH_LENGTH);
    assert_true(stats.prompt_ns > 0 && stats.decode_ns > 0);
    /* The last token is chosen, not evaluated. */
    assert_int_equal(cf_session_n_tokens(scripted_session), 9);
    assert_int_equal(test_script.n_evaluated, 9);
    assert_int_equal(test_script.n_rows, 5);
}

static void logprobs_are_of_the_raw_logits(void **state)
{
    (void)state;
    static const cf_token ids[] = {7, 8, 9};
    static const cf_logit_bias bias[] = {{7, -INFINITY}};
    script_tokens(5, ids, 3);
    cf_sampling sampling = {
        .size = sizeof sampling, .temperature = 0.01f, .top_k = 1, .bias = bias, .n_bias = 1};
    cf_generate_options options = {.size = sizeof options, .sampling = &sampling, .n_top = 3};
    cf_generation *generation;
    assert_ok(cf_generation_begin(scripted_session, NULL, scripted_prompt, 5, 3, &options,
                                  &generation, &error),
              error);
    cf_event event;
    assert_ok(cf_generation_next(generation, &event, &error), error);
    assert_ok(cf_generation_next(generation, &event, &error), error);
    float logits[N_VOCAB];
    scripted_logits(NULL, 5, logits, N_VOCAB);
    double sum = 0;
    for (size_t i = 0; i < N_VOCAB; i++)
        sum += exp((double)logits[i]);
    assert_int_equal(event.token, 8); /* 7 is banned */
    assert_true(fabs((double)event.logprob - (3 - log(sum))) < 1e-6);
    assert_int_equal(event.n_top, 3);
    assert_true(event.top[0].id == 7 && event.top[1].id == 8 && event.top[2].id == 0);
    assert_true(fabs((double)event.top[0].logprob - (5 - log(sum))) < 1e-6);
    assert_true(fabs((double)event.top[2].logprob + log(sum)) < 1e-6);
    assert_int_equal(event.n_text, 0);
    cf_generate_stats stats;
    cf_generation_stats(generation, &stats);
    assert_true(stats.logits_hash == cf_floats_hash(logits, N_VOCAB));
    cf_generation_free(generation);
}

static void no_tokens_asked_for_still_evaluates_the_prompt(void **state)
{
    (void)state;
    transcript found = generate(0, NULL, NULL);
    assert_int_equal(found.n, 0);
    assert_int_equal(found.finish, CF_FINISH_LENGTH);
    assert_int_equal(cf_session_n_tokens(scripted_session), 5);
}

static void a_full_context_ends_it(void **state)
{
    (void)state;
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    transcript found = generate(SIZE_MAX, &options, NULL);
    assert_int_equal(found.n, N_CONTEXT - 5 + 1);
    assert_int_equal(found.finish, CF_FINISH_LENGTH);
    assert_int_equal(cf_session_n_tokens(scripted_session), N_CONTEXT);
}

static void a_prompt_as_long_as_the_context_gives_one_token(void **state)
{
    (void)state;
    cf_token ids[N_CONTEXT + 1];
    for (size_t i = 0; i <= N_CONTEXT; i++)
        ids[i] = 9;
    transcript found = {.n = 0};
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    assert_ok(cf_generate(scripted_session, NULL, ids, N_CONTEXT, 10, &options, write_down, &found,
                          NULL, &error),
              error);
    assert_int_equal(found.n, 1);
    assert_int_equal(found.n_prompt_events, 8);
    assert_int_equal(found.finish, CF_FINISH_LENGTH);
    assert_fails(
        cf_generate(scripted_session, NULL, ids, N_CONTEXT + 1, 10, NULL, NULL, NULL, NULL, &error),
        CF_STATUS_CONTEXT_FULL, error, "65 tokens, the context holds 64");
    assert_int_equal(cf_session_n_tokens(scripted_session), N_CONTEXT);
}

static void the_end_of_text_ends_it_and_has_no_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"a", "b", "<|endoftext|>", "c"};
    script_text(5, texts, 4);
    transcript found = generate(10, NULL, NULL);
    assert_int_equal(found.n, 3);
    assert_int_equal(found.ids[2], 0);
    assert_string_equal(found.text, "ab");
    assert_int_equal(found.finish, CF_FINISH_EOS);
}

static void the_end_of_text_can_be_ignored(void **state)
{
    (void)state;
    static const char *const texts[] = {"a", "<|endoftext|>", "c"};
    script_text(5, texts, 3);
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    transcript found = generate(3, &options, NULL);
    assert_string_equal(found.text, "a<|endoftext|>c");
    assert_int_equal(found.finish, CF_FINISH_LENGTH);
}

static void stop_ids_end_it(void **state)
{
    (void)state;
    static const char *const texts[] = {"a", "b", "c", "d"};
    script_text(5, texts, 4);
    cf_token stop_ids[] = {200, id_of("c")};
    cf_generate_options options = {
        .size = sizeof options, .stop_ids = stop_ids, .n_stop_ids = 2, .ignore_eos = true};
    transcript found = generate(10, &options, NULL);
    assert_int_equal(found.n, 3);
    assert_string_equal(found.text, "ab");
    assert_int_equal(found.finish, CF_FINISH_EOS);
}

static void nothing_ends_it_before_min_tokens(void **state)
{
    (void)state;
    static const char *const texts[] = {"<|endoftext|>", "c", "<|endoftext|>", "<|endoftext|>"};
    script_text(5, texts, 4);
    cf_token stop_ids[] = {id_of("c")};
    cf_generate_options options = {
        .size = sizeof options, .stop_ids = stop_ids, .n_stop_ids = 1, .min_tokens = 3};
    transcript found = generate(10, &options, NULL);
    assert_int_equal(found.n, 4);
    assert_int_equal(found.ids[0], 1);
    assert_int_equal(found.ids[1], id_of("d"));
    assert_int_equal(found.ids[2], 1);
    assert_int_equal(found.ids[3], 0);
    assert_int_equal(found.finish, CF_FINISH_EOS);
}

/* ---- Prompts and reuse ---- */

static void the_prompt_comes_in_chunks(void **state)
{
    (void)state;
    cf_token ids[20] = {0};
    cf_generation *generation;
    cf_event event;
    assert_ok(cf_session_eval(scripted_session, ids, 3, NULL, &error), error);
    assert_ok(cf_generation_begin(scripted_session, NULL, ids, 20, 1, NULL, &generation, &error),
              error);
    static const size_t expected[] = {11, 19, 20};
    for (size_t i = 0; i < 3; i++) {
        assert_ok(cf_generation_next(generation, &event, &error), error);
        assert_int_equal(event.kind, CF_EVENT_PROMPT);
        assert_int_equal(event.n_prompt, expected[i]);
        assert_int_equal(event.n_prompt_total, 20);
    }
    assert_ok(cf_generation_next(generation, &event, &error), error);
    assert_int_equal(event.kind, CF_EVENT_TOKEN);
    cf_generation_free(generation);
}

static void a_common_beginning_is_not_evaluated_again(void **state)
{
    (void)state;
    transcript first = generate(6, NULL, NULL);
    size_t n_before = test_script.n_evaluated;
    cf_generate_stats stats;
    transcript second = generate(6, NULL, &stats);
    assert_int_equal(stats.n_reused, 4); /* the last one's logits are needed */
    assert_memory_equal(first.ids, second.ids, sizeof first.ids);
    assert_int_equal(test_script.n_evaluated - n_before, 1 + first.n - 1);
    /* Going on from prompt and answer: a chat's next turn. */
    cf_token longer[12];
    memcpy(longer, scripted_prompt, sizeof scripted_prompt);
    memcpy(longer + 5, first.ids, 6 * sizeof *longer);
    longer[11] = 99;
    assert_ok(cf_generate(scripted_session, NULL, longer, 12, 1, NULL, NULL, NULL, &stats, &error),
              error);
    assert_int_equal(stats.n_reused, 10); /* all but the token not evaluated, and the new one */
}

static void bad_beginnings_leave_the_session_as_it_was(void **state)
{
    (void)state;
    cf_token ids[3] = {1, 2, 300};
    assert_ok(cf_session_eval(scripted_session, scripted_prompt, 5, NULL, &error), error);
    cf_generation *generation = (cf_generation *)&error;
    static const char *const empty[] = {"a", ""}, *const broken[] = {"\xC3"},
                             *const null[] = {NULL};
    static const cf_token outside[] = {-1};
    cf_sampling hot = {.size = sizeof hot, .temperature = -1};
    const struct {
        cf_generate_options options;
        const char *part;
    } cases[] = {
        {{.n_top = 65}, "n_top is 65"},
        {{.n_top = -1}, "n_top is -1"},
        {{.stops = empty, .n_stops = 2}, "stop string 1 is empty"},
        {{.stops = broken, .n_stops = 1}, "stop string 0 is not UTF-8"},
        {{.stops = null, .n_stops = 1}, "stop string 0 is NULL"},
        {{.stops = NULL, .n_stops = 1}, "NULL"},
        {{.stop_ids = outside, .n_stop_ids = 1}, "id -1"},
        {{.stop_ids = NULL, .n_stop_ids = 1}, "NULL"},
        {{.sampling = &hot}, "temperature"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cf_generate_options options = cases[i].options;
        options.size = sizeof options;
        assert_fails(cf_generation_begin(scripted_session, scripted_tokenizer, ids, 2, 1, &options,
                                         &generation, &error),
                     CF_STATUS_INVALID_ARGUMENT, error, cases[i].part);
        assert_null(generation);
    }
    cf_generate_options stops = {.size = sizeof stops, .stops = empty, .n_stops = 1};
    assert_fails(
        cf_generation_begin(scripted_session, NULL, ids, 2, 1, &stops, &generation, &error),
        CF_STATUS_INVALID_ARGUMENT, error, "tokenizer");
    assert_fails(cf_generation_begin(scripted_session, NULL, ids, 0, 1, NULL, &generation, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "empty");
    assert_fails(cf_generation_begin(scripted_session, NULL, ids, 3, 1, NULL, &generation, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "token 2 has id 300");
    assert_fails(cf_generation_begin(scripted_session, NULL, NULL, 3, 1, NULL, &generation, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "prompt is NULL");
    assert_fails(cf_generation_begin(NULL, NULL, ids, 3, 1, NULL, &generation, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "session is NULL");
    assert_int_equal(cf_session_n_tokens(scripted_session), 5);
    cf_generation_free(NULL);
}

static void text_is_encoded(void **state)
{
    (void)state;
    cf_generate_stats stats;
    transcript found = {.n = 0};
    assert_ok(cf_generate_text(scripted_session, scripted_tokenizer, "stop é, ab", 2, NULL,
                               write_down, &found, &stats, &error),
              error);
    assert_int_equal(stats.n_prompt, 7);
    assert_int_equal(cf_session_tokens(scripted_session)[0], id_of("stop"));
    assert_fails(cf_generate_text(scripted_session, scripted_tokenizer, "", 2, NULL, NULL, NULL,
                                  &stats, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "empty");
    assert_int_equal(stats.n_prompt, 0);
    assert_fails(cf_generate_text(scripted_session, NULL, "a", 2, NULL, NULL, NULL, NULL, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "tokenizer is NULL");
}

/* ---- Interleaving, cancelling, failing ---- */

static void sampled_generations_can_be_interleaved(void **state)
{
    (void)state;
    enum { N = 4, LENGTH = 12 };
    transcript alone[N] = {{.n = 0}}, together[N] = {{.n = 0}};
    cf_session *sessions[N];
    cf_generation *generations[N];
    for (size_t i = 0; i < N; i++) {
        cf_sampling sampling = {
            .size = sizeof sampling, .temperature = 1, .seed = i, .presence_penalty = 1};
        cf_generate_options options = {
            .size = sizeof options, .sampling = &sampling, .ignore_eos = true};
        assert_ok(cf_generate(scripted_session, scripted_tokenizer, scripted_prompt, 2 + i, LENGTH,
                              &options, write_down, &alone[i], NULL, &error),
                  error);
        assert_ok(cf_session_create(scripted_tiny.model, NULL, &sessions[i], &error), error);
        assert_ok(cf_generation_begin(sessions[i], scripted_tokenizer, scripted_prompt, 2 + i,
                                      LENGTH, &options, &generations[i], &error),
                  error);
    }
    for (size_t step = 0, n_over = 0; n_over < N; step++) {
        size_t i = step % N;
        if (together[i].is_over)
            continue;
        cf_event event;
        assert_ok(cf_generation_next(generations[i], &event, &error), error);
        write_down(&together[i], &event);
        n_over += together[i].is_over;
    }
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(together[i].n, LENGTH);
        assert_memory_equal(alone[i].ids, together[i].ids, LENGTH * sizeof(cf_token));
        assert_string_equal(alone[i].text, together[i].text);
        cf_generation_free(generations[i]);
        cf_session_free(sessions[i]);
    }
    assert_memory_not_equal(alone[0].ids, alone[1].ids, LENGTH * sizeof(cf_token));
}

static void penalties_see_prompt_and_generation(void **state)
{
    (void)state;
    static const cf_token ids[] = {40, 60, 60, 60};
    script_tokens(5, ids, 4);
    cf_sampling sampling = {.size = sizeof sampling, .repetition_penalty = 2};
    cf_generate_options options = {.size = sizeof options, .sampling = &sampling};
    transcript found = generate(4, &options, NULL);
    assert_int_equal(found.ids[0], 41); /* 5 / 2 < 3: 40 is in the prompt */
    assert_int_equal(found.ids[1], 60);
    assert_int_equal(found.ids[2], 61);
    assert_int_equal(found.ids[3], 60); /* both halved by now */
    assert_ok(cf_session_rewind(scripted_session, 0, &error), error);
    sampling = (cf_sampling){.size = sizeof sampling, .presence_penalty = 2.5f};
    found = generate(4, &options, NULL);
    assert_int_equal(found.ids[0], 40); /* of the generated tokens only */
    assert_int_equal(found.ids[2], 61);
}

static void a_callback_can_cancel(void **state)
{
    (void)state;
    static const char *const texts[] = {"a", "STO", "STO"};
    static const char *const stop[] = {"STOP"};
    script_text(5, texts, 3);
    cf_generate_options options = {.size = sizeof options, .stops = stop, .n_stops = 1};
    transcript found = {.cancel_after = 2};
    cf_generate_stats stats;
    assert_ok(cf_generate(scripted_session, scripted_tokenizer, scripted_prompt, 5, 10, &options,
                          write_down, &found, &stats, &error),
              error);
    assert_true(found.is_over);
    check_text(&found, "aSTO", CF_FINISH_CANCELLED, 2);
    assert_int_equal(stats.finish, CF_FINISH_CANCELLED);
    assert_int_equal(cf_session_n_tokens(scripted_session), 6);
}

static bool refuse(void *user, const cf_event *event)
{
    *(int *)user += event->kind == CF_EVENT_END ? 10 : 1;
    return false;
}

static void a_prompt_can_be_cancelled(void **state)
{
    (void)state;
    cf_token ids[20] = {0};
    int calls = 0;
    cf_generate_stats stats;
    assert_ok(
        cf_generate(scripted_session, NULL, ids, 20, 10, NULL, refuse, &calls, &stats, &error),
        error);
    assert_int_equal(calls, 11);
    assert_int_equal(stats.finish, CF_FINISH_CANCELLED);
    assert_int_equal(stats.logits_hash, 0);
    assert_int_equal(cf_session_n_tokens(scripted_session), 8);
}

static void a_failing_device_ends_it_for_good(void **state)
{
    (void)state;
    cf_generation *generation;
    cf_event event;
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    assert_ok(cf_generation_begin(scripted_session, scripted_tokenizer, scripted_prompt, 5, 9,
                                  &options, &generation, &error),
              error);
    for (int i = 0; i < 3; i++)
        assert_ok(cf_generation_next(generation, &event, &error), error);
    test_script.fail_at = test_script.n_steps + 1;
    test_script.fail_with = CF_STATUS_DEVICE;
    for (int i = 0; i < 2; i++) {
        assert_fails(cf_generation_next(generation, &event, &error), CF_STATUS_DEVICE, error, "");
        assert_int_equal(event.n_tokens, 0);
    }
    cf_generation_free(generation);
    assert_fails(cf_generation_begin(scripted_session, NULL, scripted_prompt, 5, 9, NULL,
                                     &generation, &error),
                 CF_STATUS_DEVICE, error, "dead");
}

static void another_failing_step_can_be_repeated(void **state)
{
    (void)state;
    transcript whole = generate(8, NULL, NULL), found = {.n = 0};
    assert_ok(cf_session_rewind(scripted_session, 0, &error), error);
    cf_generation *generation;
    assert_ok(cf_generation_begin(scripted_session, scripted_tokenizer, scripted_prompt, 5, 8, NULL,
                                  &generation, &error),
              error);
    test_script.fail_with = CF_STATUS_OUT_OF_MEMORY;
    while (!found.is_over) {
        cf_event event;
        test_script.fail_at = test_script.n_steps + 1;
        size_t n_before = test_script.n_steps;
        cf_status status = cf_generation_next(generation, &event, &error);
        assert_int_equal(status != CF_STATUS_OK, test_script.n_steps > n_before);
        if (status != CF_STATUS_OK)
            assert_ok(cf_generation_next(generation, &event, &error), error);
        write_down(&found, &event);
    }
    assert_memory_equal(found.ids, whole.ids, sizeof whole.ids);
    assert_string_equal(found.text, whole.text);
    cf_generation_free(generation);
}

static void nan_logits(const cf_token *ids, size_t n, float *logits, size_t n_vocab)
{
    script_hashed_logits(ids, n, logits, n_vocab);
    if (n == 7)
        logits[n_vocab - 1] = NAN;
}

static void logits_that_are_no_numbers_are_an_error(void **state)
{
    (void)state;
    test_script.logits = nan_logits;
    transcript found = {.n = 0};
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    assert_fails(cf_generate(scripted_session, NULL, scripted_prompt, 5, 9, &options, write_down,
                             &found, NULL, &error),
                 CF_STATUS_DEVICE, error, "position 6");
    assert_int_equal(found.n, 2);
}

static void options_are_copied(void **state)
{
    (void)state;
    static const char *const texts[] = {"a", "b", "stop"};
    script_text(5, texts, 3);
    char text[] = "stop";
    const char *stops[] = {text};
    cf_logit_bias bias[] = {{id_of("a"), -INFINITY}};
    cf_token stop_ids[] = {250}, ids[5];
    memcpy(ids, scripted_prompt, sizeof ids);
    cf_sampling sampling = {.size = sizeof sampling, .bias = bias, .n_bias = 1};
    cf_generate_options options = {.size = sizeof options,
                                   .stops = stops,
                                   .n_stops = 1,
                                   .stop_ids = stop_ids,
                                   .n_stop_ids = 1,
                                   .sampling = &sampling};
    cf_generation *generation;
    assert_ok(cf_generation_begin(scripted_session, scripted_tokenizer, ids, 5, 9, &options,
                                  &generation, &error),
              error);
    memset(text, 'b', 4);
    memset(ids, 0, sizeof ids);
    bias[0].id = 3;
    stop_ids[0] = id_of("b");
    stops[0] = NULL;
    transcript found = {.n = 0};
    while (!found.is_over) {
        cf_event event;
        assert_ok(cf_generation_next(generation, &event, &error), error);
        write_down(&found, &event);
    }
    check_text(&found, "bb", CF_FINISH_STOP, 3);
    assert_memory_equal(cf_session_tokens(scripted_session), scripted_prompt,
                        sizeof scripted_prompt);
    cf_generation_free(generation);
}
#define WITH_SESSION(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, scripted_set_up, scripted_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SESSION(greedy_takes_the_scripted_tokens),
        WITH_SESSION(logprobs_are_of_the_raw_logits),
        WITH_SESSION(no_tokens_asked_for_still_evaluates_the_prompt),
        WITH_SESSION(a_full_context_ends_it),
        WITH_SESSION(a_prompt_as_long_as_the_context_gives_one_token),
        WITH_SESSION(the_end_of_text_ends_it_and_has_no_text),
        WITH_SESSION(the_end_of_text_can_be_ignored),
        WITH_SESSION(stop_ids_end_it),
        WITH_SESSION(nothing_ends_it_before_min_tokens),
        WITH_SESSION(the_prompt_comes_in_chunks),
        WITH_SESSION(a_common_beginning_is_not_evaluated_again),
        WITH_SESSION(bad_beginnings_leave_the_session_as_it_was),
        WITH_SESSION(text_is_encoded),
        WITH_SESSION(sampled_generations_can_be_interleaved),
        WITH_SESSION(penalties_see_prompt_and_generation),
        WITH_SESSION(a_callback_can_cancel),
        WITH_SESSION(a_prompt_can_be_cancelled),
        WITH_SESSION(a_failing_device_ends_it_for_good),
        WITH_SESSION(another_failing_step_can_be_repeated),
        WITH_SESSION(logits_that_are_no_numbers_are_an_error),
        WITH_SESSION(options_are_copied),
    };
    return cmocka_run_group_tests_name("generate", tests, scripted_open, scripted_close);
}
