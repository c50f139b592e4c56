/* Log-probabilities of given text, in windows. */
#include "base/memory.h"
#include "engine/arguments.h"
#include "engine/logprobs.h"
#include "engine/session.h"

#include <math.h>

/* The most rows of logits that are kept at a time. */
#define MAX_ROWS 128

struct cf_scoring {
    cf_session *session;
    const cf_token *ids; /* [n_ids] */
    size_t n_ids;
    cf_score_options options;
    size_t n_vocab;
    size_t n_rows;
    float *rows; /* [n_rows][n_vocab] */
    float *logprobs;
    cf_alternative *top;
    size_t n_scored; /* tokens done, the first included */
    size_t begin;    /* of the window */
    bool is_inside;  /* the window's context is evaluated */
};

static cf_status read_options(const cf_session *session, const cf_score_options *from,
                              cf_score_options *options, cf_error *error)
{
    CF_TRY(cf_options_read(from, options, sizeof *options, "score options", error));
    size_t n_context = session->options.n_context;
    if (options->n_window == 0)
        options->n_window = n_context;
    if (options->n_window > n_context)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "n_window is %zu, expected 1 to the context, %zu", options->n_window,
                       n_context);
    if (options->n_stride == 0)
        options->n_stride = options->n_window > 1 ? options->n_window / 2 : 1;
    if (options->n_stride > options->n_window)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "n_stride is %zu, expected 1 to n_window, %zu", options->n_stride,
                       options->n_window);
    return cf_check_integer("n_top", options->n_top, 0, CF_MAX_TOP, error);
}

static bool report(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what, (void)done, (void)total;
    const cf_scoring *work = user;
    const cf_score_options *options = &work->options;
    return options->progress == NULL ||
           options->progress(options->progress_user, "score", work->n_scored, work->n_ids);
}

/* A position without a prediction, or without that many tokens. */
static void clear_position(cf_scoring *work, size_t pos, size_t from)
{
    for (size_t i = from; work->top != NULL && i < (size_t)work->options.n_top; i++)
        work->top[pos * (size_t)work->options.n_top + i] =
            (cf_alternative){.id = -1, .logprob = NAN};
}

/* Scores token `pos` by the logits of the token before it. */
static cf_status score_token(cf_scoring *work, size_t pos, const float *logits, cf_error *error)
{
    double log_sum = cf_logits_log_sum(logits, work->n_vocab);
    if (!isfinite(log_sum))
        return cf_session_spoil(work->session, pos - 1, error);
    work->logprobs[pos] = (float)((double)logits[work->ids[pos]] - log_sum);
    size_t n_top = (size_t)work->options.n_top;
    if (work->top != NULL)
        clear_position(
            work, pos,
            cf_logits_top(logits, work->n_vocab, log_sum, n_top, work->top + pos * n_top));
    return CF_STATUS_OK;
}

/* Evaluates tokens start … end - 1 and scores those after them. */
static cf_status score_rows(cf_scoring *work, size_t start, size_t end, cf_error *error)
{
    cf_outputs outputs = {.size = sizeof outputs,
                          .logits = work->rows,
                          .n_logits = end - start,
                          .progress = report,
                          .progress_user = work};
    CF_TRY(cf_session_eval(work->session, work->ids + start, end - start, &outputs, error));
    for (size_t i = start; i < end; i++)
        CF_TRY(score_token(work, i + 1, work->rows + (i - start) * work->n_vocab, error));
    work->n_scored = end + 1;
    return CF_STATUS_OK;
}

/* What the window has before the first token to score: context only. */
static cf_status enter_window(cf_scoring *work, cf_error *error)
{
    size_t n = work->n_scored - 1 - work->begin;
    work->session->n_tokens = 0;
    if (n > 0) {
        cf_outputs outputs = {.size = sizeof outputs, .progress = report, .progress_user = work};
        CF_TRY(cf_session_eval(work->session, work->ids + work->begin, n, &outputs, error));
    }
    work->is_inside = true;
    return CF_STATUS_OK;
}

/* Nothing comes after the last token, which is no input. */
static size_t window_end(const cf_scoring *work)
{
    size_t left = work->n_ids - 1 - work->begin;
    return work->begin + (left < work->options.n_window ? left : work->options.n_window);
}

