/*
 * The speed of prompts on this GPU: milliseconds of a step of many tokens with random weights of a
 * model's real shape, the last token's logits on the host included, beside the time of the same
 * matrix products alone, one after the other; and what the kernels between them take. Steps in a
 * row heat the GPU up to its limit of power, which slows its clock; steps apart from each other, as
 * prompts that arrive one by one, are measured too.
 *
 *     bench_prompt [MODEL [TOKENS ...]]
 *
 * Prints CSV lines, and after '#' what is for people.
 */
#include "random_model.h"

#include "backend/cuda/kernel/prompt.h"
#include "base/clock.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_WARM_UP = 3, N_TIMES = 50 };

/* Between steps apart from each other. */
#define PAUSE_NS 40000000

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef void (*timed)(cf_backend_session *session, size_t n);

/* Milliseconds of the host's clock from the call until all is done, after a pause: the median, and
 * the best. */
static double time_apart(cf_backend_session *session, size_t n, timed call, long pause_ns,
                         double *best)
{
    const struct timespec pause = {.tv_nsec = pause_ns};
    double times[N_TIMES];
    for (int i = -N_WARM_UP; i < N_TIMES; i++) {
        bench_check_cuda(cudaDeviceSynchronize());
        if (pause_ns > 0)
            nanosleep(&pause, NULL);
        uint64_t begin = cf_clock_ns();
        call(session, n);
        bench_check_cuda(cudaDeviceSynchronize());
        if (i >= 0)
            times[i] = (double)(cf_clock_ns() - begin) * 1e-6;
    }
    qsort(times, N_TIMES, sizeof *times, by_value);
    *best = times[0];
    return times[N_TIMES / 2];
}

/* One after the other. */
static double time_host(cf_backend_session *session, size_t n, timed call, double *best)
{
    return time_apart(session, n, call, 0, best);
}

static void step(cf_backend_session *session, size_t n)
{
    static float *logits;
    static cf_token ids[BENCH_N_CONTEXT];
    cf_error error;
    if (logits == NULL)
        logits = malloc(sizeof *logits * (size_t)session->model->neox->shape.n_vocab);
    for (size_t i = 0; i < n; i++)
        ids[i] = (cf_token)(i * 7919 % 50000);
    cf_step step = {.ids = ids, .n = n, .logits = logits, .n_logits = 1};
    bench_check(cf_prompt_step(session, &step, &error), &error);
}

/* The same through the token kernel. */
static void token_kernel(cf_backend_session *session, size_t n)
{
    cf_error error;
    cf_token ids[CF_MAX_LAUNCH] = {1, 2, 3, 5, 8, 13, 21, 34};
    bench_check(cf_cuda_launch(session, ids, n, 0, true, false, &error), &error);
}

/* The products of all layers, the last one's of all tokens too, and the head, one after the other,
 * with nothing between them. */
static void products(cf_backend_session *session, size_t n)
{
    const cf_shape *shape = &session->model->neox->shape;
    cf_prompt *prompt = session->prompt;
    cf_error error;
    int32_t d = shape->d_model, f = shape->d_ffn, rows = (int32_t)cf_prompt_rows(n);
    for (int32_t i = 0; i <= shape->n_layers; i++) {
        const void *const *m = session->model->token.layers[i % shape->n_layers].matrices;
        cf_product layer[] = {
            {m[CF_MATRIX_QKV], prompt->normed[0], prompt->qkv, rows, 3 * d, d, false, false},
            {m[CF_MATRIX_UP], prompt->normed[1], prompt->ffn, rows, f, d, false, false},
            {m[CF_MATRIX_DOWN], prompt->ffn, prompt->residual, rows, d, f, true, true},
            {m[CF_MATRIX_DENSE], prompt->normed[0], prompt->mixed, rows, d, d, true, false},
            {session->model->token.head, prompt->normed[0], prompt->logits[0], 16, shape->n_vocab,
             d, true, false}};
        bool is_head = i == shape->n_layers;
        for (int p = is_head ? 4 : 0; p < (is_head ? 5 : 4); p++)
            bench_check(cf_product_launch(&prompt->plans, &layer[p], prompt->workspaces[0],
                                          session->stream, &error),
                        &error);
    }
}

static cudaError_t attend(const cf_prompt_attention *args, int32_t d_head,
                          const cf_gpu_limits *limits, cudaStream_t stream)
{
    return d_head == 32    ? cf_prompt_attend_32(args, limits, stream)
           : d_head == 64  ? cf_prompt_attend_64(args, limits, stream)
           : d_head == 80  ? cf_prompt_attend_80(args, limits, stream)
           : d_head == 128 ? cf_prompt_attend_128(args, limits, stream)
                           : cf_prompt_attend_256(args, limits, stream);
}

