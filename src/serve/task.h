/* One choice being computed in a session, step by step. */
#ifndef CF_SERVE_TASK_H
#define CF_SERVE_TASK_H

#include "serve/job.h"
#include "serve/service.h"

typedef enum cf_task_stage {
    CF_TASK_BEGIN = 0,
    CF_TASK_SCORE,
    CF_TASK_GENERATE,
    CF_TASK_END,
} cf_task_stage;

/* Zeroed but for job and choice: about to begin. */
typedef struct cf_task {
    cf_job *job;
    cf_choice *choice;
    cf_task_stage stage;
    cf_scoring *scoring;
    cf_generation *generation;
} cf_task;

/*
 * Takes one step: a part of a prompt or one token. What a stream should send is appended to `sink`.
 * At CF_TASK_END the choice is complete. On failure the task is to be closed, and `fault` says why;
 * `is_dead`: the session with it.
 */
bool cf_task_step(cf_task *task, cf_service *service, cf_session *session, cf_sink *sink,
                  cf_fault *fault, bool *is_dead);

/* At any point. The session keeps what it holds. */
void cf_task_close(cf_task *task);

#endif
