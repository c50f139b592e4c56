/*
 * The one thread that computes: it owns the sessions, takes jobs in turn, and gives each choice
 * that has a session one step a round.
 */
#ifndef CF_SERVE_WORKER_H
#define CF_SERVE_WORKER_H

#include "serve/job.h"
#include "serve/service.h"

typedef struct cf_worker cf_worker;

/*
 * Starts the thread and creates the service's n_slots sessions. At most n_slots + max_queue jobs
 * are unfinished at a time. Errors: as cf_session_create(), IO if there can be no thread.
 */
cf_status cf_worker_start(cf_service *service, const cf_session_options *options, size_t max_queue,
                          cf_worker **worker, cf_error *error);

/*
 * Refuses what has not begun, finishes what has in at most grace_ns, refuses the rest; then returns
 * with nothing running. Jobs that are finished still wait to be read and released.
 */
void cf_worker_stop(cf_worker *worker, uint64_t grace_ns);

/* After cf_worker_stop() and when all jobs are released; takes NULL. */
void cf_worker_free(cf_worker *worker);

/* Jobs that were submitted and not yet released. */
size_t cf_worker_n_jobs(cf_worker *worker);

/*
 * Hands a job over, which the caller then owns together with the worker. False and a fault (429,
 * 503) if it is not taken: it is still the caller's.
 */
bool cf_worker_submit(cf_worker *worker, cf_job *job, cf_fault *fault);

/* Tells the worker of the job's connection: its socket, and how to wake it. */
void cf_worker_watch(cf_worker *worker, cf_job *job, int fd, cf_job_wake_fn wake, void *user);

/* Called under the worker's lock, before anything can wake it: makes the connection wait. */
typedef void (*cf_worker_wait_fn)(void *user);

/* Whether the job is finished; if not, `wait` is called, and the job's `wake` when it is. */
bool cf_worker_poll(cf_worker *worker, cf_job *job, cf_worker_wait_fn wait, void *user);

/*
 * Takes up to `capacity` bytes of a stream. Returns their number; 0: there are none yet, `wait` was
 * called and the job's `wake` will be; -1: the stream has ended.
 */
ptrdiff_t cf_worker_read(cf_worker *worker, cf_job *job, char *data, size_t capacity,
                         cf_worker_wait_fn wait, void *user);

/* The connection is done with the job, which is cancelled if it is not finished. */
void cf_worker_release(cf_worker *worker, cf_job *job);

#endif
