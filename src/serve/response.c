#include "serve/response.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A float32 survives in 9 significant digits. */
#define JSON_FORM (JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9))

static int append_piece(const char *data, size_t n_bytes, void *user)
{
    cf_sink *sink = user;
    cf_sink_append(sink, data, n_bytes);
    return sink->is_short ? -1 : 0;
}

void cf_json_append(cf_sink *sink, json_t *value)
{
    if (value == NULL || json_dump_callback(value, append_piece, sink, JSON_FORM) != 0)
        sink->is_short = true;
    json_decref(value);
}

static void append_event(cf_sink *sink, json_t *value)
{
    cf_sink_text(sink, "data: ");
    cf_json_append(sink, value);
    cf_sink_text(sink, "\n\n");
}

static json_t *make_finish(cf_finish finish)
{
    return finish == CF_FINISH_NONE ? json_null() : json_string(cf_finish_name(finish));
}

/* The frame around choices, which are released. */
static json_t *make_frame(const cf_service *service, const cf_job *job, const char *object,
                          json_t *choices)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", job->id, "object", object, "created",
                     (json_int_t)job->created, "model", service->name, "system_fingerprint",
                     service->fingerprint, "choices", choices);
}

static json_t *make_usage(const cf_job *job)
{
    json_int_t n_prompt = (json_int_t)job->n_prompt_tokens;
    json_int_t n_generated = (json_int_t)job->n_generated;
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", n_prompt, "completion_tokens",
                     n_generated, "total_tokens", n_prompt + n_generated, "prompt_tokens_details",
                     "cached_tokens", (json_int_t)job->n_reused);
}

/* ---- Echo ---- */

/* The prompt as its tokens spell it: what offsets into the text count from. */
static void append_decoded(const cf_service *service, const cf_prompt *prompt, cf_sink *sink)
{
    size_t n = 0;
    if (service->tokenizer == NULL)
        return;
    cf_tokenizer_decode(service->tokenizer, prompt->ids, prompt->n_ids, 0, NULL, 0, &n, NULL);
    char *text = malloc(n + 1);
    if (text == NULL || cf_tokenizer_decode(service->tokenizer, prompt->ids, prompt->n_ids, 0, text,
                                            n, &n, NULL) != CF_STATUS_OK)
        sink->is_short = true;
    else
        cf_sink_append(sink, text, n);
    free(text);
}

static void append_prompt(const cf_service *service, const cf_job *job, const cf_choice *choice,
                          cf_sink *sink)
{
    const cf_prompt *prompt = &job->request.prompts[choice->prompt];
    if (prompt->text != NULL && !job->request.has_logprobs)
        cf_sink_append(sink, prompt->text, prompt->n_bytes);
    else
        append_decoded(service, prompt, sink);
}

static void add_prompt_logprobs(const cf_job *job, const cf_choice *choice, cf_logprobs *logprobs)
{
    const cf_prompt *prompt = &job->request.prompts[choice->prompt];
    size_t n_top = (size_t)job->request.n_top;
    for (size_t i = 0; i < prompt->n_ids; i++)
        cf_logprobs_add(logprobs, prompt->ids[i], choice->prompt_logprobs[i],
                        n_top > 0 ? choice->prompt_top + i * n_top : NULL, n_top);
}

/* ---- Whole answers ---- */

static json_t *make_logprobs(const cf_service *service, const cf_job *job, const cf_choice *choice)
{
    if (!job->request.has_logprobs)
        return json_null();
    cf_logprobs logprobs;
    json_t *object = NULL;
    if (cf_logprobs_open(&logprobs, service->tokenizer)) {
        size_t n_top = (size_t)job->request.n_top;
        if (choice->prompt_logprobs != NULL)
            add_prompt_logprobs(job, choice, &logprobs);
        for (size_t i = 0; i < choice->n_tokens; i++)
            cf_logprobs_add(&logprobs, choice->ids[i], choice->logprobs[i],
                            n_top > 0 ? choice->top + i * n_top : NULL, n_top);
        object = cf_logprobs_take(&logprobs);
    }
    cf_logprobs_close(&logprobs);
    return object;
}

static json_t *make_choice(const cf_service *service, const cf_job *job, const cf_choice *choice,
                           size_t index)
{
    cf_sink text = {0};
    if (job->request.echo)
        append_prompt(service, job, choice, &text);
    cf_sink_append(&text, choice->text.data, choice->text.n);
    json_t *string = text.is_short ? NULL : json_stringn(text.n > 0 ? text.data : "", text.n);
    cf_sink_free(&text);
    if (job->request.is_chat)
        return json_pack("{s:I, s:{s:s, s:o}, s:n, s:o}", "index", (json_int_t)index, "message",
                         "role", "assistant", "content", string, "logprobs", "finish_reason",
                         make_finish(choice->finish));
    return json_pack("{s:I, s:o, s:o, s:o}", "index", (json_int_t)index, "text", string, "logprobs",
                     make_logprobs(service, job, choice), "finish_reason",
                     make_finish(choice->finish));
}

