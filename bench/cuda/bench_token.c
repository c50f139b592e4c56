/*
 * The token kernel's speed on this GPU: milliseconds a token with random weights of a model's real
 * shape, beside the read ceiling that the same run measures, and where a layer's time goes.
 *
 *     bench_token [--launches] [MODEL [CONTEXT ...]]
 *
 * Prints CSV lines, and after '#' what is for people: the moments of a layer, in µs after its first
 * block knew that the residual is complete; mean, first and last block; and, but for --launches,
 * milliseconds a token of launches that choose their tokens, in several ways. It rests as long as
 * it works, so that the GPU's limit of power does not tell one way from another.
 */
#include "random_model.h"

#include "base/clock.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_WARM_UP = 5, N_TIMES = 60, N_IN_A_ROW = 100, N_DECODINGS = 8 };

/* Milliseconds of `n` launches in a row. */
static float time_launches(cf_backend_session *session, size_t pos, int n)
{
    cudaEvent_t begin, end;
    float milliseconds = 0;
    const cf_token token = 1234;
    cf_error error;
    bench_check_cuda(cudaEventCreate(&begin));
    bench_check_cuda(cudaEventCreate(&end));
    bench_check_cuda(cudaEventRecord(begin, session->stream));
    for (int i = 0; i < n; i++)
        bench_check(cf_cuda_launch(session, &token, 1, pos, true, false, &error), &error);
    bench_check_cuda(cudaEventRecord(end, session->stream));
    bench_check_cuda(cudaEventSynchronize(end));
    bench_check_cuda(cudaEventElapsedTime(&milliseconds, begin, end));
    bench_check_cuda(cudaEventDestroy(begin));
    bench_check_cuda(cudaEventDestroy(end));
    return milliseconds;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void time_context(cf_backend_session *session, const char *name, size_t context,
                         double ceiling)
{
    const cf_shape *shape = &session->model->neox->shape;
    double n_bytes = (double)cf_schedule_token_bytes(&session->model->schedule) +
                     4.0 * (double)context * shape->n_layers * shape->d_model;
    float times[N_TIMES];
    time_launches(session, context - 1, N_WARM_UP);
    for (int i = 0; i < N_TIMES; i++)
        times[i] = time_launches(session, context - 1, 1);
    double in_a_row = (double)time_launches(session, context - 1, N_IN_A_ROW) / N_IN_A_ROW;
    qsort(times, N_TIMES, sizeof *times, by_value);
    printf("%s,%zu,%.4f,%.4f,%.4f,%.0f,%.3f,%.1f\n", name, context, (double)times[N_TIMES / 2],
           (double)times[0], in_a_row, n_bytes, ceiling * 1e-12,
           100 * n_bytes / (in_a_row * 1e-3) / ceiling);
}

/* When an event happened in the blocks of a layer, in µs; summed up over layers. */
typedef struct moments {
    double mean, first, last;
} moments;

static void add_layer(const uint64_t *events, size_t n_blocks, int event, uint64_t zero,
                      double weight, moments *sum)
{
    double mean = 0, first = 1e30, last = -1e30, count = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        uint64_t moment = events[b * CF_N_TRACE_EVENTS + (size_t)event];
        double us = ((double)moment - (double)zero) * 1e-3;
        if (moment == 0) /* a block without a part in attention */
            continue;
        mean += us;
        count++;
        first = us < first ? us : first;
        last = us > last ? us : last;
    }
    sum->mean += weight * mean / count;
    sum->first += weight * first;
    sum->last += weight * last;
}

static uint64_t earliest(const uint64_t *events, size_t n_blocks, int event)
{
    uint64_t moment = UINT64_MAX;
    for (size_t b = 0; b < n_blocks; b++)
        if (events[b * CF_N_TRACE_EVENTS + (size_t)event] < moment)
            moment = events[b * CF_N_TRACE_EVENTS + (size_t)event];
    return moment;
}

/* Leaves out the first layers, which the launch disturbs, and the last. */
static void print_layers(const cf_schedule *schedule, const uint64_t *trace)
{
    static const char *names[CF_N_TRACE_EVENTS] = {
        "residual there", "residual read",    "norm ready", "tiles done", "attention begins",
        "attention done", "attention loaded", "ffn loaded", "published"};
    size_t n_blocks = (size_t)schedule->n_blocks, n_layers = (size_t)schedule->shape.n_layers;
    for (int e = 0; e < CF_N_TRACE_EVENTS; e++) {
        moments sum = {0};
        for (size_t layer = 2; layer + 1 < n_layers; layer++) {
            const uint64_t *events = trace + layer * n_blocks * CF_N_TRACE_EVENTS;
            uint64_t zero = earliest(events, n_blocks, CF_TRACE_RESIDUAL_THERE);
            add_layer(events, n_blocks, e, zero, 1 / (double)(n_layers - 3), &sum);
        }
        printf("# %-18s %7.2f us, from %7.2f to %7.2f\n", names[e], sum.mean, sum.first, sum.last);
    }
}

