/* Answers in OpenAI's forms. */
#ifndef CF_SERVE_RESPONSE_H
#define CF_SERVE_RESPONSE_H

#include "serve/job.h"
#include "serve/service.h"

/* Appends `value` as JSON and releases it; a NULL or a failure makes the sink short. */
void cf_json_append(cf_sink *sink, json_t *value);

/* Writes what all objects of the job's answer begin with; false when out of memory. */
bool cf_response_open(const cf_service *service, cf_job *job);

/*
 * Not when it is streamed: writes what the answer says of a choice that has ended, and drops what
 * it was written from. The worker does so choice by choice: an answer may have millions of numbers,
 * and the thread that sends it serves other connections too. False when out of memory.
 */
bool cf_response_choice(const cf_service *service, const cf_job *job, cf_choice *choice);

/* The whole answer of a finished job that is not streamed, from what was written of its choices. */
void cf_response_whole(const cf_job *job, cf_sink *sink);

/*
 * One server-sent event of a stream: a piece of a choice's text; `logprobs`, released, may be NULL;
 * finish CF_FINISH_NONE: it goes on.
 */
void cf_response_chunk(const cf_job *job, const cf_choice *choice, const char *text, size_t n_bytes,
                       json_t *logprobs, cf_finish finish, cf_sink *sink);

/* The first event of a choice: its role in a chat, the prompt's text with echo, or nothing. */
void cf_response_begin(const cf_service *service, const cf_job *job, cf_choice *choice,
                       cf_sink *sink);

/* The last events of a stream: the usage if asked for, or the job's fault; and the end mark. */
void cf_response_end(const cf_job *job, cf_sink *sink);

#endif
