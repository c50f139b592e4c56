/* Scoring, on a backend whose logits depend on every token before: windows, strides, bounds. */
#include "support/script_backend.h"
#include "support/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_VOCAB = 96, N_CONTEXT = 64, N_LONG = 150 };

static cf_error error;
static tiny_model tiny;
static cf_session *session;
static cf_token ids[N_LONG];

static int set_up(void **state)
{
    (void)state;
    test_script = (script){0};
    cf_shape shape = tiny_shape();
    tiny_model_create(&tiny, &shape, 1, &script_backend);
    assert_ok(cf_session_create(tiny.model, NULL, &session, &error), error);
    for (size_t i = 0; i < N_LONG; i++)
        ids[i] = (cf_token)((i * i * 7 + 3) % N_VOCAB);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cf_session_free(session);
    tiny_model_free(&tiny);
    return 0;
}

/* Log-softmax, in double, of the logits after tokens begin … pos - 1. */
static void reference_row(size_t begin, size_t pos, double logprobs[N_VOCAB])
{
    float logits[N_VOCAB];
    script_hashed_logits(ids + begin, pos - begin, logits, N_VOCAB);
    double sum = 0;
    for (int i = 0; i < N_VOCAB; i++)
        sum += exp((double)logits[i]);
    for (int i = 0; i < N_VOCAB; i++)
        logprobs[i] = (double)logits[i] - log(sum);
}

/* The first window whose tokens reach the one before `pos`. */
static size_t window_of(size_t pos, size_t n_window, size_t n_stride)
{
    size_t begin = 0;
    while (begin + n_window < pos)
        begin += n_stride;
    return begin;
}

static void check_scores(size_t n, size_t n_window, size_t n_stride)
{
    float logprobs[N_LONG + 1];
    cf_alternative top[N_LONG][3];
    logprobs[n] = 77;
    cf_score_options options = {
        .size = sizeof options, .n_window = n_window, .n_stride = n_stride, .n_top = 3};
    assert_ok(cf_score(session, ids, n, &options, logprobs, top[0], &error), error);
    n_window = n_window != 0 ? n_window : N_CONTEXT;
    n_stride = n_stride != 0 ? n_stride : n_window / 2 > 0 ? n_window / 2 : 1;
    assert_true(isnan(logprobs[0]) && isnan(top[0][2].logprob) && top[0][2].id == -1);
    for (size_t pos = 1; pos < n; pos++) {
        double expected[N_VOCAB];
        reference_row(window_of(pos, n_window, n_stride), pos, expected);
        assert_true(fabs((double)logprobs[pos] - expected[ids[pos]]) < 2e-6);
        int best = 0;
        for (int i = 1; i < N_VOCAB; i++)
            best = expected[i] > expected[best] ? i : best;
        assert_int_equal(top[pos][0].id, best);
        assert_true(fabs((double)top[pos][0].logprob - expected[best]) < 2e-6);
        assert_true(top[pos][1].logprob >= top[pos][2].logprob);
    }
    assert_true(logprobs[n] == 77);
}

static void short_text_is_scored_in_one_window(void **state)
{
    (void)state;
    for (size_t n = 1; n <= N_CONTEXT + 1; n++) {
        test_script.n_evaluated = 0;
        check_scores(n, 0, 0);
        assert_int_equal(test_script.n_evaluated, n - 1); /* the last needs no evaluation */
        assert_int_equal(cf_session_n_tokens(session), n - 1);
    }
}

static void every_window_and_stride_scores_each_token_once(void **state)
{
    (void)state;
    static const size_t windows[] = {0, 1, 2, 3, 7, 16, 33, 64};
    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
        for (size_t n_stride = 0; n_stride <= windows[i]; n_stride++) {
            test_script.n_rows = 0;
            check_scores(N_LONG, windows[i], n_stride);
            assert_int_equal(test_script.n_rows, N_LONG - 1);
            check_scores(windows[i] + 1, windows[i], n_stride);
        }
}

