/*
 * Clients of a server, all at once, on one thread that does next to nothing: what they get in all,
 * and what they cost. One line of CSV to stdout: clients, requests, tokens a request, streamed or
 * not, seconds, tokens/s of all together, processor seconds of these clients, wrong answers.
 */
#include "base/clock.h"

#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CLIENTS 1024
#define ANSWER_BYTES 262144

typedef struct client {
    int fd;
    size_t n_left; /* requests to be made, the one under way among them */
    size_t n;      /* bytes of the answer so far */
    char answer[ANSWER_BYTES];
} client;

typedef struct load {
    const char *host, *port;
    size_t n_clients, n_requests, n_tokens, n_wrong;
    int epoll;
    bool is_streamed;
    char request[1024];
    size_t n_request;
    client *clients;
} load;

static void must(bool condition, const char *what)
{
    if (condition)
        return;
    perror(what);
    exit(1);
}

static void write_request(load *it)
{
    char body[512];
    int n = snprintf(body, sizeof body,
                     "{\"prompt\":\"It was a dark night\",\"max_tokens\":%zu,\"temperature\":0,"
                     "\"ignore_eos\":true,\"stream\":%s}",
                     it->n_tokens, it->is_streamed ? "true" : "false");
    n = snprintf(it->request, sizeof it->request,
                 "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                 "Content-Length: %d\r\n\r\n%s",
                 it->host, n, body);
    it->n_request = (size_t)n;
}

static void ask(const load *it, client *one)
{
    one->n = 0;
    ssize_t n = send(one->fd, it->request, it->n_request, MSG_NOSIGNAL);
    must(n == (ssize_t)it->n_request, "send");
}

static void join_in(load *it, client *one)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *address;
    must(getaddrinfo(it->host, it->port, &hints, &address) == 0, "address");
    one->fd = socket(address->ai_family, SOCK_STREAM, 0);
    must(one->fd >= 0 && connect(one->fd, address->ai_addr, address->ai_addrlen) == 0, "connect");
    freeaddrinfo(address);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    must(epoll_ctl(it->epoll, EPOLL_CTL_ADD, one->fd, &event) == 0, "epoll");
    one->n_left = it->n_requests;
    ask(it, one);
}

/* Whether the answer is whole. */
static bool is_whole(const load *it, const client *one)
{
    if (it->is_streamed) /* the last chunk of a chunked body */
        return one->n >= 5 && memcmp(one->answer + one->n - 5, "0\r\n\r\n", 5) == 0;
    const char *length = strstr(one->answer, "Content-Length: ");
    const char *body = strstr(one->answer, "\r\n\r\n");
    return length != NULL && body != NULL &&
           one->answer + one->n >= body + 4 + strtoull(length + 16, NULL, 10);
}

static bool is_right(const load *it, const client *one)
{
    return strncmp(one->answer, "HTTP/1.1 200", 12) == 0 &&
           strstr(one->answer, it->is_streamed ? "data: [DONE]" : "\"completion_tokens\"") != NULL;
}

/* Returns true when this client has had all its answers. */
static bool take(load *it, client *one)
{
    ssize_t n = recv(one->fd, one->answer + one->n, ANSWER_BYTES - 1 - one->n, 0);
    must(n > 0, "an answer that ends too early");
    one->n += (size_t)n;
    one->answer[one->n] = 0;
    if (!is_whole(it, one))
        return false;
    it->n_wrong += !is_right(it, one);
    if (--one->n_left > 0) {
        ask(it, one);
        return false;
    }
    close(one->fd);
    return true;
}

static double own_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void run(load *it)
{
    struct epoll_event events[64];
    uint64_t start = cf_clock_ns();
    for (size_t i = 0; i < it->n_clients; i++)
        join_in(it, &it->clients[i]);
    for (size_t n_done = 0; n_done < it->n_clients;) {
        int n = epoll_wait(it->epoll, events, 64, -1);
        for (int i = 0; i < n; i++)
            n_done += take(it, events[i].data.ptr);
    }
    double seconds = (double)(cf_clock_ns() - start) * 1e-9;
    size_t n_requests = it->n_clients * it->n_requests;
    printf("%zu,%zu,%zu,%d,%.3f,%.1f,%.3f,%zu\n", it->n_clients, n_requests, it->n_tokens,
           it->is_streamed, seconds, (double)(n_requests * it->n_tokens) / seconds, own_seconds(),
           it->n_wrong);
}

int main(int count, char **arguments)
{
    static load it;
    if (count != 7) {
        fprintf(stderr, "usage: serve_speed HOST PORT CLIENTS REQUESTS_EACH TOKENS STREAM(0|1)\n");
        return 2;
    }
    it.host = arguments[1];
    it.port = arguments[2];
    it.n_clients = strtoul(arguments[3], NULL, 10);
    it.n_requests = strtoul(arguments[4], NULL, 10);
    it.n_tokens = strtoul(arguments[5], NULL, 10);
    it.is_streamed = arguments[6][0] == '1';
    if (it.n_clients < 1 || it.n_clients > MAX_CLIENTS || it.n_requests < 1 || it.n_tokens < 1)
        return 2;
    it.epoll = epoll_create1(0);
    it.clients = calloc(it.n_clients, sizeof *it.clients);
    must(it.epoll >= 0 && it.clients != NULL, "memory");
    write_request(&it);
    run(&it);
    free(it.clients);
    return it.n_wrong == 0 ? 0 : 1;
}
