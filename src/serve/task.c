#include "serve/task.h"

#include "base/clock.h"
#include "serve/response.h"

#include <stdio.h>
#include <stdlib.h>

#define MIN_REUSE 32

/* Tokens that a GPU chooses while this process writes those before; others wait for them. */
#define N_AHEAD 8

static cf_status no_memory(cf_error *error)
{
    error->status = CF_STATUS_OUT_OF_MEMORY;
    snprintf(error->message, sizeof error->message, "not enough memory for the answer");
    return CF_STATUS_OUT_OF_MEMORY;
}

static const cf_prompt *prompt_of(const cf_task *task)
{
    return &task->job->request.prompts[task->choice->prompt];
}

/* Whether log-probabilities of the prompt are wanted too. */
static bool is_scored(const cf_task *task)
{
    return task->job->request.echo && task->job->request.has_logprobs;
}

/* ---- Scoring the prompt ---- */

static cf_status begin_scoring(cf_task *task, cf_session *session, cf_error *error)
{
    const cf_prompt *prompt = prompt_of(task);
    cf_choice *choice = task->choice;
    size_t n_top = (size_t)task->job->request.n_top;
    choice->prompt_logprobs = calloc(prompt->n_ids, sizeof *choice->prompt_logprobs);
    if (n_top > 0)
        choice->prompt_top = calloc(prompt->n_ids * n_top, sizeof *choice->prompt_top);
    if (choice->prompt_logprobs == NULL || (n_top > 0 && choice->prompt_top == NULL))
        return no_memory(error);
    cf_score_options options = {.size = sizeof options, .n_top = (int32_t)n_top};
    return cf_scoring_begin(session, prompt->ids, prompt->n_ids, &options, choice->prompt_logprobs,
                            choice->prompt_top, &task->scoring, error);
}

/* One step; at the last one the session holds the prompt but for its last token. */
static cf_status score(cf_task *task, cf_service *service, bool *is_whole, cf_error *error)
{
    size_t n_prompt = prompt_of(task)->n_ids, n_scored;
    cf_status status = cf_scoring_next(task->scoring, &n_scored, error);
    *is_whole = status == CF_STATUS_OK && n_scored == n_prompt;
    if (!*is_whole)
        return status;
    atomic_fetch_add(&service->metrics.scored_tokens, n_prompt);
    cf_scoring_free(task->scoring);
    task->scoring = NULL;
    return CF_STATUS_OK;
}

/* ---- Generating ---- */

/*
 * The beginning that a session shares with a prompt is worth keeping only if it is long. A prompt
 * read in other pieces has logits that differ in their last bits: short ones are read anew, and
 * answered the same whatever was asked before.
 */
static void forget_short_beginning(cf_session *session, const cf_prompt *prompt)
{
    if (cf_session_reuse(session, prompt->ids, prompt->n_ids) < MIN_REUSE)
        cf_session_rewind(session, 0, NULL);
}

static cf_status begin(cf_task *task, cf_service *service, cf_session *session, cf_error *error)
{
    const cf_request *request = &task->job->request;
    const cf_prompt *prompt = prompt_of(task);
    if (!is_scored(task))
        forget_short_beginning(session, prompt);
    cf_sampling sampling = request->sampling;
    sampling.seed += task->choice->candidate;
    cf_generate_options options = {
        .size = sizeof options,
        .sampling = &sampling,
        .stops = (const char *const *)request->stops,
        .n_stops = request->n_stops,
        .min_tokens = request->min_tokens,
        .ignore_eos = request->ignore_eos,
        .n_top = request->has_logprobs ? request->n_top : 0,
        .n_ahead = N_AHEAD,
    };
    return cf_generation_begin(session, service->tokenizer, prompt->ids, prompt->n_ids,
                               request->max_tokens, &options, &task->generation, error);
}

static void count_token(cf_task *task, cf_service *service)
{
    cf_job *job = task->job;
    if (job->first_ns == 0) {
        job->first_ns = cf_clock_ns();
        cf_histogram_add(&service->metrics.first_token, job->first_ns - job->arrived_ns);
    }
    job->n_generated++;
    atomic_fetch_add(&service->metrics.generated_tokens, 1);
}

static bool keep_token(cf_task *task, const cf_event *event)
{
    const cf_request *request = &task->job->request;
    cf_choice *choice = task->choice;
    size_t n_top = (size_t)request->n_top;
    if (!request->has_logprobs)
        return true;
    if (!request->stream)
        return cf_choice_add(choice, n_top, event);
    cf_logprobs_add(&choice->streaming, event->token, event->logprob, event->top, event->n_top);
    return true;
}

