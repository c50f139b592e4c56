#include "serve/worker.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "serve/response.h"
#include "serve/task.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>

/* How often clients are looked after that wait for an answer. */
#define SWEEP_NS 20000000u

/*
 * How long a stream's events may wait for more while others are computed too. To wake a connection
 * costs a tenth of a small model's token; a reader does not see so short a time.
 */
#define GATHER_NS 5000000u

typedef struct slot {
    cf_session *session; /* NULL: it died and could not be made again */
    cf_task task;        /* task.job NULL: idle */
    cf_sink output;      /* of the task's stream, not handed over yet */
    bool must_end;       /* nobody waits for the task any more */
    uint64_t used_ns;    /* when its last task ended */
} slot;

struct cf_worker {
    cf_service *service;
    cf_session_options options;
    size_t max_jobs;

    /* The thread's own. */
    slot *slots;             /* [service->n_slots] */
    size_t n_running;        /* of them */
    uint64_t handed_over_ns; /* when streams were last given their events */
    pthread_t thread;

    pthread_mutex_t lock; /* guards what follows and the marked part of each job */
    pthread_cond_t changed;
    cf_job *first, *last; /* unfinished jobs, the next to be served first */
    size_t n_unfinished, n_unreleased;
    struct pollfd *fds; /* [max_jobs] */
    uint64_t swept_ns;
    bool is_stopping;
    uint64_t deadline_ns; /* when is_stopping */
};

/* ---- The list of jobs; under the lock ---- */

static void unlink_job(cf_worker *worker, cf_job *job)
{
    *(job->previous != NULL ? &job->previous->next : &worker->first) = job->next;
    *(job->next != NULL ? &job->next->previous : &worker->last) = job->previous;
    job->previous = job->next = NULL;
}

static void append_job(cf_worker *worker, cf_job *job)
{
    job->previous = worker->last;
    job->next = NULL;
    *(worker->last != NULL ? &worker->last->next : &worker->first) = job;
    worker->last = job;
}

static void wake_waiter(cf_job *job)
{
    if (job->is_waiting) {
        job->is_waiting = false;
        job->wake(job->wake_user);
    }
}

static bool drop_owner(cf_job *job)
{
    return --job->n_owners == 0;
}

static bool has_failed(const cf_job *job)
{
    return job->is_gone || job->fault.http != 0;
}

/* Lets go of a job of which nothing runs. */
static void finish_job(cf_worker *worker, cf_job *job)
{
    cf_metrics *metrics = &worker->service->metrics;
    unlink_job(worker, job);
    worker->n_unfinished--;
    job->is_finished = true;
    if (job->request.stream && !job->is_gone)
        cf_response_end(job, &job->output);
    if (job->n_begun == 0)
        atomic_fetch_sub(&metrics->waiting, 1);
    atomic_fetch_add(&metrics->reused_tokens, job->n_reused);
    if (job->is_gone)
        atomic_fetch_add(&metrics->cancelled, 1);
    else
        cf_histogram_add(&metrics->request, cf_clock_ns() - job->arrived_ns);
    wake_waiter(job);
    if (drop_owner(job))
        cf_job_free(job);
}

/* Jobs that failed and of which nothing runs any more. */
static void finish_failed(cf_worker *worker)
{
    for (cf_job *job = worker->first, *next; job != NULL; job = next) {
        next = job->next;
        if (has_failed(job) && job->n_running == 0)
            finish_job(worker, job);
    }
}

/* ---- Clients that went away ---- */

/* Under the lock, which keeps a socket's number from being given to another connection. */
static void sweep(cf_worker *worker)
{
    uint64_t now = cf_clock_ns();
    if (now - worker->swept_ns < SWEEP_NS)
        return;
    worker->swept_ns = now;
    nfds_t n = 0;
    for (const cf_job *job = worker->first; job != NULL; job = job->next)
        worker->fds[n++] = (struct pollfd){.fd = job->fd, .events = POLLRDHUP};
    if (n == 0 || poll(worker->fds, n, 0) <= 0)
        return;
    n = 0;
    for (cf_job *job = worker->first; job != NULL; job = job->next, n++)
        job->is_gone = job->is_gone || worker->fds[n].revents != 0;
}

