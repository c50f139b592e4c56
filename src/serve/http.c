#include "serve/http.h"

#include "base/memory.h"
#include "base/status.h"
#include "serve/front.h"
#include "serve/head.h"
#include "serve/routes.h"
#include "serve/visits.h"
#include "serve/worker.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

#define N_THREADS 4
#define MIN_CONNECTIONS 64
#define SPARE_FILES 64 /* that the process needs beside connections */
#define CONNECTION_MEMORY_BYTES                                                                    \
    49152 /* three times a head: as bytes, taken apart, and an answer's */
#define STREAM_BLOCK_BYTES 16384

/* What is declared longer than this is not even read before it is refused. */
#define DISCARD_BYTES 67108864u

/* All bodies being received, together. */
#define ALL_BODIES_BYTES 268435456u

struct cf_http {
    cf_service *service;
    struct MHD_Daemon *daemon;
    cf_front *front;
    cf_visits visits;
    atomic_size_t body_bytes;
};

/* One request on a connection. */
typedef struct exchange {
    cf_http *http;
    struct MHD_Connection *connection;
    const cf_route *route; /* NULL: refused */
    char *tail;
    cf_sink body;
    size_t n_counted; /* bytes that body_bytes has of it */
    size_t n_received;
    cf_fault fault; /* found before the body was read */
    const char *allow;
    bool is_preflight;
    bool is_early; /* answered before the body was read */
    cf_job *job;
} exchange;

/* ---- Waiting for the worker ---- */

static void suspend(void *user)
{
    MHD_suspend_connection(((exchange *)user)->connection);
}

static void resume(void *user)
{
    MHD_resume_connection(((exchange *)user)->connection);
}

static void watch(exchange *it)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(it->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    cf_worker_watch(it->http->service->worker, it->job, info != NULL ? info->connect_fd : -1,
                    resume, it);
}

/* ---- How long a request may take to come ---- */

static cf_visit *visit_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info != NULL ? info->socket_context : NULL;
}

static void enter(cf_http *http, struct MHD_Connection *connection, void **context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *context = info != NULL ? cf_visits_enter(&http->visits, info->connect_fd) : NULL;
}

/* ---- Answers ---- */

static void add_cors(exchange *it, struct MHD_Response *response)
{
    MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
    MHD_add_response_header(response, "Access-Control-Expose-Headers", "Retry-After");
    if (!it->is_preflight)
        return;
    const char *wanted = MHD_lookup_connection_value(it->connection, MHD_HEADER_KIND,
                                                     "Access-Control-Request-Headers");
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    MHD_add_response_header(response, "Access-Control-Allow-Headers",
                            wanted != NULL ? wanted : "Authorization, Content-Type");
    MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
}

static enum MHD_Result send_response(exchange *it, int http, const char *content_type,
                                     struct MHD_Response *response)
{
    if (response == NULL)
        return MHD_NO;
    add_cors(it, response);
    if (content_type != NULL)
        MHD_add_response_header(response, "Content-Type", content_type);
    if (http == 401)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (http == 405 && it->allow != NULL)
        MHD_add_response_header(response, "Allow", it->allow);
    /* What a client that sends wrong requests sends next may be no request at all. */
    if (http == 400 || http == 404 || http == 405 || http == 413 || it->is_early)
        MHD_add_response_header(response, "Connection", "close");
    if (http == 429 || http == 503)
        MHD_add_response_header(response, "Retry-After", "1");
    atomic_fetch_add(&it->http->service->metrics.responses[http / 100], 1);
    enum MHD_Result result = MHD_queue_response(it->connection, (unsigned)http, response);
    MHD_destroy_response(response);
    return result;
}

/* Sends a reply, and takes its memory over. */
static enum MHD_Result send_reply(exchange *it, cf_reply *reply)
{
    if (reply->body.is_short) {
        cf_fault fault;
        cf_reply_free(reply);
        cf_fault_set(&fault, 503, NULL, "out_of_memory", "not enough memory for the answer");
        cf_reply_fault(reply, &fault);
    }
    struct MHD_Response *response;
    if (reply->page != NULL)
        response = MHD_create_response_from_buffer(reply->n_page, (void *)reply->page,
                                                   MHD_RESPMEM_PERSISTENT);
    else
        response =
            MHD_create_response_from_buffer(reply->body.n, reply->body.data, MHD_RESPMEM_MUST_FREE);
    if (response != NULL)
        reply->body = (cf_sink){0};
    enum MHD_Result result = send_response(it, reply->http, reply->content_type, response);
    cf_reply_free(reply);
    return result;
}

