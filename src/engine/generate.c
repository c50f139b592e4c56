/* Generation: a prompt in, tokens and text out, one step at a time. */
#include "base/clock.h"
#include "base/memory.h"
#include "engine/ahead.h"
#include "engine/arguments.h"
#include "engine/hash.h"
#include "engine/logprobs.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "engine/stops.h"

#include <math.h>
#include <string.h>

struct cf_generation {
    cf_session *session;
    const cf_tokenizer *tokenizer;
    cf_token *prompt; /* [n_prompt] */
    size_t n_prompt;
    size_t n_reused;
    size_t max_tokens;
    size_t min_tokens;
    cf_token *ends; /* [n_ends]: the tokens that end it */
    size_t n_ends;
    size_t n_top;
    cf_sampler sampler;
    cf_decoder *decoder; /* NULL: no text */
    cf_stops stops;      /* empty: text is given as it comes */

    float *logits;   /* [n_vocab], of the last evaluation, if it was not the backend that chose */
    bool has_logits; /* there was one */
    bool is_pending; /* the last token chosen is yet to be evaluated */
    cf_token last;
    size_t n_tokens;
    cf_finish finish;
    bool is_flushed; /* END was given, with the last text */
    cf_alternative top[CF_MAX_TOP];
    uint64_t prompt_ns, first_ns, last_ns;
    cf_ahead ahead; /* tokens that the backend chooses by itself */
};

/* ---- Beginning ---- */

static cf_status check_prompt(const cf_session *session, const cf_token *prompt, size_t n_prompt,
                              cf_error *error)
{
    CF_TRY(cf_session_check(session, error));
    if (n_prompt == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "the prompt is empty");
    if (n_prompt > session->options.n_context)
        return cf_fail(error, CF_STATUS_CONTEXT_FULL,
                       "a prompt of %zu tokens, the context holds %zu", n_prompt,
                       session->options.n_context);
    return cf_check_ids("prompt", prompt, n_prompt, session->model->neox.shape.n_vocab, error);
}

static cf_status copy_ends(cf_generation *generation, const cf_generate_options *options,
                           cf_error *error)
{
    const cf_model *model = generation->session->model;
    const cf_shape *shape = &model->neox.shape;
    const cf_more_ends *more = &model->checkpoint.more_ends;
    if (options->n_stop_ids > 0)
        CF_NEED(options->stop_ids, error);
    CF_TRY(cf_check_ids("stop_ids", options->stop_ids, options->n_stop_ids, shape->n_vocab, error));
    CF_TRY(CF_ALLOC(&generation->ends, options->n_stop_ids + 1 + more->n, "stop ids", error));
    for (size_t i = 0; i < options->n_stop_ids; i++)
        generation->ends[generation->n_ends++] = options->stop_ids[i];
    if (options->ignore_eos)
        return CF_STATUS_OK;
    if (shape->eos_token >= 0 && shape->eos_token < shape->n_vocab)
        generation->ends[generation->n_ends++] = shape->eos_token;
    for (size_t i = 0; i < more->n; i++)
        generation->ends[generation->n_ends++] = more->ids[i];
    return CF_STATUS_OK;
}

/* The most bytes of text that one token can complete: all of its own and of an unfinished character
 * before it may have to be replaced, by three bytes each. */
static size_t most_text(const cf_tokenizer *tokenizer)
{
    size_t longest = 0, n_vocab = cf_tokenizer_n_vocab(tokenizer);
    for (size_t id = 0; id < n_vocab; id++) {
        size_t n;
        cf_tokenizer_bytes(tokenizer, (cf_token)id, &n);
        longest = n > longest ? n : longest;
    }
    return 3 * (longest + 3);
}

