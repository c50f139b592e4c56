/* What the server answers, path by path; nothing here knows of sockets. */
#ifndef CF_SERVE_ROUTES_H
#define CF_SERVE_ROUTES_H

#include "serve/job.h"
#include "serve/service.h"

/* Zeroed: not answered yet. */
typedef struct cf_reply {
    int http;
    const char *content_type;
    cf_sink body;
    const char *page; /* instead of `body`: text that stays */
    size_t n_page;
    cf_job *job; /* instead of both: was handed to the worker, answers when it is done */
} cf_reply;

/* `tail` is what follows a prefix route's path. */
typedef void (*cf_route_fn)(cf_service *service, const char *tail, const cf_sink *body,
                            cf_reply *reply);

typedef struct cf_route {
    const char *method;
    const char *path;
    bool is_prefix;
    bool is_open; /* needs no key */
    cf_route_fn answer;
} cf_route;

/*
 * Finds the route of a method (HEAD is GET's) and a target without its query, and the path's tail.
 * NULL and a fault of 404 or 405, and then the methods that there are in `allow`.
 */
const cf_route *cf_route_find(const char *method, const char *target, const char **tail,
                              const char **allow, cf_fault *fault);

/* An error object, and its HTTP status. */
void cf_reply_fault(cf_reply *reply, const cf_fault *fault);

/* The answer of a finished job that is not streamed. */
void cf_reply_job(const cf_job *job, cf_reply *reply);

void cf_reply_free(cf_reply *reply);

/* Routes of their own files. */
void cf_route_tokenize(cf_service *service, const char *tail, const cf_sink *body, cf_reply *reply);
void cf_route_detokenize(cf_service *service, const char *tail, const cf_sink *body,
                         cf_reply *reply);
void cf_route_tokenizer_info(cf_service *service, const char *tail, const cf_sink *body,
                             cf_reply *reply);

#endif
