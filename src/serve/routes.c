#include "serve/routes.h"

#include "serve/chat.h"
#include "serve/page.h"
#include "serve/response.h"
#include "serve/worker.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- Replies ---- */

static void reply_json(cf_reply *reply, int http, json_t *value)
{
    reply->http = http;
    reply->content_type = "application/json";
    cf_json_append(&reply->body, value);
}

void cf_reply_fault(cf_reply *reply, const cf_fault *fault)
{
    reply_json(reply, fault->http, cf_fault_json(fault));
}

void cf_reply_free(cf_reply *reply)
{
    cf_sink_free(&reply->body);
    *reply = (cf_reply){0};
}

void cf_reply_job(const cf_job *job, cf_reply *reply)
{
    if (job->fault.http != 0) {
        cf_reply_fault(reply, &job->fault);
        return;
    }
    reply->http = 200;
    reply->content_type = "application/json";
    cf_response_whole(job, &reply->body);
}

/* ---- Completions ---- */

/* Takes the request over, in any case. */
static void submit(cf_service *service, cf_request *request, cf_reply *reply)
{
    cf_fault fault = {0};
    cf_job *job = cf_job_create(request, &fault);
    bool is_open = job != NULL && cf_response_open(service, job);
    if (is_open && cf_worker_submit(service->worker, job, &fault)) {
        reply->job = job;
        return;
    }
    if (job != NULL && !is_open)
        cf_fault_set(&fault, 503, NULL, "out_of_memory", "not enough memory for the answer");
    cf_job_free(job);
    cf_reply_fault(reply, &fault);
}

static void answer_request(cf_service *service, bool is_read, cf_request *request, cf_fault *fault,
                           cf_reply *reply)
{
    if (is_read && cf_request_encode(request, service->tokenizer, &service->limits, fault)) {
        submit(service, request, reply);
        return;
    }
    cf_request_free(request);
    cf_reply_fault(reply, fault);
}

static void answer_completions(cf_service *service, const char *tail, const cf_sink *body,
                               cf_reply *reply)
{
    (void)tail;
    cf_request request;
    cf_fault fault = {0};
    bool is_read = cf_request_parse(body->data, body->n, &service->limits, &request, &fault);
    answer_request(service, is_read, &request, &fault, reply);
}

static void answer_chat(cf_service *service, const char *tail, const cf_sink *body, cf_reply *reply)
{
    (void)tail;
    cf_request request = {0};
    cf_fault fault = {0};
    bool is_read =
        service->chat_template != NULL
            ? cf_chat_parse(body->data, body->n, service->chat_template, &service->limits, &request,
                            &fault)
            : cf_fault_set(&fault, 400, NULL, "no_chat_template",
                           "%s is a base model and has no chat template: use /v1/completions, or "
                           "start the server with --chat-template",
                           service->name);
    answer_request(service, is_read, &request, &fault, reply);
}

/* ---- Facts ---- */

static json_t *make_model(const cf_service *service)
{
    const cf_model_info *info = cf_model_info_get(service->model);
    const cf_shape *shape = cf_model_shape(service->model);
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:{s:I, s:i, s:i, s:i, s:i, s:s, s:s}}", "id",
                     service->name, "object", "model", "created", (json_int_t)service->created,
                     "owned_by", "clusterfusion", "root", service->name, "max_model_len",
                     (json_int_t)service->limits.n_context, "meta", "n_params",
                     (json_int_t)info->n_parameters, "n_layers", shape->n_layers, "d_model",
                     shape->d_model, "n_vocab", shape->n_vocab, "n_ctx_train", shape->n_context,
                     "backend", cf_backend_name(info->backend), "fingerprint",
                     service->fingerprint);
}

static void answer_models(cf_service *service, const char *tail, const cf_sink *body,
                          cf_reply *reply)
{
    (void)tail, (void)body;
    reply_json(reply, 200,
               json_pack("{s:s, s:[o]}", "object", "list", "data", make_model(service)));
}

static void answer_model(cf_service *service, const char *tail, const cf_sink *body,
                         cf_reply *reply)
{
    (void)body;
    if (strcmp(tail, service->name) == 0) {
        reply_json(reply, 200, make_model(service));
        return;
    }
    cf_fault fault;
    cf_fault_set(&fault, 404, "model", "model_not_found", "there is no model \"%.200s\" here",
                 tail);
    cf_reply_fault(reply, &fault);
}

static void answer_health(cf_service *service, const char *tail, const cf_sink *body,
                          cf_reply *reply)
{
    (void)service, (void)tail, (void)body;
    reply_json(reply, 200, json_pack("{s:s}", "status", "ok"));
}

static void answer_metrics(cf_service *service, const char *tail, const cf_sink *body,
                           cf_reply *reply)
{
    (void)tail, (void)body;
    reply->http = 200;
    reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
    cf_metrics_print(&service->metrics, &reply->body);
}

static void answer_page(cf_service *service, const char *tail, const cf_sink *body, cf_reply *reply)
{
    (void)service, (void)tail, (void)body;
    reply->http = 200;
    reply->content_type = "text/html; charset=utf-8";
    reply->page = (const char *)cf_page;
    reply->n_page = cf_page_bytes;
}

/* ---- Finding ---- */

static const cf_route routes[] = {
    {"POST", "/v1/completions", .answer = answer_completions},
    {"POST", "/v1/chat/completions", .answer = answer_chat},
    {"GET", "/v1/models", .answer = answer_models},
    {"GET", "/v1/models/", .is_prefix = true, .answer = answer_model},
    {"POST", "/tokenize", .answer = cf_route_tokenize},
    {"POST", "/detokenize", .answer = cf_route_detokenize},
    {"GET", "/tokenizer_info", .answer = cf_route_tokenizer_info},
    {"GET", "/metrics", .answer = answer_metrics},
    {"GET", "/health", .is_open = true, .answer = answer_health},
    {"GET", "/", .is_open = true, .answer = answer_page},
};

static bool matches(const cf_route *route, const char *path)
{
    size_t n = strlen(route->path);
    return route->is_prefix ? strncmp(path, route->path, n) == 0 && path[n] != 0
                            : strcmp(path, route->path) == 0;
}

/* The path of a target in absolute form, http://host/path, which RFC 9112 wants taken too. */
static const char *path_of(const char *target)
{
    size_t n_scheme = strncasecmp(target, "http://", 7) == 0    ? 7
                      : strncasecmp(target, "https://", 8) == 0 ? 8
                                                                : 0;
    if (n_scheme == 0)
        return target;
    const char *path = strchr(target + n_scheme, '/');
    return path != NULL ? path : "/";
}

const cf_route *cf_route_find(const char *method, const char *target, const char **tail,
                              const char **allow, cf_fault *fault)
{
    *allow = NULL;
    const char *path = path_of(target);
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!matches(&routes[i], path))
            continue;
        *tail = path + strlen(routes[i].path);
        if (strcmp(routes[i].method, wanted) == 0)
            return &routes[i];
        *allow = strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    }
    if (*allow != NULL)
        cf_fault_set(fault, 405, NULL, "method_not_allowed", "%.200s: expected %s, found %.20s",
                     path, *allow, method);
    else
        cf_fault_set(fault, 404, NULL, "not_found", "there is nothing at %.200s", path);
    return NULL;
}