/* ---- Stopping; under the lock ---- */

static void refuse_jobs(cf_worker *worker)
{
    bool is_late = cf_clock_ns() >= worker->deadline_ns;
    for (cf_job *job = worker->first; job != NULL; job = job->next) {
        if (job->fault.http == 0 && (job->n_begun == 0 || is_late))
            cf_fault_set(&job->fault, 503, NULL, "shutting_down", "the server is shutting down");
    }
}

/* ---- Giving choices to sessions; under the lock ---- */

static size_t common_tokens(const cf_session *session, const cf_prompt *prompt)
{
    const cf_token *held = cf_session_tokens(session);
    size_t n = cf_session_n_tokens(session), i = 0;
    n = n < prompt->n_ids ? n : prompt->n_ids;
    while (i < n && held[i] == prompt->ids[i])
        i++;
    return i;
}

/* The idle session that holds most of the prompt's beginning; of equals the one unused longest. */
static slot *find_slot(cf_worker *worker, const cf_prompt *prompt)
{
    slot *best = NULL;
    size_t n_best = 0;
    for (size_t i = 0; i < worker->service->n_slots; i++) {
        slot *candidate = &worker->slots[i];
        if (candidate->task.job != NULL)
            continue;
        size_t n = candidate->session != NULL && prompt != NULL
                       ? common_tokens(candidate->session, prompt)
                       : 0;
        if (best == NULL || n > n_best || (n == n_best && candidate->used_ns < best->used_ns)) {
            best = candidate;
            n_best = n;
        }
    }
    return best;
}

static cf_job *find_job(const cf_worker *worker)
{
    for (cf_job *job = worker->first; job != NULL; job = job->next) {
        if (job->n_begun < job->n_choices && !has_failed(job))
            return job;
    }
    return NULL;
}

/* Whoever got a session goes to the end of the line, whatever else is left of it. */
static void fill_slots(cf_worker *worker)
{
    cf_metrics *metrics = &worker->service->metrics;
    cf_job *job;
    while (find_slot(worker, NULL) != NULL && (job = find_job(worker)) != NULL) {
        if (job->n_begun == 0)
            atomic_fetch_sub(&metrics->waiting, 1);
        atomic_fetch_add(&metrics->running, 1);
        cf_choice *choice = &job->choices[job->n_begun++];
        job->n_running++;
        slot *chosen = find_slot(worker, &job->request.prompts[choice->prompt]);
        chosen->task = (cf_task){.job = job, .choice = choice};
        unlink_job(worker, job);
        append_job(worker, job);
    }
}

static void mark_slots(cf_worker *worker)
{
    worker->n_running = 0;
    for (size_t i = 0; i < worker->service->n_slots; i++) {
        slot *one = &worker->slots[i];
        if (one->task.job == NULL)
            continue;
        one->must_end = has_failed(one->task.job);
        worker->n_running++;
    }
}

/* Waits until there is something to compute; false: never again. */
static bool begin_round(cf_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    for (;;) {
        sweep(worker);
        if (worker->is_stopping)
            refuse_jobs(worker);
        finish_failed(worker);
        fill_slots(worker);
        mark_slots(worker);
        if (worker->n_running > 0 || worker->is_stopping)
            break;
        pthread_cond_wait(&worker->changed, &worker->lock);
    }
    pthread_mutex_unlock(&worker->lock);
    return worker->n_running > 0;
}

/* ---- Streams ---- */

/* Under the lock: what the slot has for its job's stream. */
static void hand_over(slot *one, cf_job *job)
{
    if (one->output.n == 0)
        return;
    cf_sink_append(&job->output, one->output.data, one->output.n);
    one->output.n = 0;
    wake_waiter(job);
}