static enum MHD_Result send_fault(exchange *it, const cf_fault *fault)
{
    cf_reply reply = {0};
    cf_reply_fault(&reply, fault);
    return send_reply(it, &reply);
}

static ssize_t read_stream(void *user, uint64_t pos, char *data, size_t capacity)
{
    (void)pos;
    exchange *it = user;
    ptrdiff_t n = cf_worker_read(it->http->service->worker, it->job, data, capacity, suspend, it);
    return n < 0 ? MHD_CONTENT_READER_END_OF_STREAM : (ssize_t)n;
}

static enum MHD_Result send_stream(exchange *it)
{
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, it, NULL);
    if (response != NULL) {
        MHD_add_response_header(response, "Cache-Control", "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no");
    }
    return send_response(it, 200, "text/event-stream; charset=utf-8", response);
}

static enum MHD_Result send_job(exchange *it)
{
    if (it->job->request.stream)
        return send_stream(it);
    if (!cf_worker_poll(it->http->service->worker, it->job, suspend, it))
        return MHD_YES;
    if (it->job->is_gone)
        return MHD_NO;
    cf_reply reply = {0};
    cf_reply_job(it->job, &reply);
    return send_reply(it, &reply);
}

/* ---- Requests ---- */

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    char letter = (char)(c | 0x20);
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* Decodes %XX in place. A zero byte would end the text: no path has one, so it stays as it is. */
static size_t unescape(void *user, struct MHD_Connection *connection, char *text)
{
    (void)user, (void)connection;
    char *end = text;
    for (const char *c = text; *c != 0; c++) {
        int high = *c == '%' ? digit_of(c[1]) : -1, low = high >= 0 ? digit_of(c[2]) : -1;
        bool is_byte = low >= 0 && high + low > 0;
        *end++ = is_byte ? (char)(high << 4 | low) : *c;
        c += is_byte ? 2 : 0;
    }
    *end = 0;
    return (size_t)(end - text);
}

/* Takes as long whatever the key is that was sent, but for its length. */
static bool is_key(const char *sent, const char *key)
{
    size_t n_sent = strlen(sent), n_key = strlen(key);
    unsigned difference = n_sent != n_key;
    for (size_t i = 0; i < n_sent; i++)
        difference |= (unsigned char)sent[i] ^ (unsigned char)key[n_key > 0 ? i % n_key : 0];
    return difference == 0;
}

static bool check_key(exchange *it)
{
    const char *key = it->http->service->api_key;
    if (key == NULL || it->route->is_open)
        return true;
    const char *header =
        MHD_lookup_connection_value(it->connection, MHD_HEADER_KIND, "Authorization");
    if (header != NULL && strncasecmp(header, "Bearer ", 7) == 0 && is_key(header + 7, key))
        return true;
    return cf_fault_set(&it->fault, 401, NULL, "invalid_api_key",
                        header == NULL ? "expected the header Authorization: Bearer KEY"
                                       : "the API key is not this server's");
}

static bool refuse_length(exchange *it, unsigned long long n_bytes)
{
    return cf_fault_set(&it->fault, 413, NULL, "body_too_large",
                        "a body of %llu bytes, at most %zu are taken", n_bytes,
                        it->http->service->max_body_bytes);
}

/* A chunked body's length is known at its end only. */
static bool refuse_growth(exchange *it)
{
    return cf_fault_set(&it->fault, 413, NULL, "body_too_large",
                        "the body goes on after the %zu bytes that are taken",
                        it->http->service->max_body_bytes);
}

/* libmicrohttpd has checked that it is a number. */
static unsigned long long declared_length(const exchange *it)
{
    const char *header =
        MHD_lookup_connection_value(it->connection, MHD_HEADER_KIND, "Content-Length");
    return header != NULL ? strtoull(header, NULL, 10) : 0;
}

