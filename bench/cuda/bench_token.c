/*
 * The token kernel's speed on this GPU: milliseconds a token with random weights of a model's real
 * shape, beside the read ceiling that the same run measures, and where a layer's time goes.
 *
 *     bench_token [MODEL [CONTEXT ...]]
 *
 * Prints CSV lines, and after '#' what is for people: the moments of a layer, in µs after its first
 * block knew that the residual is complete; mean, first and last block; and milliseconds a token of
 * launches that choose their tokens, in several ways.
 */
#include "backend/cuda/host/cuda.h"
#include "base/clock.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_WARM_UP = 5, N_TIMES = 60, N_IN_A_ROW = 100, N_DECODINGS = 8, N_CONTEXT = 2048 };

static const struct {
    const char *name;
    int32_t n_layers, d_model, n_heads, n_vocab;
} models[] = {
    {"14m", 6, 128, 4, 50304},     {"31m", 6, 256, 8, 50304},     {"70m", 6, 512, 8, 50304},
    {"160m", 12, 768, 12, 50304},  {"410m", 24, 1024, 16, 50304}, {"1b", 16, 2048, 8, 50304},
    {"1.4b", 24, 2048, 16, 50304}, {"2.8b", 32, 2560, 32, 50304}, {"6.9b", 32, 4096, 32, 50432},
    {"12b", 36, 5120, 40, 50688},
};

enum { N_MODELS = sizeof models / sizeof *models };

static void check(cf_status status, const cf_error *error)
{
    if (status == CF_STATUS_OK)
        return;
    fprintf(stderr, "bench_token: %s\n", error->message);
    exit(1);
}

static void check_cuda(cudaError_t code)
{
    cf_error error;
    if (code != cudaSuccess)
        check(cf_cuda_fail(&error, code, "bench"), &error);
}

static cf_shape shape_of(const char *name)
{
    for (int i = 0; i < N_MODELS; i++)
        if (strcmp(name, models[i].name) == 0)
            return (cf_shape){.n_layers = models[i].n_layers,
                              .d_model = models[i].d_model,
                              .n_heads = models[i].n_heads,
                              .d_head = models[i].d_model / models[i].n_heads,
                              .d_rotary = models[i].d_model / models[i].n_heads / 8 * 2,
                              .d_ffn = 4 * models[i].d_model,
                              .n_vocab = models[i].n_vocab,
                              .n_context = N_CONTEXT,
                              .rope_theta = 10000,
                              .layer_norm_eps = 1e-5f,
                              .parallel_residual = true,
                              .attention_bias = true};
    fprintf(stderr, "bench_token: no model %s\n", name);
    exit(1);
}

/* Random numbers of 2^-6 to 2^-5 and either sign, that tensors are cut out of. */
#define POOL_HALVES ((size_t)1 << 24)
static uint16_t pool[POOL_HALVES];

static void fill_pool(void)
{
    uint64_t state = 1;
    for (size_t i = 0; i < POOL_HALVES; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        pool[i] = (uint16_t)(9u << 10 | (state >> 48 & 0x83FFu));
    }
}

/* A tensor on the GPU, each cut out of the pool from another place on. */
static const void *random_tensor(size_t n_bytes)
{
    static size_t place;
    char *memory;
    check_cuda(cudaMalloc((void **)&memory, n_bytes));
    for (size_t done = 0, n; done < n_bytes; done += n) {
        place = (place + 999983) % (POOL_HALVES / 2) / 8 * 8;
        n = n_bytes - done < POOL_HALVES ? n_bytes - done : POOL_HALVES;
        check_cuda(cudaMemcpy(memory + done, pool + place, n, cudaMemcpyHostToDevice));
    }
    return memory;
}

static void add_tensor(cf_tensor *tensor, const char *prefix, const char *name, int64_t rows,
                       int64_t columns)
{
    char *full = malloc(96);
    snprintf(full, 96, "%s%s", prefix, name);
    *tensor = (cf_tensor){.name = full,
                          .dtype = CF_DTYPE_F16,
                          .n_dims = columns > 0 ? 2 : 1,
                          .dims = {rows, columns > 0 ? columns : 1}};
    tensor->data = random_tensor(2 * (size_t)(tensor->dims[0] * tensor->dims[1]));
}

