#include "serve/server.h"

#include "base/memory.h"
#include "base/status.h"
#include "serve/chat.h"
#include "serve/http.h"
#include "serve/worker.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 1024

/* Once everything is finished, how long answers may take to be sent. */
#define SEND_TRIES 200
#define SEND_PAUSE_NS 10000000

struct cf_server {
    cf_service service;
    cf_http *http;
    char url[128];
};

/* ---- The socket ---- */

static int open_socket(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(fd, address->ai_addr, address->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int fault = errno;
    close(fd);
    errno = fault;
    return -1;
}

static cf_status listen_at(const char *host, uint16_t port, int *fd, cf_error *error)
{
    char service[8];
    snprintf(service, sizeof service, "%u", (unsigned)port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *addresses;
    int fault = getaddrinfo(host, service, &hints, &addresses);
    if (fault != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "--host %s: %s", host,
                       gai_strerror(fault));
    *fd = -1;
    for (const struct addrinfo *one = addresses; one != NULL && *fd < 0; one = one->ai_next)
        *fd = open_socket(one);
    freeaddrinfo(addresses);
    if (*fd < 0)
        return cf_fail(error, CF_STATUS_IO, "listening at %s, port %u: %s", host, (unsigned)port,
                       strerror(errno));
    return CF_STATUS_OK;
}

static void write_url(int fd, char *url, size_t capacity)
{
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    char host[80] = "?", port[8] = "?";
    if (getsockname(fd, (struct sockaddr *)&address, &n) == 0)
        getnameinfo((struct sockaddr *)&address, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(url, capacity, strchr(host, ':') != NULL ? "http://[%s]:%s" : "http://%s:%s", host,
             port);
}

/* ---- The service ---- */

static size_t longest_token(const cf_tokenizer *tokenizer)
{
    size_t longest = 1, n;
    if (tokenizer == NULL)
        return 0;
    for (size_t id = 0; id < cf_tokenizer_n_vocab(tokenizer); id++) {
        cf_tokenizer_bytes(tokenizer, (cf_token)id, &n);
        longest = n > longest ? n : longest;
    }
    return longest;
}

static cf_request_limits find_limits(const cf_server_options *options)
{
    const cf_shape *shape = cf_model_shape(options->model);
    cf_token first = shape->eos_token >= 0 ? shape->eos_token : shape->bos_token;
    int32_t n_context = options->session->n_context;
    return (cf_request_limits){
        .n_vocab = shape->n_vocab,
        .n_context = (size_t)(n_context > 0 ? n_context : shape->n_context),
        .first_token = first < shape->n_vocab ? first : -1,
        .n_longest = longest_token(options->tokenizer),
    };
}

/* Where weights cannot be hashed, the version and the backend have to do. */
static void write_fingerprint(cf_service *service)
{
    char hash[33];
    const cf_model_info *info = cf_model_info_get(service->model);
    if (cf_model_hash(service->model, NULL, NULL, hash, NULL) != CF_STATUS_OK)
        snprintf(hash, sizeof hash, "none");
    snprintf(service->fingerprint, sizeof service->fingerprint, "cf-%s-%s-%.12s", cf_version(),
             cf_backend_name(info->backend), hash);
}

static void fill_service(cf_service *service, const cf_server_options *options)
{
    service->model = options->model;
    service->tokenizer = options->tokenizer;
    service->name = options->name;
    service->api_key = options->api_key;
    service->chat_template = options->chat_template;
    service->created = time(NULL);
    service->limits = find_limits(options);
    service->n_slots = options->n_parallel;
    service->max_body_bytes = options->max_body_bytes;
    write_fingerprint(service);
}

/* ---- Starting and stopping ---- */

static cf_status start(cf_server *server, const cf_server_options *options, cf_error *error)
{
    int fd = -1;
    if (options->chat_template != NULL)
        CF_TRY(cf_chat_check(options->chat_template, error));
    fill_service(&server->service, options);
    CF_TRY(listen_at(options->host, options->port, &fd, error));
    write_url(fd, server->url, sizeof server->url);
    cf_status status = cf_worker_start(&server->service, options->session, options->max_queue,
                                       &server->service.worker, error);
    if (status == CF_STATUS_OK)
        status = cf_http_start(&server->service, fd, options->timeout_s, &server->http, error);
    if (status != CF_STATUS_OK)
        close(fd);
    return status;
}

cf_status cf_server_start(const cf_server_options *options, cf_server **server, cf_error *error)
{
    CF_TRY(CF_ALLOC(server, 1, "server", error));
    cf_status status = start(*server, options, error);
    if (status != CF_STATUS_OK) {
        if ((*server)->service.worker != NULL)
            cf_worker_stop((*server)->service.worker, 0);
        cf_server_free(*server);
        *server = NULL;
    }
    return status;
}

const char *cf_server_url(const cf_server *server)
{
    return server->url;
}

void cf_server_stop(cf_server *server, unsigned grace_s)
{
    cf_worker *worker = server->service.worker;
    cf_http_quiesce(server->http);
    cf_worker_stop(worker, (uint64_t)grace_s * 1000000000u);
    for (int i = 0; i < SEND_TRIES && cf_worker_n_jobs(worker) > 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = SEND_PAUSE_NS}, NULL);
    cf_http_stop(server->http);
    server->http = NULL;
}

void cf_server_free(cf_server *server)
{
    if (server == NULL)
        return;
    cf_http_stop(server->http);
    cf_worker_free(server->service.worker);
    cf_dealloc(server);
}