/*
 * The event's text as it is given: without the spaces between the turn's beginning and an answer to
 * a chat, which belong to the template. The next turn then has the same tokens again.
 */
static const char *trim(cf_task *task, const cf_event *event, size_t *n_bytes)
{
    size_t n_spaces = 0;
    if (task->job->request.is_chat && !task->choice->has_text)
        while (n_spaces < event->n_text && event->text[n_spaces] == ' ')
            n_spaces++;
    *n_bytes = event->n_text - n_spaces;
    task->choice->has_text = task->choice->has_text || *n_bytes > 0;
    return *n_bytes > 0 ? event->text + n_spaces : "";
}

static bool handle_event(cf_task *task, cf_service *service, const cf_event *event, cf_sink *sink)
{
    const cf_job *job = task->job;
    cf_choice *choice = task->choice;
    bool is_token = event->kind == CF_EVENT_TOKEN, is_kept = true;
    if (is_token) {
        is_kept = keep_token(task, event);
        count_token(task, service);
        choice->n_tokens++;
        choice->sum_logprob += (double)event->logprob;
    }
    choice->finish = event->finish;
    size_t n_text;
    const char *text = trim(task, event, &n_text);
    if (!job->request.stream) {
        cf_sink_append(&choice->text, text, n_text);
        return is_kept && !choice->text.is_short;
    }
    bool has_logprobs = job->request.has_logprobs && is_token;
    if (n_text > 0 || has_logprobs || event->finish != CF_FINISH_NONE)
        cf_response_chunk(job, choice, text, n_text,
                          has_logprobs ? cf_logprobs_take(&choice->streaming) : NULL, event->finish,
                          sink);
    return is_kept && !sink->is_short;
}

static cf_status advance(cf_task *task, cf_service *service, cf_sink *sink, cf_error *error)
{
    cf_event event;
    cf_status status = cf_generation_next(task->generation, &event, error);
    if (status != CF_STATUS_OK)
        return status;
    if (!handle_event(task, service, &event, sink))
        return no_memory(error);
    if (event.kind == CF_EVENT_END)
        task->stage = CF_TASK_END;
    return CF_STATUS_OK;
}

/* ---- Steps ---- */

/* After the prompt was scored, if it was to be: what a stream begins with, and the generation. */
static cf_status start(cf_task *task, cf_service *service, cf_session *session, cf_sink *sink,
                       cf_error *error)
{
    const cf_request *request = &task->job->request;
    if (request->stream)
        cf_response_begin(service, task->job, task->choice, sink);
    if (sink->is_short)
        return no_memory(error);
    if (request->max_tokens > 0) {
        task->stage = CF_TASK_GENERATE;
        return begin(task, service, session, error);
    }
    task->stage = CF_TASK_END;
    task->choice->finish = CF_FINISH_LENGTH;
    if (request->stream)
        cf_response_chunk(task->job, task->choice, "", 0, NULL, CF_FINISH_LENGTH, sink);
    return CF_STATUS_OK;
}

static cf_status take_step(cf_task *task, cf_service *service, cf_session *session, cf_sink *sink,
                           cf_error *error)
{
    if (task->stage == CF_TASK_GENERATE)
        return advance(task, service, sink, error);
    if (task->stage == CF_TASK_BEGIN && is_scored(task)) {
        task->stage = CF_TASK_SCORE;
        return begin_scoring(task, session, error);
    }
    if (task->stage == CF_TASK_SCORE) {
        bool is_whole;
        cf_status status = score(task, service, &is_whole, error);
        if (!is_whole)
            return status;
    }
    return start(task, service, session, sink, error);
}

bool cf_task_step(cf_task *task, cf_service *service, cf_session *session, cf_sink *sink,
                  cf_fault *fault, bool *is_dead)
{
    cf_error error;
    cf_status status = take_step(task, service, session, sink, &error);
    if (status == CF_STATUS_OK && task->stage == CF_TASK_END && !task->job->request.stream &&
        !cf_response_choice(service, task->job, task->choice))
        status = no_memory(&error);
    *is_dead = status == CF_STATUS_DEVICE;
    return status == CF_STATUS_OK || cf_fault_from_error(fault, &error);
}

void cf_task_close(cf_task *task)
{
    /* What was scored was read for this very task. */
    if (task->generation != NULL && !is_scored(task)) {
        cf_generate_stats stats;
        cf_generation_stats(task->generation, &stats);
        task->job->n_reused += stats.n_reused;
    }
    cf_scoring_free(task->scoring);
    cf_generation_free(task->generation);
    *task = (cf_task){0};
}
