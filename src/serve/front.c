#include "serve/front.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "serve/fault.h"
#include "serve/head.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TICK_NS 500000000u
#define TICK_MS 500
#define MAX_EVENTS 64

/* How long one that was refused may go on sending: closed at once, it might not see its answer. */
#define LINGER_NS 2000000000u

/* A connection whose head is not whole. */
typedef struct guest {
    int fd;
    bool is_refused;
    uint64_t deadline_ns;
    struct guest *previous, *next;
} guest;

struct cf_front {
    cf_front_options options;
    pthread_t thread;
    int epoll, wake;
    bool is_listening; /* waits for new connections */
    guest *guests;
    uint64_t ticked_ns;
    atomic_bool is_quiet, is_over;
    char buffer[CF_MAX_HEAD_BYTES];
};

/* ---- Guests ---- */

static void forget(cf_front *front, guest *one)
{
    *(one->previous != NULL ? &one->previous->next : &front->guests) = one->next;
    if (one->next != NULL)
        one->next->previous = one->previous;
    free(one);
}

static void leave(cf_front *front, guest *one)
{
    close(one->fd);
    atomic_fetch_sub(&front->options.metrics->connections, 1);
    forget(front, one);
}

static void enter(cf_front *front, int fd)
{
    guest *one = calloc(1, sizeof *one);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = one};
    if (one == NULL || epoll_ctl(front->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(one);
        close(fd);
        return;
    }
    atomic_fetch_add(&front->options.metrics->connections, 1);
    one->fd = fd;
    one->deadline_ns = cf_clock_ns() + front->options.timeout_s * 1000000000ull;
    one->next = front->guests;
    if (one->next != NULL)
        one->next->previous = one;
    front->guests = one;
}

/* Reads and forgets what one that was refused still sends. */
static void drain(cf_front *front, guest *one)
{
    ssize_t n;
    do
        n = recv(one->fd, front->buffer, sizeof front->buffer, 0);
    while (n > 0);
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        leave(front, one);
}

static const char *reason(int http)
{
    return http == 408 ? "Request Timeout" : http == 413 ? "Content Too Large" : "Bad Request";
}

static void refuse(cf_front *front, guest *one, const cf_fault *fault)
{
    json_t *object = cf_fault_json(fault);
    char *body = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
    char answer[2048];
    json_decref(object);
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                     "Access-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n%s",
                     fault->http, reason(fault->http), body != NULL ? strlen(body) : 0,
                     body != NULL ? body : "");
    free(body);
    atomic_fetch_add(&front->options.metrics->responses[fault->http / 100], 1);
    /* A new connection's send buffer holds it; a client that is gone need not have it. */
    if (n > 0 && (size_t)n < sizeof answer)
        (void)!send(one->fd, answer, (size_t)n, MSG_NOSIGNAL);
    shutdown(one->fd, SHUT_WR);
    one->is_refused = true;
    one->deadline_ns = cf_clock_ns() + LINGER_NS;
    drain(front, one);
}

static void hand_over(cf_front *front, guest *one)
{
    struct sockaddr_storage address = {0};
    socklen_t n_bytes = sizeof address;
    int fd = one->fd;
    epoll_ctl(front->epoll, EPOLL_CTL_DEL, fd, NULL);
    forget(front, one);
    getpeername(fd, (struct sockaddr *)&address, &n_bytes);
    front->options.hand_over(front->options.user, fd, (struct sockaddr *)&address, n_bytes);
}

/* `is_ended`: the client will send nothing more. */
static void look_at(cf_front *front, guest *one, bool is_ended)
{
    cf_fault fault;
    if (one->is_refused) {
        drain(front, one);
        return;
    }
    ssize_t n = recv(one->fd, front->buffer, sizeof front->buffer, MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        leave(front, one);
        return;
    }
    cf_head head = cf_head_check(front->buffer, (size_t)n, &fault);
    if (head == CF_HEAD_PARTIAL && is_ended) {
        head = CF_HEAD_WRONG;
        cf_fault_set(&fault, 400, NULL, "invalid_http", "the request ends within its headers");
    }
    if (head == CF_HEAD_WHOLE)
        hand_over(front, one);
    else if (head == CF_HEAD_WRONG)
        refuse(front, one, &fault);
}

