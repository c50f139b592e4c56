#include "serve/job.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Answers have ids that nobody can guess or meet twice. */
static void make_id(cf_job *job)
{
    uint64_t words[2] = {0};
    if (getrandom(words, sizeof words, 0) != (ssize_t)sizeof words)
        words[0] = cf_clock_ns();
    snprintf(job->id, sizeof job->id, "%s-%016llx%08llx",
             job->request.is_chat ? "chatcmpl" : "cmpl", (unsigned long long)words[0],
             (unsigned long long)words[1] & 0xFFFFFFFFu);
}

static void make_seed(cf_request *request)
{
    if (!request->has_seed &&
        getrandom(&request->sampling.seed, sizeof request->sampling.seed, 0) < 0)
        request->sampling.seed = cf_clock_ns();
}

static bool make_choices(cf_job *job)
{
    const cf_request *request = &job->request;
    job->n_choices = request->n_prompts * request->best_of;
    job->choices = calloc(job->n_choices + 1, sizeof *job->choices);
    if (job->choices == NULL)
        return false;
    for (size_t i = 0; i < job->n_choices; i++) {
        job->choices[i].prompt = i / request->best_of;
        job->choices[i].candidate = i % request->best_of;
        job->choices[i].index = i;
    }
    return true;
}

cf_job *cf_job_create(cf_request *request, cf_fault *fault)
{
    cf_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        cf_request_free(request);
        cf_fault_set(fault, 503, NULL, "out_of_memory", "not enough memory for the request");
        return NULL;
    }
    job->request = *request;
    *request = (cf_request){0};
    job->fd = -1;
    job->n_owners = 1;
    job->created = time(NULL);
    job->arrived_ns = cf_clock_ns();
    make_id(job);
    make_seed(&job->request);
    for (size_t i = 0; i < job->request.n_prompts; i++)
        job->n_prompt_tokens += job->request.prompts[i].n_ids;
    if (!make_choices(job)) {
        cf_job_free(job);
        cf_fault_set(fault, 503, NULL, "out_of_memory", "not enough memory for the request");
        return NULL;
    }
    return job;
}

void cf_job_free(cf_job *job)
{
    if (job == NULL)
        return;
    for (size_t i = 0; job->choices != NULL && i < job->n_choices; i++) {
        cf_choice *choice = &job->choices[i];
        cf_sink_free(&choice->text);
        cf_sink_free(&choice->answer);
        cf_logprobs_close(&choice->streaming);
        free(choice->ids);
        free(choice->logprobs);
        free(choice->top);
        free(choice->prompt_logprobs);
        free(choice->prompt_top);
    }
    free(job->choices);
    cf_sink_free(&job->frame);
    cf_sink_free(&job->output);
    cf_request_free(&job->request);
    free(job);
}

static bool grow(void **array, size_t capacity, size_t n_bytes)
{
    void *larger = realloc(*array, capacity * n_bytes);
    if (larger != NULL)
        *array = larger;
    return larger != NULL;
}

static bool reserve(cf_choice *choice, size_t n_top)
{
    if (choice->n_tokens < choice->capacity)
        return true;
    size_t capacity = choice->capacity > 0 ? 2 * choice->capacity : 32;
    bool has_room =
        grow((void **)&choice->ids, capacity, sizeof *choice->ids) &&
        grow((void **)&choice->logprobs, capacity, sizeof *choice->logprobs) &&
        (n_top == 0 || grow((void **)&choice->top, capacity, n_top * sizeof *choice->top));
    if (has_room)
        choice->capacity = capacity;
    return has_room;
}

bool cf_choice_add(cf_choice *choice, size_t n_top, const cf_event *event)
{
    if (!reserve(choice, n_top))
        return false;
    choice->ids[choice->n_tokens] = event->token;
    choice->logprobs[choice->n_tokens] = event->logprob;
    for (size_t i = 0; i < n_top; i++)
        choice->top[choice->n_tokens * n_top + i] =
            i < event->n_top ? event->top[i] : (cf_alternative){.id = -1};
    return true;
}