static void hand_over_all(cf_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    for (size_t i = 0; i < worker->service->n_slots; i++)
        hand_over(&worker->slots[i], worker->slots[i].task.job);
    pthread_mutex_unlock(&worker->lock);
    worker->handed_over_ns = cf_clock_ns();
}

/*
 * Before and after a step of `one`: a prompt's may take long, and who waits for a first token, or
 * is alone, gets it at once.
 */
static void hand_over_in_time(cf_worker *worker, const slot *one)
{
    bool may_gather = worker->n_running > 1 && one->task.choice->n_tokens > 1 &&
                      cf_clock_ns() - worker->handed_over_ns < GATHER_NS;
    if (!may_gather)
        hand_over_all(worker);
}

/* ---- Steps ---- */

static void end_task(cf_worker *worker, slot *one, const cf_fault *fault)
{
    cf_job *job = one->task.job;
    cf_task_close(&one->task);
    one->used_ns = cf_clock_ns();
    atomic_fetch_sub(&worker->service->metrics.running, 1);
    pthread_mutex_lock(&worker->lock);
    hand_over(one, job);
    job->n_running--;
    job->n_done++;
    if (fault->http != 0 && job->fault.http == 0)
        job->fault = *fault;
    if (job->n_running == 0 && (job->n_done == job->n_choices || has_failed(job)))
        finish_job(worker, job);
    pthread_mutex_unlock(&worker->lock);
    cf_sink_free(&one->output);
}

/* A session whose device failed is made anew. */
static bool renew_session(cf_worker *worker, slot *one, cf_fault *fault)
{
    cf_error error;
    if (one->session != NULL)
        return true;
    return cf_session_create(worker->service->model, &worker->options, &one->session, &error) ==
               CF_STATUS_OK ||
           cf_fault_from_error(fault, &error);
}

static void step(cf_worker *worker, slot *one)
{
    cf_fault fault = {0};
    if (one->must_end) {
        end_task(worker, one, &fault);
        return;
    }
    bool is_dead = false;
    hand_over_in_time(worker, one);
    bool is_fine =
        renew_session(worker, one, &fault) &&
        cf_task_step(&one->task, worker->service, one->session, &one->output, &fault, &is_dead);
    if (!is_fine || one->task.stage == CF_TASK_END)
        end_task(worker, one, &fault);
    else
        hand_over_in_time(worker, one);
    if (is_dead) {
        cf_session_free(one->session);
        one->session = NULL;
    }
}

static void *run(void *user)
{
    cf_worker *worker = user;
    while (begin_round(worker)) {
        for (size_t i = 0; i < worker->service->n_slots; i++) {
            if (worker->slots[i].task.job != NULL)
                step(worker, &worker->slots[i]);
        }
    }
    return NULL;
}

/* ---- Starting and stopping ---- */

static cf_status create_slots(cf_worker *worker, cf_error *error)
{
    CF_TRY(CF_ALLOC(&worker->slots, worker->service->n_slots, "sessions", error));
    CF_TRY(CF_ALLOC(&worker->fds, worker->max_jobs, "queue", error));
    for (size_t i = 0; i < worker->service->n_slots; i++)
        CF_TRY(cf_session_create(worker->service->model, &worker->options,
                                 &worker->slots[i].session, error));
    return CF_STATUS_OK;
}

cf_status cf_worker_start(cf_service *service, const cf_session_options *options, size_t max_queue,
                          cf_worker **worker, cf_error *error)
{
    CF_TRY(CF_ALLOC(worker, 1, "worker", error));
    cf_worker *self = *worker;
    self->service = service;
    self->options = *options;
    self->max_jobs = service->n_slots + max_queue;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->changed, NULL);
    cf_status status = create_slots(self, error);
    int fault = status == CF_STATUS_OK ? pthread_create(&self->thread, NULL, run, self) : 0;
    if (fault != 0)
        status = cf_fail(error, CF_STATUS_IO, "starting a thread: %s", strerror(fault));
    if (status != CF_STATUS_OK) {
        cf_worker_free(self);
        *worker = NULL;
    }
    return status;
}

