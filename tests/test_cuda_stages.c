/*
 * Each stage of the token kernel alone against the CPU backend, where something of it can be seen
 * from outside: keys, values and queries' effect in the KV cache and the hidden states, with the
 * other stages' matrices set to zero. Skipped by name where there is no GPU.
 */
#include "support/random_model.h"
#include "support/runner.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/cuda.h"
#include "base/half.h"

/*
 * Rounding a value to float16 errs by at most 2^-11 of it; in the root mean square of values that
 * fill their binades evenly, by 0.38 * 2^-11. Errors of independent sign add up as squares in a
 * product of unit gain, as before it. So a stage on whose way a value is rounded k times errs by
 * about 0.38 * 2^-11 * sqrt(k); each is held to 2^-11 * sqrt(k). Weights of a LayerNorm are float16
 * too, which is one rounding more for the norm. The two lowest bits that the residual loses (2^-22)
 * do not count beside these. docs/numerics.md has the same.
 */
#define UNIT 0x1p-11
#define LAYERNORM_TOLERANCE UNIT           /* the weights */
#define HEAD_TOLERANCE (UNIT * 1.415)      /* weights, norm */
#define CACHE_TOLERANCE (UNIT * 1.733)     /* weights, norm, the key or value */
#define MLP_TOLERANCE (UNIT * 1.733)       /* weights, norm, the activation */
#define ATTENTION_TOLERANCE (UNIT * 2.450) /* weights, norm, q and k, v, what was attended to */
/* Errors of a layer are the input of the next, and the residual dilutes them: a few units. */
#define DEEP_TOLERANCE 2e-3

enum { N_TOKENS = 67, N_STEP = 32 };

typedef struct pair {
    test_model model;
    test_runner cpu, gpu;
    cf_token ids[N_TOKENS];
    size_t n_hidden; /* floats of one layer's states */
    float *expected, *found;
} pair;

static void start(pair *both)
{
    const cf_shape *shape = &both->model.neox.shape;
    both->n_hidden = N_TOKENS * (size_t)shape->d_model;
    size_t n = both->n_hidden * (size_t)(shape->n_layers + 1) + (size_t)shape->n_vocab;
    both->expected = calloc(n, sizeof(float));
    both->found = calloc(n, sizeof(float));
    test_make_ids(both->ids, N_TOKENS, shape->n_vocab);
    test_runner_start(&both->cpu, &cf_cpu_backend, &both->model.neox, N_TOKENS, CF_DTYPE_F32);
    test_runner_start(&both->gpu, &cf_cuda_backend, &both->model.neox, N_TOKENS, CF_DTYPE_F16);
}

static void stop(pair *both)
{
    test_runner_stop(&both->cpu);
    test_runner_stop(&both->gpu);
    test_model_free(&both->model);
    free(both->expected), free(both->found);
}

static void set_to_zero(const cf_tensor *tensor)
{
    memset((void *)(uintptr_t)tensor->data, 0,
           (size_t)(tensor->dims[0] * tensor->dims[1]) * cf_dtype_bytes(tensor->dtype));
}

/* The layer adds nothing of its attention. */
static void silence_attention(const cf_neox_layer *tensors)
{
    set_to_zero(tensors->dense_weight);
    set_to_zero(tensors->dense_bias);
}

static void silence_mlp(const cf_neox_layer *tensors)
{
    set_to_zero(tensors->down_weight);
    set_to_zero(tensors->down_bias);
}

/* Hidden states of all tokens, token by token or in steps of several; [n_layers + 1][n][d]. */
static void fetch_hidden(test_runner *runner, const cf_token *ids, size_t n_step, float *hidden)
{
    cf_error error;
    for (size_t pos = 0; pos < N_TOKENS; pos += n_step) {
        size_t n = N_TOKENS - pos < n_step ? N_TOKENS - pos : n_step;
        cf_step step = {.ids = ids + pos,
                        .n = n,
                        .pos = pos,
                        .hidden = hidden,
                        .hidden_rows = N_TOKENS,
                        .hidden_row = pos};
        assert_ok(runner->backend->step(runner->session, &step, &error), error);
    }
}

/* What the first layer alone has added to the embedding, in place of the embedding. */
static void leave_difference(float *hidden, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hidden[i] = hidden[n + i] - hidden[i];
}

static void check(const pair *both, const char *what, size_t n_step, size_t layer, double tolerance)
{
    size_t n = both->n_hidden;
    double error = test_relative_error(both->found + layer * n, both->expected + layer * n, n);
    print_message("    %s, d_head %d, steps of %zu: relative error %.2e, at most %.2e\n", what,
                  both->model.neox.shape.d_head, n_step, error, tolerance);
    assert_true(error < tolerance);
}

/*
 * A model of two layers, of which the first has attention, MLP or neither, and the second neither:
 * so the second state is the residual as the first layer leaves it.
 */
static void test_stage(const char *stage, bool attention, bool mlp, bool parallel, double tolerance)
{
    static const int32_t widths[][2] = {{32, 4}, {64, 8}, {80, 4}, {96, 4}, {128, 3}, {256, 3}};
    for (size_t i = 0; i < 2 * sizeof widths / sizeof *widths; i++) {
        cf_shape shape = test_small_shape(widths[i / 2][0], widths[i / 2][1]);
        size_t n_step = i % 2 == 0 ? 1 : N_STEP;
        pair both;
        shape.n_layers = 2;
        shape.parallel_residual = parallel;
        test_model_create(&both.model, &shape, CF_DTYPE_F16, 8);
        for (int32_t layer = 0; layer < 2; layer++) {
            if (layer == 1 || !attention)
                silence_attention(&both.model.neox.layers[layer]);
            if (layer == 1 || !mlp)
                silence_mlp(&both.model.neox.layers[layer]);
        }
        start(&both);
        fetch_hidden(&both.cpu, both.ids, n_step, both.expected);
        fetch_hidden(&both.gpu, both.ids, n_step, both.found);
        assert_memory_equal(both.expected, both.found, both.n_hidden * sizeof(float));
        leave_difference(both.expected, both.n_hidden);
        leave_difference(both.found, both.n_hidden);
        check(&both, stage, n_step, attention || mlp ? 0 : 2, tolerance);
        stop(&both);
    }
}

