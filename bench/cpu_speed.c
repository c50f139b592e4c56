/*
 * The CPU backend at the seam: prompts and decoding of a checkpoint, each try between two
 * measurements of what bounds it, since a machine's speed drifts. CSV to stdout: what, tokens, isa,
 * threads, best and median tokens/s, the median percent of the better ceiling of the two, and for
 * decoding the median percent of reading the mapped weights, once through, and doing nothing else.
 */
#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "checkpoint/checkpoint.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_CONTEXT 1024
#define MAX_TRIES 25

static volatile uint64_t sink; /* where sums go, so that no compiler leaves them out */

/* An open checkpoint and a session of it. */
typedef struct subject {
    cf_checkpoint checkpoint;
    cf_neox neox;
    cf_backend_model *model;
    cf_backend_options options;
    cf_backend_session *session;
    const char *isa;
    cf_token ids[N_CONTEXT];
    float *logits; /* [n_vocab] */
} subject;

static void must(cf_status status, const cf_error *error)
{
    if (status == CF_STATUS_OK)
        return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static void open_subject(subject *it, const char *folder, int32_t n_threads, cf_isa isa)
{
    cf_error error;
    const char *text;
    must(cf_checkpoint_open(folder, &it->checkpoint, &error), &error);
    must(cf_neox_bind(&it->checkpoint.shape, it->checkpoint.tensors, it->checkpoint.n_tensors,
                      &it->neox, &error),
         &error);
    must(cf_cpu_backend.model_create(&it->neox, NULL, &it->model, &text, &error), &error);
    it->options = (cf_backend_options){.n_context = N_CONTEXT, .n_threads = n_threads};
    cf_cpu_backend.session_defaults(it->model, &it->options);
    must(cf_cpu_backend.session_create(it->model, &it->options, &it->session, &error), &error);
    if (cf_kernels_get(isa) == NULL)
        must(CF_STATUS_UNSUPPORTED, &(cf_error){.message = "these kernels do not run here"});
    cf_cpu_force_kernels(it->session, cf_kernels_get(isa));
    it->isa = cf_kernels_get(isa)->name;
    for (size_t i = 0; i < N_CONTEXT; i++)
        it->ids[i] = (cf_token)(i * 7919 % (size_t)it->neox.shape.n_vocab);
    it->logits = calloc((size_t)it->neox.shape.n_vocab, sizeof(float));
    if (it->logits == NULL)
        exit(1);
}

static void close_subject(subject *it)
{
    cf_cpu_backend.session_free(it->session);
    cf_cpu_backend.model_free(it->model);
    cf_neox_unbind(&it->neox);
    cf_checkpoint_close(&it->checkpoint);
    free(it->logits);
}

/* Seconds to evaluate n tokens from the session's beginning, `n_step` at a time. */
static double evaluate(subject *it, size_t n, size_t n_step)
{
    cf_error error;
    uint64_t start = cf_clock_ns();
    for (size_t pos = 0; pos < n; pos += n_step) {
        cf_step step = {.ids = it->ids + pos,
                        .n = n - pos < n_step ? n - pos : n_step,
                        .pos = pos,
                        .logits = it->logits,
                        .n_logits = 1};
        must(cf_cpu_backend.step(it->session, &step, &error), &error);
    }
    return (double)(cf_clock_ns() - start) * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Bytes of weights that a decoded token reads. */
static double token_bytes(const cf_checkpoint *checkpoint)
{
    double total = 0;
    for (size_t i = 0; i < checkpoint->n_tensors; i++) {
        const cf_tensor *tensor = &checkpoint->tensors[i];
        if (strstr(tensor->name, "embed_in") == NULL || checkpoint->shape.tied_embeddings)
            total += (double)tensor->dims[0] * (double)tensor->dims[1] *
                     (double)cf_dtype_bytes(tensor->dtype);
    }
    return total;
}

/* The least seconds that a step of n tokens can take by the ceiling measured now. */
static double floor_seconds(const subject *it, size_t n)
{
    cf_ceilings ceilings;
    cf_error error;
    must(
        cf_cpu_backend.measure(it->model, it->options.n_threads, n == 1 ? 0 : n, &ceilings, &error),
        &error);
    return n == 1 ? token_bytes(&it->checkpoint) / ceilings.read_bytes_per_s : ceilings.matmul_s;
}

/* Seconds to read the matrices where they lie, in the order of the file. */
static double read_weights(const subject *it)
{
    const cf_kernels *kernels = cf_kernels_best();
    uint64_t start = cf_clock_ns(), total = 0;
#pragma omp parallel num_threads(it->options.n_threads) reduction(+ : total)
    {
        size_t index = (size_t)omp_get_thread_num(), count = (size_t)omp_get_num_threads();
        for (size_t i = 0; i < it->checkpoint.n_tensors; i++) {
            const cf_tensor *tensor = &it->checkpoint.tensors[i];
            if (tensor->n_dims != 2 || strstr(tensor->name, "embed_in") != NULL)
                continue;
            size_t n_bytes =
                (size_t)(tensor->dims[0] * tensor->dims[1]) * cf_dtype_bytes(tensor->dtype);
            size_t share = n_bytes / count / 4096 * 4096;
            total += kernels->read((const char *)tensor->data + index * share, share);
        }
    }
    sink = total;
    return (double)(cf_clock_ns() - start) * 1e-9;
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return values[n / 2];
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static void report(subject *it, const char *what, size_t n, size_t n_step, int tries)
{
    double seconds[MAX_TRIES], of_ceiling[MAX_TRIES], of_weights[MAX_TRIES];
    double steps = (double)n / (double)n_step, before = floor_seconds(it, n_step);
    evaluate(it, n, n_step);
    for (int i = 0; i < tries; i++) {
        double weights = smaller(read_weights(it), read_weights(it));
        seconds[i] = evaluate(it, n, n_step);
        weights = smaller(weights, smaller(read_weights(it), read_weights(it)));
        double after = floor_seconds(it, n_step);
        of_ceiling[i] = 100 * steps * smaller(before, after) / seconds[i];
        of_weights[i] = 100 * steps * weights / seconds[i];
        before = after;
    }
    double middle = median(seconds, tries);
    printf("%s,%zu,%s,%d,%.1f,%.1f,%.1f,", what, n, it->isa, it->options.n_threads,
           (double)n / seconds[0], (double)n / middle, median(of_ceiling, tries));
    if (n_step == 1)
        printf("%.1f", median(of_weights, tries));
    printf("\n");
    fflush(stdout);
}

int main(int count, char **arguments)
{
    static subject it;
    if (count < 2 || count > 5) {
        fprintf(stderr, "usage: cpu_speed FOLDER [TRIES [THREADS [ISA 0-4]]]\n");
        return 2;
    }
    int tries = count > 2 ? atoi(arguments[2]) : 5;
    if (tries < 1 || tries > MAX_TRIES)
        tries = 5;
    open_subject(&it, arguments[1], count > 3 ? atoi(arguments[3]) : 0,
                 count > 4 ? (cf_isa)atoi(arguments[4]) : cf_isa_best());
    printf("what,tokens,isa,threads,best_tokens_per_s,median_tokens_per_s,percent_of_ceiling,"
           "percent_of_reading_weights\n");
    report(&it, "prompt", 128, 128, tries);
    report(&it, "prompt", 512, 512, tries);
    report(&it, "decode", 64, 1, tries);
    report(&it, "decode", 128, 1, tries);
    close_subject(&it);
    return 0;
}