static cf_status prepare_text(cf_generation *generation, const cf_generate_options *options,
                              cf_error *error)
{
    const cf_tokenizer *tokenizer = generation->tokenizer;
    if (tokenizer != NULL)
        CF_TRY(cf_decoder_create(tokenizer, 0, &generation->decoder, error));
    if (options->n_stops == 0)
        return CF_STATUS_OK;
    if (tokenizer == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "stop strings need a tokenizer");
    return cf_stops_create(options->stops, options->n_stops, most_text(tokenizer),
                           &generation->stops, error);
}

/* All that can fail, before the session is touched. */
static cf_status prepare(cf_generation *generation, const cf_token *prompt,
                         const cf_generate_options *from, cf_error *error)
{
    cf_generate_options options;
    CF_TRY(cf_options_read(from, &options, sizeof options, "generate options", error));
    CF_TRY(cf_check_integer("n_top", options.n_top, 0, CF_MAX_TOP, error));
    generation->n_top = (size_t)options.n_top;
    generation->min_tokens = options.min_tokens;
    generation->ahead.session = generation->session;
    generation->ahead.most = options.n_ahead > 0 ? options.n_ahead : 1;
    CF_TRY(copy_ends(generation, &options, error));
    int32_t n_vocab = generation->session->model->neox.shape.n_vocab;
    bool may_ban = options.min_tokens > 0 && generation->n_ends > 0;
    CF_TRY(cf_sampler_create(options.sampling, n_vocab, may_ban, &generation->sampler, error));
    CF_TRY(prepare_text(generation, &options, error));
    CF_TRY(CF_ALLOC(&generation->prompt, generation->n_prompt, "prompt", error));
    CF_TRY(CF_ALLOC(&generation->logits, (size_t)n_vocab, "logits", error));
    memcpy(generation->prompt, prompt, generation->n_prompt * sizeof *prompt);
    for (size_t i = 0; i < generation->n_prompt; i++)
        cf_sampler_see(&generation->sampler, prompt[i], false);
    return CF_STATUS_OK;
}

/* Keeps the common beginning, but for the last token, whose logits are needed. */
static void reuse_prefix(cf_generation *generation)
{
    cf_session *session = generation->session;
    generation->n_reused = cf_session_reuse(session, generation->prompt, generation->n_prompt);
    if (generation->n_reused == generation->n_prompt)
        session->n_tokens = --generation->n_reused;
}

cf_status cf_generation_begin(cf_session *session, const cf_tokenizer *tokenizer,
                              const cf_token *prompt, size_t n_prompt, size_t max_tokens,
                              const cf_generate_options *options, cf_generation **generation,
                              cf_error *error)
{
    CF_NEED(generation, error);
    *generation = NULL;
    CF_NEED(session, error);
    CF_NEED(prompt, error);
    CF_TRY(check_prompt(session, prompt, n_prompt, error));
    cf_generation *begun;
    CF_TRY(CF_ALLOC(&begun, 1, "generation", error));
    begun->session = session;
    begun->tokenizer = tokenizer;
    begun->n_prompt = n_prompt;
    begun->max_tokens = max_tokens;
    cf_status status = prepare(begun, prompt, options, error);
    if (status != CF_STATUS_OK) {
        cf_generation_free(begun);
        return status;
    }
    reuse_prefix(begun);
    *generation = begun;
    return CF_STATUS_OK;
}

void cf_generation_free(cf_generation *generation)
{
    if (generation == NULL)
        return;
    cf_ahead_end(&generation->ahead, NULL);
    cf_sampler_free(&generation->sampler);
    cf_stops_free(&generation->stops);
    cf_decoder_free(generation->decoder);
    cf_dealloc(generation->prompt);
    cf_dealloc(generation->ends);
    cf_dealloc(generation->logits);
    cf_dealloc(generation);
}

/* ---- Steps ---- */

