/*
 * The token kernel against the CPU backend, on the same random weights. Skipped by name where there
 * is no GPU.
 */
#include "support/random_model.h"
#include "support/runner.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/cuda.h"

/*
 * The GPU keeps activations, keys and values in float16, 2^-11 at most each time one is rounded. A
 * value passes some five such roundings a layer whose errors of random sign add up as squares, and
 * the residual dilutes them: a few times 2^-11, below 2e-3 for the two or three layers here.
 */
#define TOLERANCE 2e-3

/* Tokens of a step of a prompt. */
enum { N_STEP = 256 };

/* A session whose steps of several tokens go through the token kernel too. */
static void start_gpu(test_runner *gpu, const cf_neox *neox, size_t n_context)
{
    test_runner_start(gpu, &cf_cuda_backend, neox, n_context, CF_DTYPE_F16);
    cf_prompt_free(gpu->session->prompt);
    gpu->session->prompt = NULL;
}

typedef enum clustering { AS_IT_COMES, BLOCKS_APART } clustering;

/* Compares logits after each of the given numbers of tokens, in ascending order. */
static void compare_blocks(const cf_shape *shape, cf_dtype dtype, const size_t *ends, size_t n_ends,
                           clustering blocks)
{
    test_model model;
    test_runner cpu, gpu;
    size_t n_context = ends[n_ends - 1], n_vocab = (size_t)shape->n_vocab;
    cf_token *ids = malloc(n_context * sizeof *ids);
    float *expected = malloc(n_vocab * sizeof *expected), *found = malloc(n_vocab * sizeof *found);
    test_model_create(&model, shape, dtype, 3);
    test_make_ids(ids, n_context, shape->n_vocab);
    test_runner_start(&cpu, &cf_cpu_backend, &model.neox, n_context, CF_DTYPE_F32);
    start_gpu(&gpu, &model.neox, n_context);
    if (blocks == BLOCKS_APART)
        gpu.model->grid.can_pair = false;
    for (size_t i = 0; i < n_ends; i++) {
        memset(found, 0xFF, n_vocab * sizeof *found); /* NaN: every logit must be written */
        test_runner_advance(&cpu, ids, ends[i], N_STEP, expected);
        test_runner_advance(&gpu, ids, ends[i], N_STEP, found);
        double error = test_relative_error(found, expected, n_vocab);
        print_message("    d_head %d, d_model %d, %s, %zu tokens: relative error %.2e\n",
                      shape->d_head, shape->d_model, cf_dtype_name(dtype), ends[i], error);
        assert_true(error < TOLERANCE);
    }
    test_runner_stop(&cpu);
    test_runner_stop(&gpu);
    test_model_free(&model);
    free(ids), free(expected), free(found);
}

static void compare(const cf_shape *shape, cf_dtype dtype, const size_t *ends, size_t n_ends)
{
    compare_blocks(shape, dtype, ends, n_ends, AS_IT_COMES);
}

/* Around one block's positions of a head, where a second and a third join in. */
static const size_t short_ends[] = {1, 2, 3, 31, 33, 63, 64, 65, 66, 128, 129, 200};
#define N_SHORT (sizeof short_ends / sizeof *short_ends)

static void every_head_width_gives_the_logits_of_the_cpu(void **state)
{
    static const int32_t widths[][2] = {{32, 4}, {64, 8}, {80, 4}, {96, 4}, {128, 3}, {256, 3}};
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        cf_shape shape = test_small_shape(widths[i][0], widths[i][1]);
        compare(&shape, CF_DTYPE_F16, short_ends, N_SHORT);
    }
}

/* Splits of a head that meet through L2 alone, as where a GPU has no clusters. */
static void blocks_apart_give_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    cf_shape shape = test_small_shape(64, 8);
    compare_blocks(&shape, CF_DTYPE_F16, short_ends, N_SHORT, BLOCKS_APART);
}

/* Where GPU and code have clusters, splits of a head meet in pairs; a head's only block needs none.
 */
static void blocks_come_in_pairs_where_heads_are_split(void **state)
{
    static const size_t ends[] = {64, 65};
    cf_shape shape = test_small_shape(64, 8);
    cf_token ids[65];
    test_model model;
    test_runner gpu;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    float *logits = malloc((size_t)shape.n_vocab * sizeof *logits);
    test_model_create(&model, &shape, CF_DTYPE_F16, 3);
    test_make_ids(ids, 65, shape.n_vocab);
    start_gpu(&gpu, &model.neox, 65);
    const cf_cuda_grid *grid = &gpu.model->grid;
    assert_int_equal(grid->can_pair, grid->has_bulk_copies && grid->n_blocks % 2 == 0);
    for (int i = 0; i < 2; i++) {
        test_runner_advance(&gpu, ids, ends[i], N_STEP, logits);
        assert_int_equal(gpu.session->args.step.has_pairs, i == 1 && grid->can_pair);
    }
    test_runner_stop(&gpu);
    test_model_free(&model);
    free(logits);
}

static void bfloat16_weights_give_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    cf_shape shape = test_small_shape(64, 8);
    compare(&shape, CF_DTYPE_BF16, short_ends, N_SHORT);
}

static void a_sequential_model_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    cf_shape shape = test_small_shape(80, 8);
    shape.parallel_residual = false;
    shape.attention_bias = false;
    shape.d_rotary = shape.d_head;
    compare(&shape, CF_DTYPE_F16, short_ends, N_SHORT);
}

static void every_activation_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (int a = CF_ACTIVATION_GELU_ERF; a <= CF_ACTIVATION_SILU; a++) {
        cf_shape shape = test_small_shape(64, 8);
        shape.activation = (cf_activation)a;
        compare(&shape, CF_DTYPE_F16, short_ends, 3);
    }
}

