/* Stop strings: the matcher against a naive search. */
#include "support/support.h"

#include "base/random.h"
#include "engine/stops.h"

#include <string.h>

static cf_error error;

/* A naive search over the whole text: the earliest end, then the longest. */
static size_t naive_cut(const char *text, const char *const *stops, size_t n_stops, bool *is_found)
{
    for (size_t end = 1; end <= strlen(text); end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n_stops; i++) {
            size_t n = strlen(stops[i]);
            if (n <= end && n > longest && memcmp(text + end - n, stops[i], n) == 0)
                longest = n;
        }
        *is_found = longest > 0;
        if (*is_found)
            return end - longest;
    }
    return strlen(text);
}

/* A text over two letters, stop strings over the same, and the random numbers that made them. */
typedef struct problem {
    uint64_t seed, draw;
    char words[4][8];
    const char *stops[4];
    size_t n_stops;
    char text[16];
    size_t n_text;
} problem;

static size_t draw_below(problem *it, size_t n)
{
    return (size_t)((double)n * cf_random_uniform(it->seed, it->draw++));
}

static void draw_problem(problem *it, uint64_t seed)
{
    *it = (problem){.seed = seed};
    it->n_stops = 1 + draw_below(it, 4);
    for (size_t i = 0; i < it->n_stops; i++) {
        size_t n = 1 + draw_below(it, 5);
        for (size_t j = 0; j < n; j++)
            it->words[i][j] = draw_below(it, 2) == 0 ? 'a' : 'b';
        it->stops[i] = it->words[i];
    }
    it->n_text = draw_below(it, 15);
    for (size_t i = 0; i < it->n_text; i++)
        it->text[i] = draw_below(it, 5) < 3 ? 'a' : 'b';
}

/* Pushes the text in random pieces; gives what came out. */
static bool run_matcher(problem *it, char *given, size_t *n_given)
{
    cf_stops matcher;
    assert_ok(cf_stops_create(it->stops, it->n_stops, 4, &matcher, &error), error);
    bool is_stopped = false;
    const char *out;
    size_t n_out;
    *n_given = 0;
    for (size_t at = 0; at < it->n_text && !is_stopped;) {
        size_t left = it->n_text - at, piece = draw_below(it, 5);
        piece = piece < left ? piece : left;
        is_stopped = cf_stops_push(&matcher, it->text + at, piece, false, &out, &n_out);
        memcpy(given + *n_given, out, n_out);
        *n_given += n_out;
        at += piece;
    }
    if (!is_stopped) {
        is_stopped = cf_stops_finish(&matcher, "", 0, false, &out, &n_out);
        memcpy(given + *n_given, out, n_out);
        *n_given += n_out;
    }
    cf_stops_free(&matcher);
    return is_stopped;
}

static void stop_strings_are_found_wherever_the_text_is_cut(void **state)
{
    (void)state;
    int n_found = 0;
    for (uint64_t seed = 0; seed < 20000; seed++) {
        problem it;
        draw_problem(&it, seed);
        bool is_expected = false;
        size_t n_expected = naive_cut(it.text, it.stops, it.n_stops, &is_expected), n = 0;
        char given[32];
        bool is_stopped = run_matcher(&it, given, &n);
        assert_int_equal(is_stopped, is_expected);
        assert_int_equal(n, n_expected);
        assert_memory_equal(given, it.text, n);
        n_found += is_stopped;
    }
    assert_in_range(n_found, 5000, 19500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_strings_are_found_wherever_the_text_is_cut),
    };
    return cmocka_run_group_tests_name("stops", tests, NULL, NULL);
}