static void fill_event(const cf_generation *generation, cf_event_kind kind, cf_event *event)
{
    size_t n_held = generation->session->n_tokens, n_prompt = generation->n_prompt;
    event->kind = kind;
    event->finish = kind == CF_EVENT_END ? generation->finish : CF_FINISH_NONE;
    event->n_prompt = n_held < n_prompt ? n_held : n_prompt;
    event->n_prompt_total = n_prompt;
    event->n_tokens = generation->n_tokens;
}

static cf_status step_prompt(cf_generation *generation, cf_event *event, cf_error *error)
{
    cf_session *session = generation->session;
    size_t done = session->n_tokens, left = generation->n_prompt - done;
    size_t n = left < session->options.n_chunk ? left : session->options.n_chunk;
    cf_outputs outputs = {.size = sizeof outputs};
    if (n == left)
        outputs = (cf_outputs){.size = sizeof outputs, .logits = generation->logits, .n_logits = 1};
    uint64_t start_ns = cf_clock_ns();
    CF_TRY(cf_session_eval(session, generation->prompt + done, n, &outputs, error));
    generation->prompt_ns += cf_clock_ns() - start_ns;
    generation->has_logits = n == left;
    fill_event(generation, CF_EVENT_PROMPT, event);
    return CF_STATUS_OK;
}

static cf_status evaluate_pending(cf_generation *generation, cf_error *error)
{
    if (!generation->is_pending)
        return CF_STATUS_OK;
    cf_outputs outputs = {.size = sizeof outputs, .logits = generation->logits, .n_logits = 1};
    CF_TRY(cf_session_eval(generation->session, &generation->last, 1, &outputs, error));
    generation->is_pending = false;
    return CF_STATUS_OK;
}

static bool is_end(const cf_generation *generation, cf_token token)
{
    for (size_t i = 0; i < generation->n_ends; i++)
        if (generation->ends[i] == token)
            return true;
    return false;
}

/* The text of a token that is no end, and whether a stop string ended it. */
static cf_status push_text(cf_generation *generation, cf_token token, cf_event *event,
                           bool *is_stopped, cf_error *error)
{
    *is_stopped = false;
    if (generation->decoder == NULL)
        return CF_STATUS_OK;
    CF_TRY(cf_decoder_push(generation->decoder, token, &event->text, &event->n_text, error));
    bool pass = generation->n_tokens + 1 < generation->min_tokens;
    if (generation->stops.n > 0)
        *is_stopped = cf_stops_push(&generation->stops, event->text, event->n_text, pass,
                                    &event->text, &event->n_text);
    return CF_STATUS_OK;
}

static void report_probabilities(cf_generation *generation, double log_sum, cf_event *event)
{
    size_t n_vocab = generation->sampler.n_vocab;
    event->logprob = (float)((double)generation->logits[generation->last] - log_sum);
    event->top = generation->n_top > 0 ? generation->top : NULL;
    event->n_top =
        cf_logits_top(generation->logits, n_vocab, log_sum, generation->n_top, generation->top);
}

/* Where the last token was chosen by the backend, or will be: all but the first. */
static bool can_look_ahead(const cf_generation *generation)
{
    return generation->is_pending && generation->n_top == 0;
}

/* Tokens that are still to come, if nothing else ends the generation. */
static size_t count_left(const cf_generation *generation)
{
    const cf_session *session = generation->session;
    size_t n = generation->max_tokens - generation->n_tokens;
    size_t n_room = session->options.n_context - session->n_tokens;
    return n < n_room ? n : n_room;
}

/* What a token chosen means, by whomever: its text, and whether the generation ends. */
static cf_status take_token(cf_generation *generation, cf_token token, cf_event *event,
                            cf_error *error)
{
    bool is_stopped = false;
    if (is_end(generation, token))
        generation->finish = CF_FINISH_EOS;
    else
        CF_TRY(push_text(generation, token, event, &is_stopped, error));
    if (is_stopped)
        generation->finish = CF_FINISH_STOP;
    cf_sampler_see(&generation->sampler, token, true);
    generation->last = token;
    generation->is_pending = true;
    generation->last_ns = cf_clock_ns();
    if (generation->n_tokens++ == 0)
        generation->first_ns = generation->last_ns;
    event->token = token;
    return CF_STATUS_OK;
}