/* What is wrong with a request before its body is known. */
static void check_head(exchange *it, const char *method, const char *path)
{
    const char *tail;
    it->is_preflight = strcmp(method, "OPTIONS") == 0;
    if (it->is_preflight)
        return;
    it->route = cf_route_find(method, path, &tail, &it->allow, &it->fault);
    if (it->route == NULL)
        return;
    it->tail = strdup(tail);
    unsigned long long length = declared_length(it);
    if (check_key(it) && length > it->http->service->max_body_bytes)
        refuse_length(it, length);
}

/* Whether the client waits to be asked for the body. */
static bool is_hesitant(const exchange *it)
{
    const char *header = MHD_lookup_connection_value(it->connection, MHD_HEADER_KIND, "Expect");
    return header != NULL && strcasecmp(header, "100-continue") == 0;
}

/* A head under way: what its fields said, and what is wrong with them. */
typedef struct head_check {
    cf_head_facts facts;
    cf_fault *fault;
} head_check;

static enum MHD_Result check_field(void *user, enum MHD_ValueKind kind, const char *name,
                                   size_t n_name, const char *value, size_t n_value)
{
    (void)kind;
    head_check *check = user;
    return cf_head_field(&check->facts, name, n_name, value != NULL ? value : "", n_value,
                         check->fault)
               ? MHD_YES
               : MHD_NO;
}

/*
 * The front has seen the first head of a connection only, and the library takes more for HTTP than
 * it is. False: where the body ends may then be anybody's guess.
 */
static bool check_fields(exchange *it, const char *version)
{
    head_check check = {.fault = &it->fault};
    check.facts.is_http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    MHD_get_connection_values_n(it->connection, MHD_HEADER_KIND, check_field, &check);
    return it->fault.http == 0 && cf_head_end(&check.facts, &it->fault);
}

static enum MHD_Result begin(cf_http *http, struct MHD_Connection *connection, const char *path,
                             const char *method, const char *version, void **context)
{
    exchange *it = calloc(1, sizeof *it);
    if (it == NULL)
        return MHD_NO;
    *context = it;
    it->http = http;
    it->connection = connection;
    cf_visits_expect(&http->visits, visit_of(connection));
    bool is_clear = check_fields(it, version);
    if (is_clear)
        check_head(it, method, path);
    /* An answer before the body is read closes the connection, and a client that sends it all the
     * same may never see the answer. */
    it->is_early = it->fault.http != 0 &&
                   (!is_clear || is_hesitant(it) || declared_length(it) > DISCARD_BYTES);
    return it->is_early ? send_fault(it, &it->fault) : MHD_YES;
}

/* Counts what is about to be kept against what all bodies may take together. */
static bool count_body(exchange *it, size_t n)
{
    size_t before = atomic_fetch_add(&it->http->body_bytes, n);
    it->n_counted += n;
    return before + n <= ALL_BODIES_BYTES || cf_fault_set(&it->fault, 503, NULL, "overloaded",
                                                          "too many requests are being received");
}

static void drop_body(exchange *it)
{
    cf_sink_free(&it->body);
    atomic_fetch_sub(&it->http->body_bytes, it->n_counted);
    it->n_counted = 0;
}

static enum MHD_Result receive(exchange *it, const char *data, size_t n)
{
    it->n_received += n;
    if (it->n_received > DISCARD_BYTES + it->http->service->max_body_bytes)
        return MHD_NO;
    if (it->fault.http == 0 && it->n_received > it->http->service->max_body_bytes)
        refuse_growth(it);
    if (it->fault.http == 0 && count_body(it, n))
        cf_sink_append(&it->body, data, n);
    if (it->fault.http != 0)
        drop_body(it);
    return MHD_YES;
}