static void the_embedding_and_the_final_layernorm_are_exact(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    test_stage("embedding, LayerNorm", false, false, true, LAYERNORM_TOLERANCE);
}

static void attention_alone_gives_what_the_cpu_gives(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    test_stage("attention", true, false, true, ATTENTION_TOLERANCE);
    test_stage("attention, sequential", true, false, false, ATTENTION_TOLERANCE);
}

static void the_mlp_alone_gives_what_the_cpu_gives(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    test_stage("MLP", false, true, true, MLP_TOLERANCE);
    test_stage("MLP, sequential", false, true, false, MLP_TOLERANCE);
}

/* One layer's keys or values of all positions. */
static double cache_error(const pair *both, const uint16_t *device, const float *expected,
                          size_t layer)
{
    size_t n = both->n_hidden;
    uint16_t *halves = malloc(n * sizeof *halves);
    float *widened = malloc(n * sizeof *widened);
    assert_int_equal(
        cudaMemcpy(halves, device + layer * n, n * sizeof *halves, cudaMemcpyDeviceToHost),
        cudaSuccess);
    for (size_t i = 0; i < n; i++)
        widened[i] = cf_float_from_f16(halves[i]);
    double error = test_relative_error(widened, expected + layer * n, n);
    free(halves), free(widened);
    return error;
}

static void compare_caches(pair *both, size_t n_step)
{
    const cf_shape *shape = &both->model.neox.shape;
    const cf_token_session *session = &both->gpu.session->args.session;
    both->cpu.pos = both->gpu.pos = 0;
    test_runner_advance(&both->cpu, both->ids, N_TOKENS, n_step, NULL);
    test_runner_advance(&both->gpu, both->ids, N_TOKENS, n_step, NULL);
    for (size_t layer = 0; layer < (size_t)shape->n_layers; layer++) {
        double keys = cache_error(both, session->keys, test_cpu_keys(both->cpu.session), layer);
        double values =
            cache_error(both, session->values, test_cpu_values(both->cpu.session), layer);
        double tolerance = layer == 0 ? CACHE_TOLERANCE : DEEP_TOLERANCE;
        print_message("    d_head %d, layer %zu, steps of %zu: keys %.2e, values %.2e\n",
                      shape->d_head, layer, n_step, keys, values);
        assert_true(keys < tolerance);
        assert_true(values < tolerance);
    }
}

/* q k v rows, biases, rotary embedding and the writing of the cache. */
static void keys_and_values_are_those_of_the_cpu(void **state)
{
    static const int32_t widths[][2] = {{32, 4}, {64, 8}, {80, 4}, {96, 4}, {128, 3}, {256, 3}};
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        cf_shape shape = test_small_shape(widths[i][0], widths[i][1]);
        pair both;
        test_model_create(&both.model, &shape, CF_DTYPE_F16, 9);
        start(&both);
        compare_caches(&both, 1);
        compare_caches(&both, N_STEP);
        stop(&both);
    }
}

static void hidden_states_of_every_layer_are_those_of_the_cpu(void **state)
{
    cf_shape shape = test_small_shape(80, 8);
    pair both;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    shape.n_layers = 6;
    test_model_create(&both.model, &shape, CF_DTYPE_F16, 10);
    start(&both);
    fetch_hidden(&both.cpu, both.ids, N_STEP, both.expected);
    fetch_hidden(&both.gpu, both.ids, 1, both.found);
    for (size_t layer = 1; layer <= 6; layer++)
        check(&both, "layers", 1, layer, DEEP_TOLERANCE);
    stop(&both);
}

/* The LM head: with silent layers, the logits are its product with the normalised embedding. */
static void the_head_alone_gives_what_the_cpu_gives(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        cf_shape shape = test_small_shape(64, 12);
        cf_dtype dtype = bf16 ? CF_DTYPE_BF16 : CF_DTYPE_F16;
        size_t n_vocab = 50304;
        pair both;
        shape.n_layers = 1;
        shape.n_vocab = (int32_t)n_vocab;
        test_model_create(&both.model, &shape, dtype, 11);
        silence_attention(both.model.neox.layers);
        silence_mlp(both.model.neox.layers);
        start(&both);
        test_runner_advance(&both.cpu, both.ids, 3, N_STEP, both.expected);
        test_runner_advance(&both.gpu, both.ids, 3, 1, both.found);
        double error = test_relative_error(both.found, both.expected, n_vocab);
        print_message("    LM head, %s: relative error %.2e\n", cf_dtype_name(dtype), error);
        assert_true(error < HEAD_TOLERANCE);
        stop(&both);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_embedding_and_the_final_layernorm_are_exact),
        cmocka_unit_test(keys_and_values_are_those_of_the_cpu),
        cmocka_unit_test(attention_alone_gives_what_the_cpu_gives),
        cmocka_unit_test(the_mlp_alone_gives_what_the_cpu_gives),
        cmocka_unit_test(hidden_states_of_every_layer_are_those_of_the_cpu),
        cmocka_unit_test(the_head_alone_gives_what_the_cpu_gives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
