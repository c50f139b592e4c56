/* The perplexity of a text. */
#include "base/memory.h"
#include "base/status.h"
#include "cli/eval.h"

#include <math.h>
#include <string.h>

typedef struct reading {
    const cf_opened *opened;
    cf_ids ids; /* the prefix and the text */
    size_t n_window, n_stride;
    float *logprobs; /* [n_window + 1] of one window */
    double sum, sum_squares;
    size_t n_done; /* tokens scored; they begin at ids.values[1] */
} reading;

cf_token cf_eval_prefix(const cf_model *model)
{
    const cf_shape *shape = cf_model_shape(model);
    return shape->bos_token >= 0 ? shape->bos_token : shape->eos_token;
}

cf_estimate cf_estimate_mean(double sum, double sum_squares, size_t n)
{
    double mean = sum / (double)n;
    double spread = fmax(sum_squares - sum * mean, 0); /* rounding may leave less than nothing */
    double variance = n > 1 ? spread / (double)(n - 1) : (double)NAN;
    return (cf_estimate){.mean = mean, .error = sqrt(variance / (double)n)};
}

/* The text's ids after the prefix, which takes the place of a token before the first. */
static cf_status encode(const cf_bytes *text, const cf_opened *opened, cf_ids *ids, cf_error *error)
{
    cf_token prefix = cf_eval_prefix(opened->model);
    CF_TRY(cf_ids_encode(opened->tokenizer, text->data, text->n, 0, ids, error));
    if (ids->n == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "--file: expected text of at least one token, found %zu bytes", text->n);
    if (prefix < 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "config.json: has neither bos_token_id nor eos_token_id, and the text's "
                       "first token needs one before it");
    CF_TRY(cf_ids_reserve(ids, ids->n + 1, error));
    memmove(ids->values + 1, ids->values, ids->n * sizeof *ids->values);
    ids->values[0] = prefix;
    ids->n++;
    return CF_STATUS_OK;
}

/*
 * Scores the tokens after n_done: all that the first window can, n_stride in each further one,
 * which reaches back as far as it can.
 */
static cf_status score_window(reading *self, cf_error *error)
{
    size_t n_text = self->ids.n - 1;
    size_t n_new = self->n_done == 0 ? self->n_window : self->n_stride;
    if (n_new > n_text - self->n_done)
        n_new = n_text - self->n_done;
    size_t last = self->n_done + n_new; /* the last token scored */
    size_t begin = last > self->n_window ? last - self->n_window : 0;
    const float *logprobs = self->logprobs;
    CF_TRY(cf_score(self->opened->session, self->ids.values + begin, last - begin + 1, NULL,
                    self->logprobs, NULL, error));
    for (size_t i = self->n_done + 1; i <= last; i++) {
        double loss = -(double)logprobs[i - begin];
        self->sum += loss;
        self->sum_squares += loss * loss;
    }
    self->n_done = last;
    return CF_STATUS_OK;
}

static cf_status score_windows(reading *self, cf_error *error)
{
    cf_progress progress = {0};
    cf_status status = CF_STATUS_OK;
    size_t n_text = self->ids.n - 1;
    while (status == CF_STATUS_OK && self->n_done < n_text) {
        status = score_window(self, error);
        if (status == CF_STATUS_OK && !cf_progress_update(&progress, "score", self->n_done, n_text))
            status = cf_fail(error, CF_STATUS_CANCELLED, "interrupted");
    }
    cf_progress_clear(&progress);
    return status;
}

static void conclude(const reading *self, const cf_bytes *text, cf_text_result *result)
{
    cf_estimate loss = cf_estimate_mean(self->sum, self->sum_squares, self->n_done);
    double n_bytes = (double)text->n;
    *result = (cf_text_result){
        .n_tokens = self->n_done,
        .n_words = cf_count_words(text->data, text->n),
        .n_bytes = text->n,
        .loss = loss,
        .perplexity = {.mean = exp(loss.mean), .error = exp(loss.mean) * loss.error},
        .bits_per_byte = self->sum / n_bytes / log(2),
        .byte_perplexity = exp(self->sum / n_bytes),
    };
    result->word_perplexity = exp(self->sum / (double)result->n_words);
}

cf_status cf_eval_text(const cf_bytes *text, size_t n_window, size_t n_stride,
                       const cf_opened *opened, cf_text_result *result, cf_error *error)
{
    reading self = {.opened = opened, .n_window = n_window, .n_stride = n_stride};
    cf_status status = encode(text, opened, &self.ids, error);
    if (status == CF_STATUS_OK)
        status = CF_ALLOC(&self.logprobs, n_window + 1, "log-probabilities", error);
    if (status == CF_STATUS_OK)
        status = score_windows(&self, error);
    if (status == CF_STATUS_OK)
        conclude(&self, text, result);
    cf_dealloc(self.logprobs);
    cf_ids_free(&self.ids);
    return status;
}