/* The next of the tokens that the backend chooses; *is_able false if it cannot. */
static cf_status step_ahead(cf_generation *generation, bool *is_able, cf_event *event,
                            cf_error *error)
{
    const cf_sampler *sampler = &generation->sampler;
    cf_decode decode = {.token = generation->last,
                        .n = count_left(generation),
                        .index = generation->n_tokens,
                        .sampling = &sampler->options,
                        .ends = generation->ends,
                        .n_ends = generation->n_ends,
                        .min_tokens = generation->min_tokens,
                        .seen = sampler->seen,
                        .n_seen = sampler->n_seen,
                        .counts = sampler->counts};
    cf_decoded decoded;
    CF_TRY(cf_ahead_next(&generation->ahead, &decode, is_able, &decoded, error));
    if (!*is_able)
        return CF_STATUS_OK;
    generation->is_pending = false;
    CF_TRY(take_token(generation, decoded.id, event, error));
    event->logprob = decoded.logprob;
    fill_event(generation, CF_EVENT_TOKEN, event);
    return CF_STATUS_OK;
}

static cf_status step_token(cf_generation *generation, cf_event *event, cf_error *error)
{
    bool is_done = can_look_ahead(generation);
    if (is_done)
        CF_TRY(step_ahead(generation, &is_done, event, error));
    if (is_done)
        return CF_STATUS_OK;
    CF_TRY(evaluate_pending(generation, error));
    double log_sum = cf_logits_log_sum(generation->logits, generation->sampler.n_vocab);
    if (!isfinite(log_sum))
        return cf_session_spoil(generation->session, generation->session->n_tokens - 1, error);
    size_t n_banned = generation->n_tokens < generation->min_tokens ? generation->n_ends : 0;
    cf_token token;
    CF_TRY(cf_sampler_choose(&generation->sampler, generation->logits, generation->ends, n_banned,
                             generation->n_tokens, &token, error));
    CF_TRY(take_token(generation, token, event, error));
    report_probabilities(generation, log_sum, event);
    fill_event(generation, CF_EVENT_TOKEN, event);
    return CF_STATUS_OK;
}

/* The text that was held back, and what is left of an unfinished character; once. */
static void flush_text(cf_generation *generation, cf_event *event)
{
    if (generation->is_flushed || generation->decoder == NULL)
        return;
    generation->is_flushed = true;
    if (generation->finish == CF_FINISH_STOP)
        return;
    cf_decoder_finish(generation->decoder, &event->text, &event->n_text);
    if (generation->stops.n == 0)
        return;
    bool pass = generation->n_tokens < generation->min_tokens;
    bool is_stopped = cf_stops_finish(&generation->stops, event->text, event->n_text, pass,
                                      &event->text, &event->n_text);
    if (is_stopped && generation->finish != CF_FINISH_CANCELLED)
        generation->finish = CF_FINISH_STOP;
}

/* Neither the number of tokens nor the context leaves room for another. */
static bool is_full(const cf_generation *generation)
{
    const cf_session *session = generation->session;
    return generation->n_tokens == generation->max_tokens ||
           (generation->is_pending && session->n_tokens == session->options.n_context);
}

cf_status cf_generation_next(cf_generation *generation, cf_event *event, cf_error *error)
{
    CF_NEED(event, error);
    *event = (cf_event){0};
    CF_NEED(generation, error);
    if (generation->finish == CF_FINISH_NONE) {
        CF_TRY(cf_session_check(generation->session, error));
        if (!generation->has_logits)
            return step_prompt(generation, event, error);
        if (!is_full(generation))
            return step_token(generation, event, error);
        generation->finish = CF_FINISH_LENGTH;
    }
    CF_TRY(cf_ahead_end(&generation->ahead, error));
    flush_text(generation, event);
    fill_event(generation, CF_EVENT_END, event);
    return CF_STATUS_OK;
}

