/* Answers in OpenAI's forms. */
#ifndef CF_SERVE_RESPONSE_H
#define CF_SERVE_RESPONSE_H

#include "serve/job.h"
#include "serve/service.h"

/* Appends `value` as JSON and releases it; a NULL or a failure makes the sink short. */
void cf_json_append(cf_sink *sink, json_t *value);

/* The whole answer of a finished job that is not streamed. */
void cf_response_whole(const cf_service *service, const cf_job *job, cf_sink *sink);

/*
 * One server-sent event of a stream: a piece of a choice's text; `logprobs`, released, may be NULL;
 * finish CF_FINISH_NONE: it goes on.
 */
void cf_response_chunk(const cf_service *service, const cf_job *job, const cf_choice *choice,
                       const char *text, size_t n_bytes, json_t *logprobs, cf_finish finish,
                       cf_sink *sink);

/* The first event of a choice: its role in a chat, the prompt's text with echo, or nothing. */
void cf_response_begin(const cf_service *service, const cf_job *job, cf_choice *choice,
                       cf_sink *sink);

/* The last events of a stream: the usage if asked for, or the job's fault; and the end mark. */
void cf_response_end(const cf_service *service, const cf_job *job, cf_sink *sink);

#endif