static double mean_logprob(const cf_choice *choice)
{
    return choice->n_tokens > 0 ? choice->sum_logprob / (double)choice->n_tokens : -INFINITY;
}

/* The best by the mean log-probability of their tokens come first, the earlier of equals. */
static int compare_choices(const void *left, const void *right)
{
    const cf_choice *a = *(const cf_choice *const *)left, *b = *(const cf_choice *const *)right;
    double difference = mean_logprob(b) - mean_logprob(a);
    if (difference > 0 || difference < 0)
        return difference > 0 ? 1 : -1;
    return (a->candidate > b->candidate) - (a->candidate < b->candidate);
}

static void append_choices(const cf_service *service, const cf_job *job, size_t prompt,
                           json_t *array)
{
    size_t n_candidates = job->request.best_of;
    const cf_choice *first = &job->choices[prompt * n_candidates];
    const cf_choice *ranked[CF_MAX_CHOICES_EACH];
    for (size_t i = 0; i < CF_MAX_CHOICES_EACH; i++)
        ranked[i] = i < n_candidates ? first + i : first;
    if (n_candidates > job->request.n)
        qsort(ranked, n_candidates, sizeof *ranked, compare_choices);
    for (size_t i = 0; i < job->request.n; i++)
        json_array_append_new(array,
                              make_choice(service, job, ranked[i], prompt * job->request.n + i));
}

void cf_response_whole(const cf_service *service, const cf_job *job, cf_sink *sink)
{
    json_t *choices = json_array();
    for (size_t i = 0; i < job->request.n_prompts; i++)
        append_choices(service, job, i, choices);
    if (json_array_size(choices) != job->request.n_prompts * job->request.n)
        sink->is_short = true;
    const char *object = job->request.is_chat ? "chat.completion" : "text_completion";
    json_t *answer = make_frame(service, job, object, choices);
    json_object_set_new(answer, "usage", make_usage(job));
    cf_json_append(sink, answer);
}

/* ---- Streams ---- */

static json_t *make_chunk(const cf_service *service, const cf_job *job, json_t *choices)
{
    json_t *chunk = make_frame(
        service, job, job->request.is_chat ? "chat.completion.chunk" : "text_completion", choices);
    if (job->request.include_usage)
        json_object_set_new(chunk, "usage", json_null());
    return chunk;
}

static json_t *make_delta(const cf_choice *choice, json_t *delta, cf_finish finish)
{
    return json_pack("[{s:I, s:o, s:n, s:o}]", "index", (json_int_t)choice->index, "delta", delta,
                     "logprobs", "finish_reason", make_finish(finish));
}

void cf_response_chunk(const cf_service *service, const cf_job *job, const cf_choice *choice,
                       const char *text, size_t n_bytes, json_t *logprobs, cf_finish finish,
                       cf_sink *sink)
{
    json_t *string = json_stringn(n_bytes > 0 ? text : "", n_bytes), *choices;
    if (job->request.is_chat) {
        json_t *delta = n_bytes > 0 ? json_pack("{s:O}", "content", string) : json_object();
        choices = make_delta(choice, delta, finish);
        json_decref(string);
        json_decref(logprobs);
    } else {
        choices = json_pack("[{s:I, s:o, s:o, s:o}]", "index", (json_int_t)choice->index, "text",
                            string, "logprobs", logprobs != NULL ? logprobs : json_null(),
                            "finish_reason", make_finish(finish));
    }
    append_event(sink, make_chunk(service, job, choices));
}

void cf_response_begin(const cf_service *service, const cf_job *job, cf_choice *choice,
                       cf_sink *sink)
{
    if (job->request.is_chat) {
        json_t *delta = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
        append_event(sink, make_chunk(service, job, make_delta(choice, delta, CF_FINISH_NONE)));
        return;
    }
    if (job->request.has_logprobs && !cf_logprobs_open(&choice->streaming, service->tokenizer))
        sink->is_short = true;
    if (!job->request.echo || sink->is_short)
        return;
    cf_sink text = {0};
    append_prompt(service, job, choice, &text);
    sink->is_short = sink->is_short || text.is_short;
    json_t *logprobs = NULL;
    if (choice->prompt_logprobs != NULL) {
        add_prompt_logprobs(job, choice, &choice->streaming);
        logprobs = cf_logprobs_take(&choice->streaming);
    }
    cf_response_chunk(service, job, choice, text.data, text.n, logprobs, CF_FINISH_NONE, sink);
    cf_sink_free(&text);
}

void cf_response_end(const cf_service *service, const cf_job *job, cf_sink *sink)
{
    if (job->fault.http != 0) {
        append_event(sink, cf_fault_json(&job->fault));
    } else if (job->request.include_usage) {
        json_t *chunk = make_chunk(service, job, json_array());
        json_object_set_new(chunk, "usage", make_usage(job));
        append_event(sink, chunk);
    }
    cf_sink_text(sink, "data: [DONE]\n\n");
}
