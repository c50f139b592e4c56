#include "serve/visits.h"

#include "base/clock.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

cf_visit *cf_visits_enter(cf_visits *visits, int fd)
{
    cf_visit *visit = calloc(1, sizeof *visit);
    if (visit == NULL)
        return NULL;
    visit->fd = fd;
    cf_visits_expect(visits, visit);
    pthread_mutex_lock(&visits->lock);
    visit->next = visits->first;
    if (visit->next != NULL)
        visit->next->previous = visit;
    visits->first = visit;
    pthread_mutex_unlock(&visits->lock);
    return visit;
}

void cf_visits_leave(cf_visits *visits, cf_visit *visit)
{
    if (visit == NULL)
        return;
    pthread_mutex_lock(&visits->lock);
    *(visit->previous != NULL ? &visit->previous->next : &visits->first) = visit->next;
    if (visit->next != NULL)
        visit->next->previous = visit->previous;
    pthread_mutex_unlock(&visits->lock);
    free(visit);
}

void cf_visits_expect(const cf_visits *visits, cf_visit *visit)
{
    if (visit != NULL)
        atomic_store(&visit->deadline_ns, cf_clock_ns() + visits->allowed_ns);
}

void cf_visits_answer(cf_visit *visit)
{
    if (visit != NULL)
        atomic_store(&visit->deadline_ns, 0);
}

/* The library may not have seen yet what it has read: only if that was so twice. */
static bool has_ended(cf_visit *visit, uint64_t deadline_ns)
{
    char byte;
    bool was_so = visit->ended_ns == deadline_ns;
    bool is_so = recv(visit->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
    visit->ended_ns = is_so ? deadline_ns : 0;
    return is_so && was_so;
}

void cf_visits_sweep(cf_visits *visits)
{
    uint64_t now = cf_clock_ns();
    pthread_mutex_lock(&visits->lock);
    for (cf_visit *visit = visits->first; visit != NULL; visit = visit->next) {
        uint64_t deadline_ns = atomic_load(&visit->deadline_ns);
        if (deadline_ns != 0 && (now >= deadline_ns || has_ended(visit, deadline_ns)))
            shutdown(visit->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&visits->lock);
}