static cf_status take_step(cf_scoring *work, cf_error *error)
{
    if (!work->is_inside)
        CF_TRY(enter_window(work, error));
    size_t start = work->n_scored - 1, end = window_end(work), left = end - start;
    CF_TRY(score_rows(work, start, start + (left < work->n_rows ? left : work->n_rows), error));
    if (work->n_scored - 1 == end) {
        work->begin += work->options.n_stride;
        work->is_inside = false;
    }
    return CF_STATUS_OK;
}

static cf_status check_input(const cf_session *session, const cf_token *ids, size_t n_ids,
                             cf_error *error)
{
    if (n_ids == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "no tokens to score");
    return cf_check_ids("tokens", ids, n_ids, session->model->neox.shape.n_vocab, error);
}

static cf_status prepare(cf_scoring *work, const cf_score_options *options, cf_error *error)
{
    CF_TRY(cf_session_check(work->session, error));
    CF_TRY(read_options(work->session, options, &work->options, error));
    CF_TRY(check_input(work->session, work->ids, work->n_ids, error));
    size_t n_inputs = work->n_ids - 1, n_window = work->options.n_window;
    work->n_vocab = (size_t)work->session->model->neox.shape.n_vocab;
    work->n_rows = n_window < MAX_ROWS ? n_window : MAX_ROWS;
    work->n_rows = n_inputs < work->n_rows ? n_inputs : work->n_rows;
    CF_TRY(CF_ALLOC(&work->rows, work->n_rows * work->n_vocab, "logits", error));
    work->n_scored = 1;
    work->logprobs[0] = NAN;
    clear_position(work, 0, 0);
    work->session->n_tokens = 0;
    return CF_STATUS_OK;
}

cf_status cf_scoring_begin(cf_session *session, const cf_token *ids, size_t n_ids,
                           const cf_score_options *options, float *logprobs, cf_alternative *top,
                           cf_scoring **scoring, cf_error *error)
{
    CF_NEED(scoring, error);
    *scoring = NULL;
    CF_NEED(session, error);
    CF_NEED(ids, error);
    CF_NEED(logprobs, error);
    cf_scoring *begun;
    CF_TRY(CF_ALLOC(&begun, 1, "scoring", error));
    begun->session = session;
    begun->ids = ids;
    begun->n_ids = n_ids;
    begun->logprobs = logprobs;
    begun->top = top;
    cf_status status = prepare(begun, options, error);
    if (status != CF_STATUS_OK) {
        cf_scoring_free(begun);
        return status;
    }
    *scoring = begun;
    return CF_STATUS_OK;
}

cf_status cf_scoring_next(cf_scoring *scoring, size_t *n_scored, cf_error *error)
{
    CF_NEED(n_scored, error);
    *n_scored = 0;
    CF_NEED(scoring, error);
    CF_TRY(cf_session_check(scoring->session, error));
    if (scoring->n_scored < scoring->n_ids)
        CF_TRY(take_step(scoring, error));
    *n_scored = scoring->n_scored;
    return CF_STATUS_OK;
}

void cf_scoring_free(cf_scoring *scoring)
{
    if (scoring == NULL)
        return;
    cf_dealloc(scoring->rows);
    cf_dealloc(scoring);
}

static cf_status run(cf_scoring *work, cf_error *error)
{
    if (work->n_ids == 1)
        return CF_STATUS_OK;
    while (work->n_scored < work->n_ids)
        CF_TRY(take_step(work, error));
    /* Each evaluation reported what had been scored before it. */
    if (!report(work, "score", 0, 0))
        return cf_fail(error, CF_STATUS_CANCELLED, "cancelled after the last of %zu tokens",
                       work->n_ids);
    return CF_STATUS_OK;
}

cf_status cf_score(cf_session *session, const cf_token *ids, size_t n_ids,
                   const cf_score_options *options, float *logprobs, cf_alternative *top,
                   cf_error *error)
{
    cf_scoring *work;
    CF_TRY(cf_scoring_begin(session, ids, n_ids, options, logprobs, top, &work, error));
    cf_status status = run(work, error);
    cf_scoring_free(work);
    return status;
}
