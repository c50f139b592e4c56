/* Multiple-choice questions from a file of JSON lines, checked as they are read. */
#include "base/status.h"
#include "cli/eval.h"
#include "cli/lines.h"

#include <string.h>

static cf_status fail_kind(const char *key, const char *expected, const json_t *found,
                           cf_error *error)
{
    return cf_fail(error, CF_STATUS_BAD_FILE, "\"%s\": expected %s, found %s", key, expected,
                   found != NULL ? cf_json_kind(found) : "nothing");
}

static cf_status check_choices(const json_t *choices, cf_error *error)
{
    if (!json_is_array(choices))
        return fail_kind("choices", "an array of strings", choices, error);
    size_t n = json_array_size(choices);
    if (n < 2)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "\"choices\": expected at least 2 of them, found %zu", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *choice = json_array_get(choices, i);
        if (!json_is_string(choice))
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "\"choices\": choice %zu: expected a string, found %s", i,
                           cf_json_kind(choice));
        if (json_string_length(choice) == 0)
            return cf_fail(error, CF_STATUS_BAD_FILE, "\"choices\": choice %zu is empty", i);
    }
    return CF_STATUS_OK;
}

/* A cf_lines_value_fn; `user` is a cf_questions. */
static cf_status add_question(void *user, const json_t *value, cf_error *error)
{
    cf_questions *questions = user;
    if (!json_is_object(value))
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "expected an object of \"context\", \"choices\" and \"answer\", found %s",
                       cf_json_kind(value));
    const json_t *context = json_object_get(value, "context");
    const json_t *choices = json_object_get(value, "choices");
    const json_t *answer = json_object_get(value, "answer");
    if (!json_is_string(context))
        return fail_kind("context", "a string", context, error);
    CF_TRY(check_choices(choices, error));
    if (!json_is_integer(answer))
        return fail_kind("answer", "the index of a choice", answer, error);
    size_t n = json_array_size(choices);
    json_int_t index = json_integer_value(answer);
    if (index < 0 || index >= (json_int_t)n)
        return cf_fail(error, CF_STATUS_BAD_FILE,
                       "\"answer\": expected the index of a choice, 0 to %zu, found %lld", n - 1,
                       (long long)index);
    questions->n_choices += n;
    json_t *copy =
        json_pack("{s:O, s:O, s:O}", "context", context, "choices", choices, "answer", answer);
    if (json_array_append_new(questions->values, copy) != 0)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "a question");
    return CF_STATUS_OK;
}

cf_status cf_questions_read(const char *path, cf_questions *questions, cf_error *error)
{
    questions->values = json_array();
    if (questions->values == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "a list of questions");
    cf_lines_args args = {.file = path, .jsonl = true};
    cf_error inner;
    cf_status status = cf_lines_process(&args, NULL, add_question, questions, &inner);
    if (status != CF_STATUS_OK && strncmp(inner.message, "line ", 5) == 0)
        return cf_fail(error, status, "%s: %s", path, inner.message);
    if (status != CF_STATUS_OK)
        return cf_fail(error, status, "%s", inner.message);
    if (json_array_size(questions->values) == 0)
        return cf_fail(error, CF_STATUS_BAD_FILE, "%s: expected a question a line, found none",
                       path);
    return CF_STATUS_OK;
}

void cf_questions_free(cf_questions *questions)
{
    json_decref(questions->values);
    *questions = (cf_questions){0};
}
