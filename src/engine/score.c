/* Log-probabilities of given text, in windows. */
#include "base/memory.h"
#include "engine/arguments.h"
#include "engine/logprobs.h"
#include "engine/session.h"

#include <math.h>

/* The most rows of logits that are kept at a time. */
#define MAX_ROWS 128

typedef struct scoring {
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
} scoring;

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
    const scoring *work = user;
    const cf_score_options *options = &work->options;
    return options->progress == NULL ||
           options->progress(options->progress_user, "score", work->n_scored, work->n_ids);
}

/* A position without a prediction, or without that many tokens. */
static void clear_position(scoring *work, size_t pos, size_t from)
{
    for (size_t i = from; work->top != NULL && i < (size_t)work->options.n_top; i++)
        work->top[pos * (size_t)work->options.n_top + i] =
            (cf_alternative){.id = -1, .logprob = NAN};
}

/* Scores token `pos` by the logits of the token before it. */
static cf_status score_token(scoring *work, size_t pos, const float *logits, cf_error *error)
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
static cf_status score_rows(scoring *work, size_t start, size_t end, cf_error *error)
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

/* A window of tokens begin … end - 1; those before n_scored - 1 are context only. */
static cf_status score_window(scoring *work, size_t begin, size_t end, cf_error *error)
{
    work->session->n_tokens = 0;
    size_t start = work->n_scored - 1;
    if (start > begin) {
        cf_outputs outputs = {.size = sizeof outputs, .progress = report, .progress_user = work};
        CF_TRY(cf_session_eval(work->session, work->ids + begin, start - begin, &outputs, error));
    }
    for (; start < end; start += work->n_rows) {
        size_t left = end - start;
        size_t n = left < work->n_rows ? left : work->n_rows;
        CF_TRY(score_rows(work, start, start + n, error));
    }
    return CF_STATUS_OK;
}

static cf_status score_windows(scoring *work, cf_error *error)
{
    size_t n_inputs = work->n_ids - 1; /* nothing comes after the last */
    size_t n_window = work->options.n_window;
    work->n_rows = n_window < MAX_ROWS ? n_window : MAX_ROWS;
    work->n_rows = n_inputs < work->n_rows ? n_inputs : work->n_rows;
    CF_TRY(CF_ALLOC(&work->rows, work->n_rows * work->n_vocab, "logits", error));
    for (size_t begin = 0; work->n_scored < work->n_ids; begin += work->options.n_stride) {
        size_t left = n_inputs - begin;
        CF_TRY(score_window(work, begin, begin + (left < n_window ? left : n_window), error));
    }
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
    CF_NEED(session, error);
    CF_NEED(ids, error);
    CF_NEED(logprobs, error);
    scoring work = {.session = session, .ids = ids, .n_ids = n_ids, .n_scored = 1};
    work.logprobs = logprobs;
    work.top = top;
    work.n_vocab = (size_t)session->model->neox.shape.n_vocab;
    CF_TRY(cf_session_check(session, error));
    CF_TRY(read_options(session, options, &work.options, error));
    if (n_ids == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "no tokens to score");
    CF_TRY(cf_check_ids("tokens", ids, n_ids, session->model->neox.shape.n_vocab, error));
    logprobs[0] = NAN;
    clear_position(&work, 0, 0);
    session->n_tokens = 0;
    if (n_ids == 1)
        return CF_STATUS_OK;
    cf_status status = score_windows(&work, error);
    cf_dealloc(work.rows);
    return status;
}
