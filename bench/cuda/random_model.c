#include "random_model.h"

#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static const char *program = "bench";

void bench_check(cf_status status, const cf_error *error)
{
    if (status == CF_STATUS_OK)
        return;
    fprintf(stderr, "%s: %s\n", program, error->message);
    exit(1);
}

void bench_check_cuda(cudaError_t code)
{
    cf_error error;
    if (code != cudaSuccess)
        bench_check(cf_cuda_fail(&error, code, "bench"), &error);
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
                              .n_context = BENCH_N_CONTEXT,
                              .rope_theta = 10000,
                              .layer_norm_eps = 1e-5f,
                              .parallel_residual = true,
                              .attention_bias = true};
    fprintf(stderr, "%s: no model %s\n", program, name);
    exit(2);
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
    bench_check_cuda(cudaMalloc((void **)&memory, n_bytes));
    for (size_t done = 0, n; done < n_bytes; done += n) {
        place = (place + 999983) % (POOL_HALVES / 2) / 8 * 8;
        n = n_bytes - done < POOL_HALVES ? n_bytes - done : POOL_HALVES;
        bench_check_cuda(cudaMemcpy(memory + done, pool + place, n, cudaMemcpyHostToDevice));
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
    bench_check(cf_neox_bind(shape, tensors, n, neox, &error), &error);
}

size_t bench_positions(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (end != text && *end == '\0' && n >= 1 && n <= BENCH_N_CONTEXT)
        return (size_t)n;
    fprintf(stderr, "%s: %s positions, expected 1 to %d\n", program, text, BENCH_N_CONTEXT);
    exit(2);
}

void bench_open(bench_model *bench, const char *program_name, const char *name)
{
    cf_model_options model_options = {.size = sizeof model_options};
    cf_backend_options options = {.n_context = BENCH_N_CONTEXT};
    cf_error error;
    program = program_name;
    bench->name = name;
    bench->shape = shape_of(name);
    fill_pool();
    make_model(&bench->shape, &bench->neox);
    bench_check(cf_cuda_backend.model_create(&bench->neox, &model_options, &bench->model,
                                             &bench->text, &error),
                &error);
    cf_cuda_backend.session_defaults(bench->model, &options);
    bench_check(cf_cuda_backend.session_create(bench->model, &options, &bench->session, &error),
                &error);
    printf("# %s\n", bench->text);
}

void bench_close(bench_model *bench)
{
    cf_cuda_backend.session_free(bench->session);
    cf_cuda_backend.model_free(bench->model);
}