void cf_generation_stats(const cf_generation *generation, cf_generate_stats *stats)
{
    if (stats == NULL)
        return;
    *stats = (cf_generate_stats){0};
    if (generation == NULL)
        return;
    stats->n_prompt = generation->n_prompt;
    stats->n_reused = generation->n_reused;
    stats->n_tokens = generation->n_tokens;
    stats->prompt_ns = generation->prompt_ns;
    stats->decode_ns = generation->last_ns - generation->first_ns;
    stats->finish = generation->finish;
    cf_error ignored;
    if (generation->has_logits &&
        cf_ahead_logits(&generation->ahead, generation->logits, &ignored) == CF_STATUS_OK)
        stats->logits_hash = cf_floats_hash(generation->logits, generation->sampler.n_vocab);
}

/* ---- In one call ---- */

static cf_status run(cf_generation *generation, cf_event_fn on_event, void *user, cf_error *error)
{
    cf_event event;
    generation->ahead.most = SIZE_MAX; /* nobody else waits between two steps */
    do {
        CF_TRY(cf_generation_next(generation, &event, error));
        bool go_on = on_event == NULL || on_event(user, &event);
        if (!go_on && event.kind != CF_EVENT_END)
            generation->finish = CF_FINISH_CANCELLED;
    } while (event.kind != CF_EVENT_END);
    return CF_STATUS_OK;
}

cf_status cf_generate(cf_session *session, const cf_tokenizer *tokenizer, const cf_token *prompt,
                      size_t n_prompt, size_t max_tokens, const cf_generate_options *options,
                      cf_event_fn on_event, void *user, cf_generate_stats *stats, cf_error *error)
{
    if (stats != NULL)
        *stats = (cf_generate_stats){0};
    cf_generation *generation;
    CF_TRY(cf_generation_begin(session, tokenizer, prompt, n_prompt, max_tokens, options,
                               &generation, error));
    cf_status status = run(generation, on_event, user, error);
    if (status == CF_STATUS_OK)
        cf_generation_stats(generation, stats);
    cf_generation_free(generation);
    return status;
}

/* Encodes into memory that the caller frees: rarely more tokens than bytes. */
static cf_status encode(const cf_tokenizer *tokenizer, const char *text, cf_token **ids,
                        size_t *n_ids, cf_error *error)
{
    size_t n_bytes = strlen(text), capacity = n_bytes;
    cf_status status;
    do {
        CF_TRY(CF_ALLOC(ids, capacity, "prompt", error));
        cf_error fault;
        status = cf_tokenizer_encode(tokenizer, text, n_bytes, 0, *ids, capacity, n_ids, &fault);
        if (status == CF_STATUS_OK)
            return status;
        cf_dealloc(*ids);
        *ids = NULL;
        if (status != CF_STATUS_BUFFER_TOO_SMALL)
            return cf_fail(error, status, "%s", fault.message);
        capacity = *n_ids;
    } while (true);
}

cf_status cf_generate_text(cf_session *session, const cf_tokenizer *tokenizer, const char *prompt,
                           size_t max_tokens, const cf_generate_options *options,
                           cf_event_fn on_event, void *user, cf_generate_stats *stats,
                           cf_error *error)
{
    if (stats != NULL)
        *stats = (cf_generate_stats){0};
    CF_NEED(session, error);
    CF_NEED(tokenizer, error);
    CF_NEED(prompt, error);
    cf_token *ids;
    size_t n_ids;
    CF_TRY(encode(tokenizer, prompt, &ids, &n_ids, error));
    cf_status status = cf_generate(session, tokenizer, ids, n_ids, max_tokens, options, on_event,
                                   user, stats, error);
    cf_dealloc(ids);
    return status;
}
