/*
 * The accuracy of answers to multiple-choice questions. Texts are cut into tokens, compared and
 * averaged as EleutherAI's lm-evaluation-harness does it, so that results compare.
 */
#include "base/memory.h"
#include "base/status.h"
#include "cli/eval.h"
#include "cli/report.h"

#include <math.h>
#include <string.h>

/* The most rows of logits that are kept at a time. */
#define MAX_ROWS 128

typedef struct asking {
    const cf_opened *opened;
    const char *delimiter;
    size_t n_window;
    size_t n_vocab, n_rows;
    float *rows;       /* [n_rows][n_vocab] */
    cf_bytes text;     /* context, delimiter and choice */
    cf_ids ids;        /* of that text, after the prefix if there is no context */
    cf_ids context;    /* of the context alone */
    size_t n_context;  /* the ids that are context: the others are scored */
    size_t n_right[3]; /* by the sum, a character, a byte */
    bool truncated;    /* a choice of this question */
} asking;

/* The most probable choice so far, in one of the ways to compare. */
typedef struct best {
    double score;
    size_t choice;
} best;

/* Makes self->text of context, delimiter and choice; `n_kept` is the context's part of it. */
static cf_status join(asking *self, const json_t *context, const json_t *choice, size_t *n_kept,
                      cf_error *error)
{
    size_t n_context = json_string_length(context), n_choice = json_string_length(choice);
    size_t n_delimiter = strlen(self->delimiter);
    CF_TRY(cf_bytes_reserve(&self->text, n_context + n_delimiter + n_choice, error));
    memcpy(self->text.data, json_string_value(context), n_context);
    memcpy(self->text.data + n_context, self->delimiter, n_delimiter);
    memcpy(self->text.data + n_context + n_delimiter, json_string_value(choice), n_choice);
    self->text.n = n_context + n_delimiter + n_choice;
    /* Tokens carry the space before a word, so white space before the choice belongs to it. */
    *n_kept = cf_trim_spaces(self->text.data, n_context);
    return CF_STATUS_OK;
}

/* With nothing before it, the choice follows the prefix; unless it begins with that itself. */
static cf_status put_prefix(asking *self, cf_error *error)
{
    cf_token prefix = cf_eval_prefix(self->opened->model);
    self->n_context = 1;
    if (self->ids.n > 1 && self->ids.values[0] == prefix)
        return CF_STATUS_OK;
    if (prefix < 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "the context is empty, and config.json has neither bos_token_id nor "
                       "eos_token_id to take its place");
    CF_TRY(cf_ids_reserve(&self->ids, self->ids.n + 1, error));
    memmove(self->ids.values + 1, self->ids.values, self->ids.n * sizeof *self->ids.values);
    self->ids.values[0] = prefix;
    self->ids.n++;
    return CF_STATUS_OK;
}

/* The whole is encoded and cut where the context alone would end. */
static cf_status encode(asking *self, const json_t *context, const json_t *choice, cf_error *error)
{
    const cf_tokenizer *tokenizer = self->opened->tokenizer;
    size_t n_kept;
    CF_TRY(join(self, context, choice, &n_kept, error));
    CF_TRY(cf_ids_encode(tokenizer, self->text.data, self->text.n, 0, &self->ids, error));
    CF_TRY(cf_ids_encode(tokenizer, self->text.data, n_kept, 0, &self->context, error));
    self->n_context = self->context.n;
    if (self->n_context == 0)
        CF_TRY(put_prefix(self, error));
    if (self->ids.n <= self->n_context)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "expected at least one token after the context's %zu, found %zu in all",
                       self->n_context, self->ids.n);
    return CF_STATUS_OK;
}

/* The last token is scored, not evaluated. */
static cf_status truncate(asking *self, cf_error *error)
{
    size_t n_choice = self->ids.n - self->n_context;
    if (n_choice > self->n_window)
        return cf_fail(error, CF_STATUS_CONTEXT_FULL,
                       "expected at most the window of %zu tokens, found %zu", self->n_window,
                       n_choice);
    size_t n_inputs = self->ids.n - 1;
    size_t n_cut = n_inputs > self->n_window ? n_inputs - self->n_window : 0;
    if (n_cut == 0)
        return CF_STATUS_OK;
    self->truncated = true;
    self->ids.n -= n_cut;
    self->n_context -= n_cut;
    memmove(self->ids.values, self->ids.values + n_cut, self->ids.n * sizeof *self->ids.values);
    return CF_STATUS_OK;
}