/* Two layers of the real thing, to the end of its context. */
static void layers_of_the_2_8b_model_give_the_logits_of_the_cpu(void **state)
{
    static const size_t ends[] = {1, 2, 64, 65, 778, 2048};
    cf_shape shape = test_small_shape(80, 32);
    (void)state;
    test_skip_without(&cf_cuda_backend);
    shape.n_layers = 2;
    shape.n_vocab = 50304;
    shape.n_context = 2048;
    compare(&shape, CF_DTYPE_F16, ends, sizeof ends / sizeof *ends);
}

/* One layer of every other width of the family. */
static void layers_of_the_family_give_the_logits_of_the_cpu(void **state)
{
    static const struct {
        int32_t d_head, n_heads;
        bool parallel;
    } models[] = {{32, 4, true},  {32, 8, true},   {64, 12, true},  {64, 16, true},
                  {256, 8, true}, {128, 16, true}, {128, 32, true}, {128, 40, true},
                  {96, 64, true}, {80, 32, false}, {128, 32, false}};
    /* Where a tile of keys and values ends, and where a long context does. */
    static const size_t ends[] = {1, 2, 31, 32, 33, 65, 130, 778, 2048};
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        cf_shape shape = test_small_shape(models[i].d_head, models[i].n_heads);
        shape.n_layers = 1;
        shape.parallel_residual = models[i].parallel;
        shape.n_vocab = 4003;
        compare(&shape, CF_DTYPE_F16, ends, sizeof ends / sizeof *ends);
    }
}

/* Steps of one token and of many, and a rewind, leave the same bits. */
static void the_same_tokens_give_the_same_bits(void **state)
{
    enum { N = 150, N_TIMES = 100 };
    cf_shape shape = test_small_shape(64, 12);
    size_t n_vocab = (size_t)shape.n_vocab;
    cf_token ids[N];
    test_model model;
    test_runner gpu;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    float *first = malloc(n_vocab * sizeof *first), *again = malloc(n_vocab * sizeof *again);
    test_model_create(&model, &shape, CF_DTYPE_F16, 5);
    test_make_ids(ids, N, shape.n_vocab);
    start_gpu(&gpu, &model.neox, N);
    test_runner_advance(&gpu, ids, N, N_STEP, first);
    for (size_t i = 0; i < N_TIMES; i++) {
        gpu.pos = i; /* a rewind */
        for (size_t pos = i; pos < N - i; pos += 1 + i)
            test_runner_advance(&gpu, ids, pos + 1, N_STEP, again);
        test_runner_advance(&gpu, ids, N, N_STEP, again);
        assert_memory_equal(first, again, n_vocab * sizeof *first);
    }
    test_runner_stop(&gpu);
    test_model_free(&model);
    free(first), free(again);
}

/* The hidden states: the embedding, then after each layer, the last one normalised. */
static void hidden_states_are_those_of_the_cpu(void **state)
{
    enum { N = 5 };
    cf_shape shape = test_small_shape(64, 8);
    size_t n = (size_t)(shape.n_layers + 1) * N * (size_t)shape.d_model;
    cf_token ids[N];
    test_model model;
    test_runner runners[2];
    float *hidden[2];
    (void)state;
    test_skip_without(&cf_cuda_backend);
    test_model_create(&model, &shape, CF_DTYPE_F16, 6);
    test_make_ids(ids, N, shape.n_vocab);
    test_runner_start(&runners[0], &cf_cpu_backend, &model.neox, N, CF_DTYPE_F32);
    start_gpu(&runners[1], &model.neox, N);
    for (int r = 0; r < 2; r++) {
        cf_error error;
        hidden[r] = calloc(n, sizeof **hidden);
        cf_step step = {.ids = ids, .n = N, .hidden = hidden[r], .hidden_rows = N};
        assert_ok(runners[r].backend->step(runners[r].session, &step, &error), error);
    }
    assert_true(test_relative_error(hidden[1], hidden[0], n) < TOLERANCE);
    for (int r = 0; r < 2; r++) {
        test_runner_stop(&runners[r]);
        free(hidden[r]);
    }
    test_model_free(&model);
}

static void a_float32_cache_is_refused(void **state)
{
    cf_shape shape = test_small_shape(64, 8);
    cf_backend_options options = {.n_context = 8, .kv_dtype = CF_DTYPE_F32};
    cf_backend_session *session;
    test_model model;
    test_runner gpu;
    cf_error error;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    test_model_create(&model, &shape, CF_DTYPE_F16, 6);
    test_runner_start(&gpu, &cf_cuda_backend, &model.neox, 8, CF_DTYPE_F16);
    assert_fails(cf_cuda_backend.session_create(gpu.model, &options, &session, &error),
                 CF_STATUS_UNSUPPORTED, error, "KV cache is F32, expected F16");
    test_runner_stop(&gpu);
    test_model_free(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_width_gives_the_logits_of_the_cpu),
        cmocka_unit_test(blocks_apart_give_the_logits_of_the_cpu),
        cmocka_unit_test(blocks_come_in_pairs_where_heads_are_split),
        cmocka_unit_test(bfloat16_weights_give_the_logits_of_the_cpu),
        cmocka_unit_test(a_sequential_model_gives_the_logits_of_the_cpu),
        cmocka_unit_test(every_activation_gives_the_logits_of_the_cpu),
        cmocka_unit_test(layers_of_the_family_give_the_logits_of_the_cpu),
        cmocka_unit_test(layers_of_the_2_8b_model_give_the_logits_of_the_cpu),
        cmocka_unit_test(the_same_tokens_give_the_same_bits),
        cmocka_unit_test(hidden_states_are_those_of_the_cpu),
        cmocka_unit_test(a_float32_cache_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
