/* What a generation says: whole characters, and nothing of a stop string. */
#include "support/scripted_generation.h"

#include <string.h>

static cf_error error;

static transcript generate_text(const char *const *texts, size_t n, const char *const *stops,
                                size_t n_stops, size_t min_tokens)
{
    assert_ok(cf_session_rewind(scripted_session, 0, &error), error);
    script_text(5, texts, n);
    cf_generate_options options = {
        .size = sizeof options, .stops = stops, .n_stops = n_stops, .min_tokens = min_tokens};
    return generate(n, &options, NULL);
}

static void a_stop_string_may_span_tokens(void **state)
{
    (void)state;
    static const char *const texts[] = {"o", "k", " ", "STO", "P now", "!", "!"};
    static const char *const stop[] = {"STOP"};
    transcript found = generate_text(texts, 7, stop, 1, 0);
    check_text(&found, "ok ", CF_FINISH_STOP, 5);
}

static void a_stop_string_at_the_very_beginning_leaves_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {"stop", "a"};
    static const char *const stop[] = {"stop"};
    transcript found = generate_text(texts, 2, stop, 1, 0);
    check_text(&found, "", CF_FINISH_STOP, 1);
}

static void of_several_stop_strings_the_first_complete_counts(void **state)
{
    (void)state;
    static const char *const texts[] = {"x", "abab", "stop"};
    static const char *const longer_first[] = {"xabab", "ba"};
    transcript found = generate_text(texts, 3, longer_first, 2, 0);
    check_text(&found, "xa", CF_FINISH_STOP, 2);
    static const char *const same_end[] = {"b", "ab", "stop"};
    found = generate_text(texts, 3, same_end, 3, 0);
    check_text(&found, "x", CF_FINISH_STOP, 2);
}

static void text_that_is_no_stop_string_after_all_is_given(void **state)
{
    (void)state;
    static const char *const texts[] = {"STO", "STO", "ab", "s", "STO"};
    static const char *const stop[] = {"STOP", "abc"};
    transcript found = generate_text(texts, 5, stop, 2, 0);
    check_text(&found, "STOSTOabsSTO", CF_FINISH_LENGTH, 5);
}

static void only_what_may_become_a_stop_string_is_held_back(void **state)
{
    (void)state;
    static const char *const texts[] = {"a", "STO", "x", "S"};
    static const char *const stop[] = {"STOP"};
    script_text(5, texts, 4);
    cf_generate_options options = {.size = sizeof options, .stops = stop, .n_stops = 1};
    cf_generation *generation;
    cf_event event;
    assert_ok(cf_generation_begin(scripted_session, scripted_tokenizer, scripted_prompt, 5, 4,
                                  &options, &generation, &error),
              error);
    static const struct {
        cf_event_kind kind;
        const char *text;
    } expected[] = {{CF_EVENT_PROMPT, ""},    {CF_EVENT_TOKEN, "a"}, {CF_EVENT_TOKEN, ""},
                    {CF_EVENT_TOKEN, "STOx"}, {CF_EVENT_TOKEN, ""},  {CF_EVENT_END, "S"},
                    {CF_EVENT_END, ""},       {CF_EVENT_END, ""}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_ok(cf_generation_next(generation, &event, &error), error);
        assert_int_equal(event.kind, expected[i].kind);
        assert_int_equal(event.n_text, strlen(expected[i].text));
        assert_memory_equal(event.n_text > 0 ? event.text : "", expected[i].text, event.n_text);
    }
    assert_int_equal(event.finish, CF_FINISH_LENGTH);
    cf_generation_free(generation);
}

static void stop_strings_before_min_tokens_are_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"stop", "a", "stop", "b", "stop"};
    static const char *const stop[] = {"stop"};
    transcript found = generate_text(texts, 5, stop, 1, 4);
    check_text(&found, "stopastopb", CF_FINISH_STOP, 5);
    found = generate_text(texts, 5, stop, 1, 3);
    check_text(&found, "stopa", CF_FINISH_STOP, 3);
}

static void characters_come_whole(void **state)
{
    (void)state;
    /* é in two tokens, a euro sign in three, and half a character at the end. */
    static const cf_token ids[] = {'a' + 1,  0xC3 + 1, 0xA9 + 1, 0xE2 + 1,
                                   0x82 + 1, 0xAC + 1, 0xC3 + 1};
    static const char *const stop[] = {"€!", "\xEF\xBF\xBD?"};
    for (size_t n_stops = 0; n_stops <= 2; n_stops++) {
        assert_ok(cf_session_rewind(scripted_session, 0, &error), error);
        script_tokens(5, ids, 7);
        cf_generate_options options = {.size = sizeof options, .stops = stop, .n_stops = n_stops};
        transcript found = generate(7, &options, NULL);
        check_text(&found, "aé€\xEF\xBF\xBD", CF_FINISH_LENGTH, 7);
    }
}

static void the_last_text_may_complete_a_stop_string(void **state)
{
    (void)state;
    static const cf_token ids[] = {'a' + 1, 0xC3 + 1};
    static const char *const stop[] = {"\xEF\xBF\xBD"};
    script_tokens(5, ids, 2);
    cf_generate_options options = {.size = sizeof options, .stops = stop, .n_stops = 1};
    transcript found = generate(2, &options, NULL);
    check_text(&found, "a", CF_FINISH_STOP, 2);
}
#define WITH_SESSION(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, scripted_set_up, scripted_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SESSION(a_stop_string_may_span_tokens),
        WITH_SESSION(a_stop_string_at_the_very_beginning_leaves_nothing),
        WITH_SESSION(of_several_stop_strings_the_first_complete_counts),
        WITH_SESSION(text_that_is_no_stop_string_after_all_is_given),
        WITH_SESSION(only_what_may_become_a_stop_string_is_held_back),
        WITH_SESSION(stop_strings_before_min_tokens_are_text),
        WITH_SESSION(characters_come_whole),
        WITH_SESSION(the_last_text_may_complete_a_stop_string),
    };
    return cmocka_run_group_tests_name("generate_text", tests, scripted_open, scripted_close);
}
