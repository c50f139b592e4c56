/*
 * The front door: new connections wait here, on one thread, until the head of their first request
 * is there. What is no HTTP is answered with an error object and closed; the HTTP library, whose
 * own answer would be a page, does not get to see it.
 */
#ifndef CF_SERVE_FRONT_H
#define CF_SERVE_FRONT_H

#include "serve/metrics.h"

#include <sys/socket.h>

typedef struct cf_front cf_front;

typedef struct cf_front_options {
    int fd;             /* listens and does not block; closed when the front no longer listens */
    unsigned timeout_s; /* for a first head, from the first to the last byte */
    size_t max_connections; /* here and handed over, by metrics->connections, which it counts up */
    cf_metrics *metrics;
    /* On its thread: `fd`, with nothing read from it yet, is the callee's. */
    void (*hand_over)(void *user, int fd, const struct sockaddr *address, socklen_t n_bytes);
    void (*tick)(void *user); /* on its thread, about twice a second */
    void *user;
} cf_front_options;

/* Errors: IO, OUT_OF_MEMORY; options->fd is then still the caller's. */
cf_status cf_front_start(const cf_front_options *options, cf_front **front, cf_error *error);

/* Listens no more; who is here may still come in. */
void cf_front_quiesce(cf_front *front);

/* Ends the thread and closes the connections that wait. Takes NULL. */
void cf_front_free(cf_front *front);

#endif