static void logits_are_kept_a_few_rows_at_a_time(void **state)
{
    (void)state;
    cf_session_options options = {.size = sizeof options, .n_context = 1000, .n_chunk = 1000};
    cf_session *wide;
    assert_ok(cf_session_create(tiny.model, &options, &wide, &error), error);
    float logprobs[1000];
    cf_token many[1000];
    for (size_t i = 0; i < 1000; i++)
        many[i] = ids[i % N_LONG];
    assert_ok(cf_score(wide, many, 1000, NULL, logprobs, NULL, &error), error);
    assert_int_equal(test_script.n_steps, (999 + 127) / 128);
    assert_int_equal(test_script.n_rows, 999);
    cf_session_free(wide);
}

static void a_generation_goes_on_from_what_was_scored(void **state)
{
    (void)state;
    float logprobs[30];
    assert_ok(cf_score(session, ids, 30, NULL, logprobs, NULL, &error), error);
    cf_generate_stats stats;
    assert_ok(cf_generate(session, NULL, ids, 30, 1, NULL, NULL, NULL, &stats, &error), error);
    assert_int_equal(stats.n_reused, 29);
}

static void more_alternatives_than_tokens_are_marked_absent(void **state)
{
    (void)state;
    tiny_model small;
    cf_shape shape = tiny_shape();
    shape.n_vocab = 3;
    tiny_model_create(&small, &shape, 1, &script_backend);
    cf_session *own;
    assert_ok(cf_session_create(small.model, NULL, &own, &error), error);
    cf_token two[] = {1, 2};
    float logprobs[2];
    cf_alternative top[2][5];
    cf_score_options options = {.size = sizeof options, .n_top = 5};
    assert_ok(cf_score(own, two, 2, &options, logprobs, top[0], &error), error);
    assert_true(top[1][2].id >= 0 && top[1][3].id == -1 && isnan(top[1][4].logprob));
    cf_session_free(own);
    tiny_model_free(&small);
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    float logprobs[N_LONG];
    static const struct {
        cf_score_options options;
        const char *part;
    } cases[] = {
        {{.n_window = 65}, "n_window is 65, expected 1 to the context, 64"},
        {{.n_window = 8, .n_stride = 9}, "n_stride is 9, expected 1 to n_window, 8"},
        {{.n_top = 65}, "n_top is 65"},
        {{.n_top = -1}, "n_top is -1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cf_score_options options = cases[i].options;
        options.size = sizeof options;
        assert_fails(cf_score(session, ids, 9, &options, logprobs, NULL, &error),
                     CF_STATUS_INVALID_ARGUMENT, error, cases[i].part);
    }
    assert_fails(cf_score(session, ids, 0, NULL, logprobs, NULL, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "no tokens");
    assert_fails(cf_score(session, NULL, 1, NULL, logprobs, NULL, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "ids is NULL");
    assert_fails(cf_score(session, ids, 1, NULL, NULL, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "logprobs is NULL");
    assert_fails(cf_score(NULL, ids, 1, NULL, logprobs, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "session is NULL");
    ids[0] = 96; /* also where nothing is evaluated */
    assert_fails(cf_score(session, ids, 1, NULL, logprobs, NULL, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "token 0 has id 96");
}

typedef struct progress_log {
    uint64_t last;
    size_t n, stop_at;
} progress_log;

static bool log_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    progress_log *log = user;
    assert_string_equal(what, "score");
    assert_int_equal(total, N_LONG);
    assert_true(done >= log->last && done <= total);
    log->last = done;
    return ++log->n != log->stop_at;
}

static void progress_goes_to_the_end_and_can_cancel(void **state)
{
    (void)state;
    float logprobs[N_LONG];
    progress_log log = {0};
    cf_score_options options = {
        .size = sizeof options, .n_window = 20, .progress = log_progress, .progress_user = &log};
    assert_ok(cf_score(session, ids, N_LONG, &options, logprobs, NULL, &error), error);
    assert_int_equal(log.last, N_LONG);
    size_t n_calls = log.n;
    assert_true(n_calls > 20);
    for (size_t stop_at = 1; stop_at <= n_calls; stop_at++) {
        log = (progress_log){.stop_at = stop_at};
        assert_fails(cf_score(session, ids, N_LONG, &options, logprobs, NULL, &error),
                     CF_STATUS_CANCELLED, error, "cancelled");
        assert_int_equal(log.n, stop_at);
    }
    check_scores(N_LONG, 20, 0);
}

static void a_failing_device_is_reported(void **state)
{
    (void)state;
    float logprobs[N_LONG];
    test_script.fail_at = 5;
    test_script.fail_with = CF_STATUS_DEVICE;
    assert_fails(cf_score(session, ids, N_LONG, NULL, logprobs, NULL, &error), CF_STATUS_DEVICE,
                 error, "as the script says");
}

static void infinite_logits(const cf_token *given, size_t n, float *logits, size_t n_vocab)
{
    script_hashed_logits(given, n, logits, n_vocab);
    if (n == 17)
        logits[0] = INFINITY;
}

static void logits_that_are_no_numbers_are_an_error(void **state)
{
    (void)state;
    float logprobs[N_LONG];
    test_script.logits = infinite_logits;
    assert_fails(cf_score(session, ids, N_LONG, NULL, logprobs, NULL, &error), CF_STATUS_DEVICE,
                 error, "position 16");
}

static void steps_of_two_sessions_taken_in_turns_score_the_same(void **state)
{
    (void)state;
    float whole[N_LONG], first[N_LONG], second[N_LONG];
    cf_session *other;
    cf_scoring *one, *two;
    size_t n_one = 0, n_two = 0, n_steps = 0;
    cf_score_options options = {.size = sizeof options, .n_window = 8, .n_stride = 3};
    assert_ok(cf_score(session, ids, N_LONG, &options, whole, NULL, &error), error);
    assert_ok(cf_session_create(cf_session_model(session), NULL, &other, &error), error);
    assert_ok(cf_scoring_begin(session, ids, N_LONG, &options, first, NULL, &one, &error), error);
    assert_ok(cf_scoring_begin(other, ids, N_LONG - 5, &options, second, NULL, &two, &error),
              error);
    for (; n_one < N_LONG; n_steps++) {
        assert_ok(cf_scoring_next(one, &n_one, &error), error);
        assert_ok(cf_scoring_next(two, &n_two, &error), error);
    }
    assert_true(n_steps > 2);
    assert_int_equal(n_two, N_LONG - 5);
    assert_memory_equal(first + 1, whole + 1, (N_LONG - 1) * sizeof *whole);
    assert_memory_equal(second + 1, whole + 1, (N_LONG - 6) * sizeof *whole);
    cf_scoring_free(one);
    cf_scoring_free(two);
    cf_session_free(other);
    assert_fails(cf_scoring_next(NULL, &n_one, &error), CF_STATUS_INVALID_ARGUMENT, error, "");
    cf_scoring_free(NULL);
}

#define WITH_SESSION(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SESSION(short_text_is_scored_in_one_window),
        WITH_SESSION(every_window_and_stride_scores_each_token_once),
        WITH_SESSION(logits_are_kept_a_few_rows_at_a_time),
        WITH_SESSION(a_generation_goes_on_from_what_was_scored),
        WITH_SESSION(steps_of_two_sessions_taken_in_turns_score_the_same),
        WITH_SESSION(more_alternatives_than_tokens_are_marked_absent),
        WITH_SESSION(bad_requests_are_refused),
        WITH_SESSION(progress_goes_to_the_end_and_can_cancel),
        WITH_SESSION(a_failing_device_is_reported),
        WITH_SESSION(logits_that_are_no_numbers_are_an_error),
    };
    return cmocka_run_group_tests_name("score", tests, NULL, NULL);
}