/* One of a layer's kernels, in every layer. */
static void kernels(cf_backend_session *session, size_t n, int which)
{
    const cf_backend_model *model = session->model;
    const cf_shape *shape = &model->neox->shape;
    const cf_token_session *cache = &session->args.session;
    cf_prompt *prompt = session->prompt;
    int32_t count = (int32_t)cf_prompt_rows(n);
    for (int32_t i = 0; i < shape->n_layers; i++) {
        const cf_prompt_layer *layer = &model->prompt_layers[i];
        size_t place = (size_t)i * (size_t)cache->n_context * (size_t)shape->d_model;
        cf_prompt_norm norm = {
            prompt->residual,
            count <= 256 ? prompt->mixed : NULL,
            model->prompt_layers[i + 1].before[0],
            {{model->token.layers[i].norm1, layer->shifts[0], prompt->normed[0]},
             {model->token.layers[i].norm2, layer->shifts[1], prompt->normed[1]}},
            NULL,
            NULL,
            count,
            shape->d_model,
            1e-5f};
        cf_prompt_split split = {prompt->qkv,
                                 layer->qkv,
                                 cache->rotation,
                                 prompt->normed[0],
                                 cache->keys + place,
                                 cache->values + place,
                                 &prompt->request[0]->all,
                                 count,
                                 shape->n_heads,
                                 shape->d_head,
                                 shape->d_rotary,
                                 cache->n_context};
        cf_prompt_attention attention = {prompt->normed[0],        split.keys,  split.values,
                                         &prompt->request[0]->all, count,       shape->n_heads,
                                         cache->n_context,         CF_DTYPE_F16};
        cf_prompt_activation activation = {prompt->ffn, layer->up, count, shape->d_ffn,
                                           shape->activation};
        bench_check_cuda(
            which == 0   ? cf_prompt_normalise(&norm, CF_DTYPE_F16, session->stream)
            : which == 1 ? cf_prompt_append(&split, CF_DTYPE_F16, session->stream)
            : which == 2 ? attend(&attention, shape->d_head, &model->device.limits, session->stream)
                         : cf_prompt_activate(&activation, CF_DTYPE_F16, session->stream));
    }
}

static void norms(cf_backend_session *session, size_t n)
{
    kernels(session, n, 0);
}

static void appends(cf_backend_session *session, size_t n)
{
    kernels(session, n, 1);
}

static void attentions(cf_backend_session *session, size_t n)
{
    kernels(session, n, 2);
}

static void activations(cf_backend_session *session, size_t n)
{
    kernels(session, n, 3);
}

/* Operations that the last token's logits need: of the last layer all keys and values, the rest for
 * that token alone. */
static double operations_of(const cf_shape *shape, size_t n)
{
    double d = shape->d_model, tokens = (double)n, n_pairs = tokens * (tokens + 1) / 2;
    double rest =
        4 * d * d + 4 * d * shape->d_ffn; /* of a token in a layer: q, dense and the MLP */
    double whole = tokens * (4 * d * d + rest) + 4 * d * n_pairs;
    double last = tokens * 4 * d * d + rest + 4 * d * tokens;
    return (shape->n_layers - 1) * whole + last + 2 * d * shape->n_vocab;
}

static void time_prompt(cf_backend_session *session, const char *name, size_t n)
{
    static const timed parts[] = {norms, appends, attentions, activations};
    const cf_shape *shape = &session->model->neox->shape;
    double best, best_products, unused, us[4];
    double n_layers = shape->n_layers, tokens = (double)n;
    double ms_apart = time_apart(session, n, step, PAUSE_NS, &unused);
    double ms = time_host(session, n, step, &best);
    double ms_products = time_host(session, n, products, &best_products);
    for (int i = 0; i < 4; i++)
        us[i] = time_host(session, n, parts[i], &unused) * 1e3 / n_layers;
    printf("%s,%zu,%.3f,%.3f,%.3f,%.3f,%.0f,%.0f\n", name, n, ms, best, ms_apart, ms_products,
           tokens / ms * 1e3, operations_of(shape, n) / ms * 1e-9);
    printf("# alone, us a layer: norms %.1f, append %.1f, attention %.1f, activation %.1f\n", us[0],
           us[1], us[2], us[3]);
    if (n <= 8)
        printf("# by the token kernel: %.3f ms\n", time_host(session, n, token_kernel, &unused));
}

int main(int argc, char **argv)
{
    static const size_t usual[] = {128, 512, 2048};
    bench_model bench;
    bench_open(&bench, "bench_prompt", argc > 1 ? argv[1] : "2.8b");
    if (bench.session->prompt == NULL)
        return 1;
    printf("model,tokens,ms_median,ms_best,ms_apart,ms_products_alone,tokens_per_s,tflops\n");
    for (int i = 0; i < (argc > 2 ? argc - 2 : 3); i++)
        time_prompt(bench.session, bench.name, argc > 2 ? bench_positions(argv[i + 2]) : usual[i]);
    bench_close(&bench);
    return 0;
}