static enum MHD_Result answer(exchange *it)
{
    cf_service *service = it->http->service;
    cf_visits_answer(visit_of(it->connection));
    if (it->is_preflight)
        return send_response(it, 204, NULL,
                             MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT));
    if (it->fault.http == 0 && (it->body.is_short || it->tail == NULL))
        cf_fault_set(&it->fault, 503, NULL, "out_of_memory", "not enough memory for the request");
    if (it->fault.http != 0)
        return send_fault(it, &it->fault);
    cf_reply reply = {0};
    it->route->answer(service, it->tail, &it->body, &reply);
    drop_body(it);
    if (reply.job == NULL)
        return send_reply(it, &reply);
    it->job = reply.job;
    watch(it);
    return send_job(it);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *n_data, void **context)
{
    exchange *it = *context;
    if (it == NULL)
        return begin(user, connection, path, method, version, context);
    if (*n_data > 0) {
        enum MHD_Result result = receive(it, data, *n_data);
        *n_data = 0;
        return result;
    }
    return it->job != NULL ? send_job(it) : answer(it);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
    (void)code;
    exchange *it = *context;
    if (it == NULL)
        return;
    cf_visits_expect(&((cf_http *)user)->visits, visit_of(connection));
    if (it->job != NULL)
        cf_worker_release(it->http->service->worker, it->job);
    drop_body(it);
    free(it->tail);
    free(it);
    *context = NULL;
}

static void on_connection(void *user, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    cf_http *http = user;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        enter(http, connection, context);
        return;
    }
    cf_visits_leave(&http->visits, *context);
    atomic_fetch_sub(&http->service->metrics.connections, 1); /* the front counted it */
}

/* The library closes the socket if it does not take it. */
static void take_over(void *user, int fd, const struct sockaddr *address, socklen_t n_bytes)
{
    cf_http *http = user;
    if (MHD_add_connection(http->daemon, fd, address, n_bytes) != MHD_YES)
        atomic_fetch_sub(&http->service->metrics.connections, 1);
}

static void hang_up(void *user)
{
    cf_visits_sweep(&((cf_http *)user)->visits);
}

/* ---- Starting and stopping ---- */

/* As many connections as the process may have files, raised as far as the system lets it. */
static unsigned count_connections(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return MIN_CONNECTIONS;
    limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return MIN_CONNECTIONS;
    return limit.rlim_cur > MIN_CONNECTIONS + SPARE_FILES ? (unsigned)limit.rlim_cur - SPARE_FILES
                                                          : MIN_CONNECTIONS;
}

static cf_status start(cf_http *self, int fd, unsigned timeout_s, cf_error *error)
{
    unsigned n_connections = count_connections();
    self->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET, 0,
        NULL, NULL, on_request, self, MHD_OPTION_NOTIFY_COMPLETED, on_completed, self,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, self, MHD_OPTION_THREAD_POOL_SIZE,
        (unsigned)N_THREADS, MHD_OPTION_CONNECTION_LIMIT, n_connections,
        MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_CONNECTION_TIMEOUT, timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
    if (self->daemon == NULL)
        return cf_fail(error, CF_STATUS_IO, "starting the HTTP threads: %s", strerror(errno));
    const cf_front_options options = {
        .fd = fd,
        .timeout_s = timeout_s,
        .max_connections = n_connections,
        .metrics = &self->service->metrics,
        .hand_over = take_over,
        .tick = hang_up,
        .user = self,
    };
    return cf_front_start(&options, &self->front, error);
}

cf_status cf_http_start(cf_service *service, int fd, unsigned timeout_s, cf_http **http,
                        cf_error *error)
{
    CF_TRY(CF_ALLOC(http, 1, "server", error));
    cf_http *self = *http;
    self->service = service;
    self->visits.allowed_ns = 2000000000ull * timeout_s;
    pthread_mutex_init(&self->visits.lock, NULL);
    cf_status status = start(self, fd, timeout_s, error);
    if (status != CF_STATUS_OK) {
        cf_http_stop(self);
        *http = NULL;
    }
    return status;
}

void cf_http_quiesce(cf_http *http)
{
    cf_front_quiesce(http->front);
}

void cf_http_stop(cf_http *http)
{
    if (http == NULL)
        return;
    cf_front_free(http->front); /* it hands connections over until then */
    if (http->daemon != NULL)
        MHD_stop_daemon(http->daemon);
    pthread_mutex_destroy(&http->visits.lock);
    cf_dealloc(http);
}
