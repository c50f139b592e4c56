/*
 * The CPU backend at the seam: prompts and decoding of a checkpoint beside the ceilings measured in
 * the same process. CSV to stdout: what, tokens, isa, threads, best and median tokens/s, and
 * percent of the ceiling that bounds it.
 */
#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "base/clock.h"
#include "checkpoint/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_CONTEXT 1024
#define MAX_TRIES 25

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

/* The least seconds that n tokens can take by the ceilings measured now. */
static double floor_seconds(const subject *it, size_t n, size_t n_step)
{
    cf_ceilings ceilings;
    cf_error error;
    must(cf_cpu_backend.measure(it->model, it->options.n_threads, n_step == 1 ? 0 : n_step,
                                &ceilings, &error),
         &error);
    double steps = (double)n / (double)n_step;
    double read_s = token_bytes(&it->checkpoint) / ceilings.read_bytes_per_s;
    fprintf(stderr, "read %.1f GB/s, products %.0f GFLOP/s\n", ceilings.read_bytes_per_s * 1e-9,
            ceilings.matmul_flop_per_s * 1e-9);
    return steps * (n_step == 1 ? read_s : ceilings.matmul_s);
}

static void report(subject *it, const char *what, size_t n, size_t n_step, int tries)
{
    double seconds[MAX_TRIES];
    evaluate(it, n, n_step);
    for (int i = 0; i < tries; i++)
        seconds[i] = evaluate(it, n, n_step);
    qsort(seconds, (size_t)tries, sizeof *seconds, compare);
    double least = floor_seconds(it, n, n_step);
    printf("%s,%zu,%s,%d,%.1f,%.1f,%.1f\n", what, n, it->isa, it->options.n_threads,
           (double)n / seconds[0], (double)n / seconds[tries / 2], 100 * least / seconds[0]);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    static subject it;
    if (count < 2 || count > 5) {
        fprintf(stderr, "usage: cpu_speed FOLDER [TRIES [THREADS [ISA 0-2]]]\n");
        return 2;
    }
    int tries = count > 2 ? atoi(arguments[2]) : 5;
    if (tries < 1 || tries > MAX_TRIES)
        tries = 5;
    open_subject(&it, arguments[1], count > 3 ? atoi(arguments[3]) : 0,
                 count > 4 ? (cf_isa)atoi(arguments[4]) : CF_ISA_AVX512);
    printf("what,tokens,isa,threads,best_tokens_per_s,median_tokens_per_s,percent_of_ceiling\n");
    report(&it, "prompt", 128, 128, tries);
    report(&it, "prompt", 512, 512, tries);
    report(&it, "decode", 64, 1, tries);
    report(&it, "decode", 128, 1, tries);
    close_subject(&it);
    return 0;
}