/* A model whose tensors lie on the GPU and are used in place. */
static void make_model(const cf_shape *shape, cf_neox *neox)
{
    size_t n = 0;
    int64_t D = shape->d_model, F = shape->d_ffn, V = shape->n_vocab;
    cf_tensor *tensors = calloc((size_t)shape->n_layers * 12 + 4, sizeof *tensors);
    cf_error error;
#define ADD(field, name, rows, columns, needs)                                                     \
    add_tensor(&tensors[n++], prefix, name, rows, columns);
    for (int32_t layer = 0; layer < shape->n_layers; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "layers.%d.", layer);
        CF_NEOX_LAYER_TENSORS(ADD)
    }
    const char *prefix = "";
    CF_NEOX_OUTER_TENSORS(ADD)
    check(cf_neox_bind(shape, tensors, n, neox, &error), &error);
}

/* Milliseconds of `n` launches in a row. */
static float time_launches(cf_backend_session *session, size_t pos, int n)
{
    cudaEvent_t begin, end;
    float milliseconds = 0;
    const cf_token token = 1234;
    cf_error error;
    check_cuda(cudaEventCreate(&begin));
    check_cuda(cudaEventCreate(&end));
    check_cuda(cudaEventRecord(begin, session->stream));
    for (int i = 0; i < n; i++)
        check(cf_cuda_launch(session, &token, 1, pos, true, false, &error), &error);
    check_cuda(cudaEventRecord(end, session->stream));
    check_cuda(cudaEventSynchronize(end));
    check_cuda(cudaEventElapsedTime(&milliseconds, begin, end));
    check_cuda(cudaEventDestroy(begin));
    check_cuda(cudaEventDestroy(end));
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
    check_cuda(cudaMalloc((void **)&device, n * sizeof *device));
    check_cuda(cudaMemset(device, 0, n * sizeof *device));
    session->args.step.trace = device;
    time_launches(session, context - 1, N_WARM_UP);
    session->args.step.trace = NULL;
    check_cuda(cudaMemcpy(host, device, n * sizeof *host, cudaMemcpyDeviceToHost));
    print_layers(schedule, host);
    check_cuda(cudaFree(device));
    free(host);
}

/* Milliseconds a token of launches that choose their tokens; the best of several. */
static void time_decoding(cf_backend_session *session, const char *name, size_t context,
                          const char *how, const cf_sampling *sampling)
{
    cf_error error;
    cf_decode decode = {.token = 1234, .pos = context - 1, .sampling = sampling};
    double best = 1e9;
    decode.n = cf_cuda_backend.decode_limit(session, &decode);
    for (int run = 0; run < N_DECODINGS; run++) {
        cf_decoded decoded;
        check(cf_cuda_backend.decode_begin(session, &decode, &error), &error);
        check(cf_cuda_backend.decode_next(session, &decoded, &error), &error);
        uint64_t begin_ns = cf_clock_ns();
        for (size_t i = 1; i < decode.n; i++)
            check(cf_cuda_backend.decode_next(session, &decoded, &error), &error);
        double ms = (double)(cf_clock_ns() - begin_ns) * 1e-6 / (double)(decode.n - 1);
        check(cf_cuda_backend.decode_end(session, &error), &error);
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
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "2.8b", *text;
    cf_shape shape = shape_of(name);
    cf_model_options model_options = {.size = sizeof model_options};
    cf_backend_options options = {.n_context = N_CONTEXT};
    cf_backend_model *model;
    cf_backend_session *session;
    cf_ceilings ceilings;
    cf_neox neox;
    cf_error error;
    fill_pool();
    make_model(&shape, &neox);
    check(cf_cuda_backend.model_create(&neox, &model_options, &model, &text, &error), &error);
    cf_cuda_backend.session_defaults(model, &options);
    check(cf_cuda_backend.session_create(model, &options, &session, &error), &error);
    check(cf_cuda_backend.measure(model, 0, 0, &ceilings, &error), &error);
    printf("# %s\n", text);
    printf(
        "model,context,ms_median,ms_best,ms_in_a_row,bytes,ceiling_tb_per_s,percent_of_ceiling\n");
    for (int i = 2; i < (argc > 2 ? argc : 4); i++) {
        size_t context = argc > 2 ? (size_t)atoi(argv[i]) : i == 2 ? 64 : N_CONTEXT;
        time_context(session, name, context, ceilings.read_bytes_per_s);
        print_trace(session, context);
        if (context + 300 < N_CONTEXT)
            time_samplings(session, name, context, shape.n_vocab);
    }
    cf_cuda_backend.session_free(session);
    cf_cuda_backend.model_free(model);
    return 0;
}