static double logprob(const float *logits, size_t n, cf_token id)
{
    float max = logits[0];
    for (size_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    double sum = exp((double)(logits[0] - max));
    for (size_t i = 1; i < n; i++)
        sum += exp((double)(logits[i] - max));
    return (double)(logits[id] - max) - log(sum);
}

/* Evaluates what the session does not hold yet, at least what predicts the choice; adds it up. */
static cf_status score(asking *self, double *sum, cf_error *error)
{
    cf_session *session = self->opened->session;
    const cf_token *ids = self->ids.values;
    size_t n_inputs = self->ids.n - 1, first_row = self->n_context - 1;
    size_t start = cf_session_reuse(session, ids, n_inputs);
    if (start > first_row)
        start = first_row;
    CF_TRY(cf_session_rewind(session, start, error));
    *sum = 0;
    for (size_t row = first_row; row < n_inputs;) {
        size_t n = n_inputs - row < self->n_rows ? n_inputs - row : self->n_rows;
        cf_outputs outputs = {.size = sizeof outputs, .logits = self->rows, .n_logits = n};
        CF_TRY(cf_session_eval(session, ids + start, row + n - start, &outputs, error));
        for (size_t i = 0; i < n; i++)
            *sum += logprob(self->rows + i * self->n_vocab, self->n_vocab, ids[row + i + 1]);
        row += n;
        start = row;
    }
    if (!isfinite(*sum))
        return cf_fail(error, CF_STATUS_DEVICE, "its log-probability is not finite");
    return CF_STATUS_OK;
}

/* The first of equals stays the best. */
static void compare(best *found, double value, size_t choice)
{
    if (value > found->score)
        *found = (best){value, choice};
}

static cf_status ask_choice(asking *self, const json_t *question, size_t index, best found[3],
                            cf_error *error)
{
    const json_t *choice = json_array_get(json_object_get(question, "choices"), index);
    const char *text = json_string_value(choice);
    size_t n_bytes = json_string_length(choice);
    double sum;
    CF_TRY(encode(self, json_object_get(question, "context"), choice, error));
    CF_TRY(truncate(self, error));
    CF_TRY(score(self, &sum, error));
    compare(&found[0], sum, index);
    compare(&found[1], sum / (double)cf_count_characters(text, n_bytes), index);
    compare(&found[2], sum / (double)n_bytes, index);
    return CF_STATUS_OK;
}

static cf_status ask(asking *self, const json_t *question, size_t number, cf_error *error)
{
    best found[3] = {{-INFINITY, 0}, {-INFINITY, 0}, {-INFINITY, 0}};
    size_t n = json_array_size(json_object_get(question, "choices"));
    self->truncated = false;
    for (size_t i = 0; i < n; i++) {
        cf_error inner;
        cf_status status = ask_choice(self, question, i, found, &inner);
        if (status != CF_STATUS_OK)
            return cf_fail(error, status, "line %zu: choice %zu: %s", number, i, inner.message);
    }
    size_t answer = (size_t)json_integer_value(json_object_get(question, "answer"));
    for (int i = 0; i < 3; i++)
        self->n_right[i] += found[i].choice == answer;
    return CF_STATUS_OK;
}

static cf_status ask_all(asking *self, const cf_questions *questions, cf_tasks_result *result,
                         cf_error *error)
{
    cf_progress progress = {0};
    size_t n = json_array_size(questions->values);
    *result = (cf_tasks_result){.n_questions = n};
    cf_status status = CF_STATUS_OK;
    for (size_t i = 0; i < n && status == CF_STATUS_OK; i++) {
        status = ask(self, json_array_get(questions->values, i), i + 1, error);
        result->n_truncated += self->truncated;
        if (status == CF_STATUS_OK && !cf_progress_update(&progress, "ask", i + 1, n))
            status = cf_fail(error, CF_STATUS_CANCELLED, "interrupted");
    }
    cf_progress_clear(&progress);
    return status;
}

/* Of ones and zeros the squares are what the values are. */
static cf_estimate estimate_part(size_t n_right, size_t n)
{
    return cf_estimate_mean((double)n_right, (double)n_right, n);
}

cf_status cf_eval_tasks(const cf_questions *questions, const char *delimiter, size_t n_window,
                        const cf_opened *opened, cf_tasks_result *result, cf_error *error)
{
    asking self = {
        .opened = opened,
        .delimiter = delimiter,
        .n_window = n_window,
        .n_vocab = (size_t)cf_model_shape(opened->model)->n_vocab,
        .n_rows = n_window < MAX_ROWS ? n_window : MAX_ROWS,
    };
    cf_status status = CF_ALLOC(&self.rows, self.n_rows * self.n_vocab, "logits", error);
    if (status == CF_STATUS_OK)
        status = ask_all(&self, questions, result, error);
    result->acc = estimate_part(self.n_right[0], result->n_questions);
    result->acc_norm = estimate_part(self.n_right[1], result->n_questions);
    result->acc_bytes = estimate_part(self.n_right[2], result->n_questions);
    cf_dealloc(self.rows);
    cf_bytes_free(&self.text);
    cf_ids_free(&self.ids);
    cf_ids_free(&self.context);
    return status;
}