static void print_trace(cf_backend_session *session, size_t context)
{
    const cf_schedule *schedule = &session->model->schedule;
    size_t n =
        (size_t)(schedule->shape.n_layers + 1) * (size_t)schedule->n_blocks * CF_N_TRACE_EVENTS;
    uint64_t *device, *host = calloc(n, sizeof *host);
    bench_check_cuda(cudaMalloc((void **)&device, n * sizeof *device));
    bench_check_cuda(cudaMemset(device, 0, n * sizeof *device));
    session->args.step.trace = device;
    time_launches(session, context - 1, N_WARM_UP);
    session->args.step.trace = NULL;
    bench_check_cuda(cudaMemcpy(host, device, n * sizeof *host, cudaMemcpyDeviceToHost));
    print_layers(schedule, host);
    bench_check_cuda(cudaFree(device));
    free(host);
}

/* As long as it worked since the last time: after a second of work at a stretch the GPU reaches its
 * limit of power, and its clock gives way. What is compared should begin alike. */
static void rest(void)
{
    static uint64_t begin_ns;
    uint64_t n = begin_ns == 0 ? 0 : cf_clock_ns() - begin_ns;
    nanosleep(&(struct timespec){(time_t)(n / 1000000000), (long)(n % 1000000000)}, NULL);
    begin_ns = cf_clock_ns();
}

/* Milliseconds a token of launches that choose their tokens; the best of several. */
static void time_decoding(cf_backend_session *session, const char *name, size_t context,
                          const char *how, const cf_sampling *sampling)
{
    cf_error error;
    cf_decode decode = {.token = 1234, .pos = context - 1, .sampling = sampling};
    double best = 1e9;
    rest();
    decode.n = cf_cuda_backend.decode_limit(session, &decode);
    for (int run = 0; run < N_DECODINGS; run++) {
        cf_decoded decoded;
        bench_check(cf_cuda_backend.decode_begin(session, &decode, &error), &error);
        bench_check(cf_cuda_backend.decode_next(session, &decoded, &error), &error);
        uint64_t begin_ns = cf_clock_ns();
        for (size_t i = 1; i < decode.n; i++)
            bench_check(cf_cuda_backend.decode_next(session, &decoded, &error), &error);
        double ms = (double)(cf_clock_ns() - begin_ns) * 1e-6 / (double)(decode.n - 1);
        bench_check(cf_cuda_backend.decode_end(session, &error), &error);
        best = ms < best ? ms : best;
    }
    printf("# %s, from context %zu, %zu tokens a launch, %s: %.4f ms a token\n", name, context,
           decode.n, how, best);
}

/* As the engine would: every default filled in. */
static void time_samplings(cf_backend_session *session, const char *name, size_t context,
                           int32_t n_vocab)
{
    const cf_sampling off = {.top_k = n_vocab, .top_p = 1, .repetition_penalty = 1, .seed = 1};
    cf_sampling sampling = off;
    time_decoding(session, name, context, "greedy", &sampling);
    sampling.repetition_penalty = 1.1f;
    time_decoding(session, name, context, "greedy, repetition penalty 1.1", &sampling);
    sampling = off;
    sampling.temperature = 1;
    time_decoding(session, name, context, "temperature 1", &sampling);
    sampling.top_k = 50;
    time_decoding(session, name, context, "top_k 50", &sampling);
    sampling.top_p = 0.9f;
    time_decoding(session, name, context, "top_k 50, top_p 0.9", &sampling);
    sampling.top_k = n_vocab;
    time_decoding(session, name, context, "top_p 0.9", &sampling);
    sampling.temperature = 0.001f; /* as peaked as a real model's: few are kept */
    time_decoding(session, name, context, "top_p 0.9 of few", &sampling);
}

int main(int argc, char **argv)
{
    bench_model bench;
    cf_ceilings ceilings;
    cf_error error;
    bool launches_only = argc > 1 && strcmp(argv[1], "--launches") == 0;
    argc -= launches_only, argv += launches_only;
    bench_open(&bench, "bench_token", argc > 1 ? argv[1] : "2.8b");
    bench_check(cf_cuda_backend.measure(bench.model, 0, 0, &ceilings, &error), &error);
    printf(
        "model,context,ms_median,ms_best,ms_in_a_row,bytes,ceiling_tb_per_s,percent_of_ceiling\n");
    /* Launches first: drawing goes on for seconds. */
    for (int draws = 0; draws < (launches_only ? 1 : 2); draws++)
        for (int i = 2; i < (argc > 2 ? argc : 4); i++) {
            size_t context = argc > 2 ? bench_positions(argv[i]) : i == 2 ? 64 : BENCH_N_CONTEXT;
            if (draws == 0) {
                rest();
                time_context(bench.session, bench.name, context, ceilings.read_bytes_per_s);
                print_trace(bench.session, context);
            } else if (context + 300 < BENCH_N_CONTEXT) {
                time_samplings(bench.session, bench.name, context, bench.shape.n_vocab);
            }
        }
    bench_close(&bench);
    return 0;
}