/* One that has waited too long: told so if it has said anything. */
static void dismiss(cf_front *front, guest *one)
{
    cf_fault fault;
    if (one->is_refused || recv(one->fd, front->buffer, 1, MSG_PEEK) <= 0) {
        leave(front, one);
        return;
    }
    cf_fault_set(&fault, 408, NULL, "timeout", "the headers took longer than %u s",
                 front->options.timeout_s);
    refuse(front, one, &fault);
}

/* ---- Listening ---- */

static void listen_on(cf_front *front, bool on)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = front};
    if (front->options.fd < 0 || front->is_listening == on)
        return;
    if (epoll_ctl(front->epoll, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, front->options.fd, &event) == 0)
        front->is_listening = on;
}

/* Where connections or files run out, the next have to wait for the next tick. */
static void admit(cf_front *front)
{
    while (front->is_listening) {
        int fd = -1;
        if (atomic_load(&front->options.metrics->connections) < front->options.max_connections)
            fd = accept4(front->options.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        else
            errno = EMFILE;
        if (fd >= 0)
            enter(front, fd);
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR && errno != ECONNABORTED)
            listen_on(front, false);
    }
}

static void stop_listening(cf_front *front)
{
    listen_on(front, false);
    if (front->options.fd >= 0)
        close(front->options.fd);
    front->options.fd = -1;
}

/* ---- The thread ---- */

static void tick(cf_front *front)
{
    uint64_t now = cf_clock_ns();
    if (now - front->ticked_ns < TICK_NS)
        return;
    front->ticked_ns = now;
    for (guest *one = front->guests, *next; one != NULL; one = next) {
        next = one->next;
        if (now >= one->deadline_ns)
            dismiss(front, one);
    }
    listen_on(front, true);
    front->options.tick(front->options.user);
}

static void *run(void *user)
{
    cf_front *front = user;
    struct epoll_event events[MAX_EVENTS];
    while (!atomic_load(&front->is_over)) {
        int n = epoll_wait(front->epoll, events, MAX_EVENTS, TICK_MS);
        for (int i = 0; i < n; i++) {
            void *whose = events[i].data.ptr;
            if (whose == front)
                admit(front);
            else if (whose != NULL)
                look_at(front, whose, (events[i].events & EPOLLRDHUP) != 0);
        }
        if (atomic_load(&front->is_quiet))
            stop_listening(front);
        tick(front);
    }
    return NULL;
}

static cf_status open_files(cf_front *front, cf_error *error)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    front->epoll = epoll_create1(EPOLL_CLOEXEC);
    front->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (front->epoll < 0 || front->wake < 0 ||
        epoll_ctl(front->epoll, EPOLL_CTL_ADD, front->wake, &event) != 0)
        return cf_fail(error, CF_STATUS_IO, "waiting for connections: %s", strerror(errno));
    listen_on(front, true);
    return CF_STATUS_OK;
}

static void close_files(cf_front *front)
{
    if (front->epoll >= 0)
        close(front->epoll);
    if (front->wake >= 0)
        close(front->wake);
}

cf_status cf_front_start(const cf_front_options *options, cf_front **front, cf_error *error)
{
    CF_TRY(CF_ALLOC(front, 1, "connections", error));
    cf_front *self = *front;
    self->options = *options;
    self->ticked_ns = cf_clock_ns();
    cf_status status = open_files(self, error);
    int fault = status == CF_STATUS_OK ? pthread_create(&self->thread, NULL, run, self) : 0;
    if (fault != 0)
        status = cf_fail(error, CF_STATUS_IO, "starting a thread: %s", strerror(fault));
    if (status != CF_STATUS_OK) {
        close_files(self);
        cf_dealloc(self);
        *front = NULL;
    }
    return status;
}

static void wake(cf_front *front)
{
    uint64_t one = 1;
    (void)!write(front->wake, &one, sizeof one);
}

void cf_front_quiesce(cf_front *front)
{
    atomic_store(&front->is_quiet, true);
    wake(front);
}

void cf_front_free(cf_front *front)
{
    if (front == NULL)
        return;
    atomic_store(&front->is_over, true);
    wake(front);
    pthread_join(front->thread, NULL);
    stop_listening(front);
    for (guest *one = front->guests, *next; one != NULL; one = next) {
        next = one->next;
        leave(front, one);
    }
    close_files(front);
    cf_dealloc(front);
}
