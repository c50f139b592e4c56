/* Connections and how long they may still take to send a whole request. */
#ifndef CF_SERVE_VISITS_H
#define CF_SERVE_VISITS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

typedef struct cf_visit {
    int fd;
    atomic_uint_fast64_t deadline_ns; /* 0: it is the server's turn */
    uint64_t ended_ns;                /* the deadline when it was seen to send nothing more */
    struct cf_visit *previous, *next;
} cf_visit;

typedef struct cf_visits {
    pthread_mutex_t lock;
    cf_visit *first;
    uint64_t allowed_ns; /* for a head, and again for a body */
} cf_visits;

/* NULL when out of memory. */
cf_visit *cf_visits_enter(cf_visits *visits, int fd);

/* Before `fd` is closed. Takes NULL. */
void cf_visits_leave(cf_visits *visits, cf_visit *visit);

/* The client's turn begins, to send a head or a body. Takes NULL. */
void cf_visits_expect(const cf_visits *visits, cf_visit *visit);

/* The request is whole. Takes NULL. */
void cf_visits_answer(cf_visit *visit);

/*
 * Hangs up on those that took too long, or have sent nothing more of a request that is not whole
 * since the last time: whoever owns the sockets sees their end.
 */
void cf_visits_sweep(cf_visits *visits);

#endif
