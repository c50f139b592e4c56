#include "support/scripted_generation.h"

#include <string.h>

tiny_model scripted_tiny;
cf_session *scripted_session;
cf_tokenizer *scripted_tokenizer;

/* What follows the prompt, as ids, when scripted_logits decides. */
static cf_token script_ids[MAX_SCRIPT];
static size_t n_script;
static size_t n_script_prompt;

static const char *const pieces[] = {"stop", "STO", "P now", "ab", "abab", "dé", "\n\n", "xyzzy"};
enum { N_PIECES = sizeof pieces / sizeof pieces[0] };

/* The scripted token has logit 5, the one after it 3, the rest less and less. */
void scripted_logits(const cf_token *ids, size_t n, float *logits, size_t n_vocab)
{
    (void)ids;
    size_t at = n - n_script_prompt;
    cf_token next = at < n_script ? script_ids[at] : 42;
    for (size_t i = 0; i < n_vocab; i++)
        logits[i] = -(float)i * 0x1p-6f;
    logits[(size_t)(next + 1) % n_vocab] = 3;
    logits[next] = 5;
}

int scripted_open(void **state)
{
    (void)state;
    cf_shape shape = tiny_shape();
    shape.n_vocab = N_VOCAB;
    tiny_model_create(&scripted_tiny, &shape, 1, &script_backend);
    scripted_tokenizer = byte_tokenizer_create(pieces, N_PIECES);
    return 0;
}

int scripted_close(void **state)
{
    (void)state;
    cf_tokenizer_close(scripted_tokenizer);
    tiny_model_free(&scripted_tiny);
    return 0;
}

int scripted_set_up(void **state)
{
    (void)state;
    cf_error error;
    test_script = (script){0};
    n_script = 0;
    assert_ok(cf_session_create(scripted_tiny.model, NULL, &scripted_session, &error), error);
    return 0;
}

int scripted_tear_down(void **state)
{
    (void)state;
    cf_session_free(scripted_session);
    return 0;
}

cf_token id_of(const char *text)
{
    cf_token id = cf_tokenizer_find(scripted_tokenizer, text);
    return id >= 0 || strlen(text) != 1 ? id : (unsigned char)text[0] + 1;
}

void script_text(size_t n_prompt, const char *const *texts, size_t n)
{
    test_script.logits = scripted_logits;
    n_script_prompt = n_prompt;
    n_script = n;
    for (size_t i = 0; i < n; i++) {
        script_ids[i] = id_of(texts[i]);
        assert_in_range(script_ids[i], 0, N_VOCAB - 1);
    }
}

void script_tokens(size_t n_prompt, const cf_token *ids, size_t n)
{
    test_script.logits = scripted_logits;
    n_script_prompt = n_prompt;
    n_script = n;
    memcpy(script_ids, ids, n * sizeof *ids);
}

bool write_down(void *user, const cf_event *event)
{
    transcript *to = user;
    assert_false(to->is_over);
    if (event->kind == CF_EVENT_PROMPT) {
        assert_int_equal(to->n, 0);
        assert_int_equal(event->n_text, 0);
        to->n_prompt_events++;
    }
    if (event->kind == CF_EVENT_TOKEN) {
        assert_int_equal(event->finish, CF_FINISH_NONE);
        to->ids[to->n] = event->token;
        to->logprobs[to->n++] = event->logprob;
    }
    assert_int_equal(event->n_tokens, to->n);
    assert_true(to->n_text + event->n_text < sizeof to->text);
    if (event->n_text > 0)
        memcpy(to->text + to->n_text, event->text, event->n_text);
    to->n_text += event->n_text;
    to->text[to->n_text] = 0;
    to->is_over = event->kind == CF_EVENT_END;
    to->finish = event->finish;
    return to->cancel_after == 0 || to->n < to->cancel_after;
}

const cf_token scripted_prompt[5] = {10, 20, 30, 40, 50};

transcript generate(size_t max_tokens, const cf_generate_options *options, cf_generate_stats *stats)
{
    cf_error error;
    transcript found = {.n = 0};
    assert_ok(cf_generate(scripted_session, scripted_tokenizer, scripted_prompt, 5, max_tokens,
                          options, write_down, &found, stats, &error),
              error);
    assert_true(found.is_over);
    return found;
}

void check_text(const transcript *found, const char *text, cf_finish finish, size_t n)
{
    assert_string_equal(found->text, text);
    assert_int_equal(found->finish, finish);
    assert_int_equal(found->n, n);
}
