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

/* A string as JSON. */
static void append_text(cf_sink *sink, const char *text, size_t n_bytes)
{
    cf_json_append(sink, json_stringn(n_bytes > 0 ? text : "", n_bytes));
}

/* Takes `logprobs` over. */
static void append_end(cf_sink *sink, json_t *logprobs, cf_finish finish)
{
    cf_sink_text(sink, ",\"logprobs\":");
    cf_json_append(sink, logprobs);
    if (finish == CF_FINISH_NONE)
        cf_sink_text(sink, ",\"finish_reason\":null}");
    else
        cf_sink_format(sink, ",\"finish_reason\":\"%s\"}", cf_finish_name(finish));
}

/* ---- The frame around choices ---- */

static const char *object_name(const cf_request *request)
{
    if (!request->is_chat)
        return "text_completion";
    return request->stream ? "chat.completion.chunk" : "chat.completion";
}

bool cf_response_open(const cf_service *service, cf_job *job)
{
    cf_json_append(&job->frame,
                   json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", job->id, "object",
                             object_name(&job->request), "created", (json_int_t)job->created,
                             "model", service->name, "system_fingerprint", service->fingerprint));
    if (job->frame.is_short)
        return false;
    job->frame.n--; /* the brace, which comes after the choices */
    cf_sink_text(&job->frame, ",\"choices\":[");
    return !job->frame.is_short;
}

static void append_usage(const cf_job *job, cf_sink *sink)
{
    json_int_t n_prompt = (json_int_t)job->n_prompt_tokens;
    json_int_t n_generated = (json_int_t)job->n_generated;
    cf_sink_text(sink, "],\"usage\":");
    cf_json_append(sink, json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", n_prompt,
                                   "completion_tokens", n_generated, "total_tokens",
                                   n_prompt + n_generated, "prompt_tokens_details", "cached_tokens",
                                   (json_int_t)job->n_reused));
    cf_sink_text(sink, "}");
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

static void append_choice_text(const cf_service *service, const cf_job *job,
                               const cf_choice *choice, cf_sink *sink)
{
    cf_sink text = {0};
    if (job->request.echo)
        append_prompt(service, job, choice, &text);
    cf_sink_append(&text, choice->text.data, choice->text.n);
    append_text(sink, text.data, text.n);
    sink->is_short = sink->is_short || text.is_short;
    cf_sink_free(&text);
}

/* Log-probabilities can be many, and their text is what is left of them. */
static void drop_sources(cf_choice *choice)
{
    cf_sink_free(&choice->text);
    free(choice->ids);
    free(choice->logprobs);
    free(choice->top);
    free(choice->prompt_logprobs);
    free(choice->prompt_top);
    choice->ids = NULL;
    choice->logprobs = choice->prompt_logprobs = NULL;
    choice->top = choice->prompt_top = NULL;
}

bool cf_response_choice(const cf_service *service, const cf_job *job, cf_choice *choice)
{
    cf_sink *sink = &choice->answer;
    if (job->request.is_chat) {
        cf_sink_text(sink, "\"message\":{\"role\":\"assistant\",\"content\":");
        append_choice_text(service, job, choice, sink);
        cf_sink_text(sink, "}");
        append_end(sink, json_null(), choice->finish);
    } else {
        cf_sink_text(sink, "\"text\":");
        append_choice_text(service, job, choice, sink);
        append_end(sink, make_logprobs(service, job, choice), choice->finish);
    }
    drop_sources(choice);
    return !sink->is_short;
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

static void append_choices(const cf_job *job, size_t prompt, cf_sink *sink)
{
    size_t n_candidates = job->request.best_of;
    const cf_choice *first = &job->choices[prompt * n_candidates];
    const cf_choice *ranked[CF_MAX_CHOICES_EACH];
    for (size_t i = 0; i < CF_MAX_CHOICES_EACH; i++)
        ranked[i] = i < n_candidates ? first + i : first;
    if (n_candidates > job->request.n)
        qsort(ranked, n_candidates, sizeof *ranked, compare_choices);
    for (size_t i = 0; i < job->request.n; i++) {
        size_t index = prompt * job->request.n + i;
        cf_sink_format(sink, "%s{\"index\":%zu,", index > 0 ? "," : "", index);
        cf_sink_append(sink, ranked[i]->answer.data, ranked[i]->answer.n);
    }
}

void cf_response_whole(const cf_job *job, cf_sink *sink)
{
    cf_sink_append(sink, job->frame.data, job->frame.n);
    for (size_t i = 0; i < job->request.n_prompts; i++)
        append_choices(job, i, sink);
    append_usage(job, sink);
}

/* ---- Streams ---- */

static void append_event(cf_sink *sink, json_t *value)
{
    cf_sink_text(sink, "data: ");
    cf_json_append(sink, value);
    cf_sink_text(sink, "\n\n");
}

static void begin_event(const cf_job *job, cf_sink *sink)
{
    cf_sink_text(sink, "data: ");
    cf_sink_append(sink, job->frame.data, job->frame.n);
}

static void end_event(const cf_job *job, cf_sink *sink)
{
    cf_sink_text(sink, job->request.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

void cf_response_chunk(const cf_job *job, const cf_choice *choice, const char *text, size_t n_bytes,
                       json_t *logprobs, cf_finish finish, cf_sink *sink)
{
    begin_event(job, sink);
    cf_sink_format(sink, "{\"index\":%zu,", choice->index);
    if (!job->request.is_chat) {
        cf_sink_text(sink, "\"text\":");
        append_text(sink, text, n_bytes);
    } else if (n_bytes > 0) {
        cf_sink_text(sink, "\"delta\":{\"content\":");
        append_text(sink, text, n_bytes);
        cf_sink_text(sink, "}");
    } else {
        cf_sink_text(sink, "\"delta\":{}");
    }
    append_end(sink, logprobs != NULL ? logprobs : json_null(), finish);
    end_event(job, sink);
}

static void append_role(const cf_job *job, const cf_choice *choice, cf_sink *sink)
{
    begin_event(job, sink);
    cf_sink_format(sink, "{\"index\":%zu,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}",
                   choice->index);
    append_end(sink, json_null(), CF_FINISH_NONE);
    end_event(job, sink);
}

void cf_response_begin(const cf_service *service, const cf_job *job, cf_choice *choice,
                       cf_sink *sink)
{
    if (job->request.is_chat) {
        append_role(job, choice, sink);
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
    cf_response_chunk(job, choice, text.data, text.n, logprobs, CF_FINISH_NONE, sink);
    cf_sink_free(&text);
}

void cf_response_end(const cf_job *job, cf_sink *sink)
{
    if (job->fault.http != 0) {
        append_event(sink, cf_fault_json(&job->fault));
    } else if (job->request.include_usage) {
        begin_event(job, sink);
        append_usage(job, sink);
        cf_sink_text(sink, "\n\n");
    }
    cf_sink_text(sink, "data: [DONE]\n\n");
}
