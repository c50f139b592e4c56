/* An accepted request on its way: its choices, and what is ready to be sent. */
#ifndef CF_SERVE_JOB_H
#define CF_SERVE_JOB_H

#include "serve/logprobs.h"
#include "serve/request.h"
#include "serve/sink.h"

#include <time.h>

/* One continuation of one prompt. The worker's until the job is finished. */
typedef struct cf_choice {
    size_t prompt;    /* index of its prompt */
    size_t candidate; /* its place among those of the prompt: 0 … best_of - 1 */
    size_t index;     /* its place in a stream's answer */
    cf_finish finish;
    size_t n_tokens;
    double sum_logprob;
    bool has_text; /* something was given */
    cf_sink text;  /* not when it is streamed */

    /* With logprobs, when not streamed. */
    size_t capacity;
    cf_token *ids;         /* [n_tokens] */
    float *logprobs;       /* [n_tokens] */
    cf_alternative *top;   /* [n_tokens][n_top] */
    cf_logprobs streaming; /* when streamed */

    /* With echo and logprobs. */
    float *prompt_logprobs;     /* [n_ids of its prompt] */
    cf_alternative *prompt_top; /* [n_ids of its prompt][n_top] */

    cf_sink answer; /* when it has ended and is not streamed: its object, from after `index` */
} cf_choice;

/* Called when something is ready for whoever waits; any thread, short. */
typedef void (*cf_job_wake_fn)(void *user);

typedef struct cf_job {
    cf_request request;
    char id[48];
    time_t created;
    uint64_t arrived_ns, first_ns; /* first_ns: of the first token; 0: none yet */
    cf_sink frame;                 /* how all objects of the answer begin */
    cf_choice *choices;            /* [n_choices]: prompts × candidates */
    size_t n_choices;
    size_t n_prompt_tokens, n_reused, n_generated;

    /* From here on under the worker's lock. */
    size_t n_begun, n_running, n_done; /* choices */
    struct cf_job *previous, *next;    /* in the worker's list */
    cf_fault fault;                    /* why it failed */
    bool is_gone;                      /* nobody will read the answer */
    bool is_finished;                  /* the worker has let go of it */
    cf_sink output;                    /* a stream's bytes */
    size_t n_sent;                     /* of output */
    int fd;                            /* the client's socket, to see it go away; -1: unknown */
    bool is_waiting;                   /* `wake` is to be called when something is ready */
    cf_job_wake_fn wake;
    void *wake_user;
    int n_owners; /* the connection and the worker */
} cf_job;

/*
 * Makes a job of a request whose prompts are encoded; takes over what it owns, in any case. NULL
 * and a fault when out of memory.
 */
cf_job *cf_job_create(cf_request *request, cf_fault *fault);
void cf_job_free(cf_job *job);

/* Keeps a token that was chosen, with its alternatives; false when out of memory. */
bool cf_choice_add(cf_choice *choice, size_t n_top, const cf_event *event);

#endif