void cf_worker_stop(cf_worker *worker, uint64_t grace_ns)
{
    pthread_mutex_lock(&worker->lock);
    worker->is_stopping = true;
    worker->deadline_ns = cf_clock_ns() + grace_ns;
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
}

void cf_worker_free(cf_worker *worker)
{
    if (worker == NULL)
        return;
    for (size_t i = 0; worker->slots != NULL && i < worker->service->n_slots; i++)
        cf_session_free(worker->slots[i].session);
    cf_dealloc(worker->slots);
    cf_dealloc(worker->fds);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    cf_dealloc(worker);
}

/* ---- For the connections ---- */

size_t cf_worker_n_jobs(cf_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    size_t n = worker->n_unreleased;
    pthread_mutex_unlock(&worker->lock);
    return n;
}

bool cf_worker_submit(cf_worker *worker, cf_job *job, cf_fault *fault)
{
    cf_metrics *metrics = &worker->service->metrics;
    pthread_mutex_lock(&worker->lock);
    bool is_full = worker->n_unfinished >= worker->max_jobs;
    bool is_taken = !is_full && !worker->is_stopping;
    if (is_taken) {
        job->n_owners++;
        worker->n_unfinished++;
        worker->n_unreleased++;
        append_job(worker, job);
        atomic_fetch_add(&metrics->waiting, 1);
        atomic_fetch_add(&metrics->prompt_tokens, job->n_prompt_tokens);
        pthread_cond_signal(&worker->changed);
    } else if (worker->is_stopping) {
        cf_fault_set(fault, 503, NULL, "shutting_down", "the server is shutting down");
    } else {
        atomic_fetch_add(&metrics->refused, 1);
        cf_fault_set(fault, 429, NULL, "queue_full", "%zu requests are in the queue, try later",
                     worker->n_unfinished);
    }
    pthread_mutex_unlock(&worker->lock);
    return is_taken;
}

void cf_worker_watch(cf_worker *worker, cf_job *job, int fd, cf_job_wake_fn wake, void *user)
{
    pthread_mutex_lock(&worker->lock);
    job->fd = fd;
    job->wake = wake;
    job->wake_user = user;
    pthread_mutex_unlock(&worker->lock);
}

static void wait_for(cf_job *job, cf_worker_wait_fn wait, void *user)
{
    job->is_waiting = true;
    wait(user);
}

bool cf_worker_poll(cf_worker *worker, cf_job *job, cf_worker_wait_fn wait, void *user)
{
    pthread_mutex_lock(&worker->lock);
    bool is_finished = job->is_finished;
    if (!is_finished)
        wait_for(job, wait, user);
    pthread_mutex_unlock(&worker->lock);
    return is_finished;
}

ptrdiff_t cf_worker_read(cf_worker *worker, cf_job *job, char *data, size_t capacity,
                         cf_worker_wait_fn wait, void *user)
{
    pthread_mutex_lock(&worker->lock);
    size_t n = job->output.n - job->n_sent;
    n = n < capacity ? n : capacity;
    ptrdiff_t result = (ptrdiff_t)n;
    if (n > 0) {
        memcpy(data, job->output.data + job->n_sent, n);
        job->n_sent += n;
        if (job->n_sent == job->output.n)
            job->n_sent = job->output.n = 0;
    } else if (job->is_finished) {
        result = -1;
    } else {
        wait_for(job, wait, user);
    }
    pthread_mutex_unlock(&worker->lock);
    return result;
}

void cf_worker_release(cf_worker *worker, cf_job *job)
{
    pthread_mutex_lock(&worker->lock);
    worker->n_unreleased--;
    job->is_gone = job->is_gone || !job->is_finished;
    job->is_waiting = false;
    job->fd = -1;
    bool is_last = drop_owner(job);
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
    if (is_last)
        cf_job_free(job);
}
