/*
 * Prompts on the GPU against the CPU backend, on the same random weights. Skipped by name where
 * there is no GPU.
 */
#include "backend/backend.h"
#include "support/random_model.h"
#include "support/runner.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/cuda.h"

/*
 * What is rounded to 16 bits on its way, by unit u (2^-11 in float16, 2^-8 in bfloat16) with an
 * rms of 0.38 u: the norm and its weights, q, k, v, attention's weights and output on one branch,
 * seven roundings or so; the norm and its weights, up and the activation on the other; the final
 * norm and its weights. The residual is float32, and a branch is no more than the whole of it:
 * 0.38 u sqrt(7 + 4 + 2) = 1.4 u, and half as much again for what later layers make of it. Keys
 * and values are float16 in either case. docs/numerics.md has it at length.
 */
#define TOLERANCE_F16 (2 * 0x1p-11)
#define TOLERANCE_BF16 (2 * 0x1p-8)

enum { N_MOST = 777, N_CONTEXT = 832 };

static double tolerance_of(cf_dtype dtype)
{
    return dtype == CF_DTYPE_F16 ? TOLERANCE_F16 : TOLERANCE_BF16;
}

static cf_shape shape_of(int32_t d_head, int32_t n_heads)
{
    return (cf_shape){.n_layers = 3,
                      .d_model = d_head * n_heads,
                      .n_heads = n_heads,
                      .d_head = d_head,
                      .d_rotary = d_head / 4 / 2 * 2,
                      .d_ffn = 4 * d_head * n_heads,
                      .n_vocab = 509,
                      .n_context = N_CONTEXT,
                      .parallel_residual = true,
                      .attention_bias = true};
}

/* A model on both backends; what the CPU makes of all tokens at once. */
typedef struct bench {
    test_model model;
    cf_shape shape;
    cf_dtype dtype;
    cf_backend_model *prepared[2];
    cf_backend_session *sessions[2];
    size_t d_hidden; /* elements of one hidden state of all tokens */
    cf_token ids[N_MOST];
    float *expected, *found;      /* [N_MOST][n_vocab] */
    float *hidden, *hidden_found; /* [n_layers + 1][N_MOST][d_model] */
} bench;

static void start(bench *b, int which, const cf_backend_interface *backend, cf_dtype kv_dtype)
{
    cf_model_options model_options = {.size = sizeof model_options};
    cf_backend_options options = {.n_context = N_CONTEXT,
                                  .n_chunk = N_MOST,
                                  .kv_dtype = kv_dtype,
                                  .n_threads = which ? 0 : 4};
    const char *text;
    cf_error error;
    assert_ok(
        backend->model_create(&b->model.neox, &model_options, &b->prepared[which], &text, &error),
        error);
    backend->session_defaults(b->prepared[which], &options);
    assert_ok(backend->session_create(b->prepared[which], &options, &b->sessions[which], &error),
              error);
}

static void setup(bench *b, const cf_shape *shape, cf_dtype dtype)
{
    cf_error error;
    size_t n_logits = (size_t)N_MOST * (size_t)shape->n_vocab;
    *b = (bench){.shape = *shape, .dtype = dtype};
    b->d_hidden = (size_t)N_MOST * (size_t)shape->d_model;
    size_t n_hidden = (size_t)(shape->n_layers + 1) * b->d_hidden;
    b->expected = malloc(n_logits * sizeof *b->expected);
    b->found = malloc(n_logits * sizeof *b->found);
    b->hidden = malloc(n_hidden * sizeof *b->hidden);
    b->hidden_found = malloc(n_hidden * sizeof *b->hidden_found);
    for (size_t i = 0; i < N_MOST; i++)
        b->ids[i] = (cf_token)((i * 7919 + 13) % (size_t)shape->n_vocab);
    test_model_create(&b->model, shape, dtype, 3);
    start(b, 0, &cf_cpu_backend, CF_DTYPE_F32);
    start(b, 1, &cf_cuda_backend, CF_DTYPE_F16);
    cf_step all = {.ids = b->ids,
                   .n = N_MOST,
                   .logits = b->expected,
                   .n_logits = N_MOST,
                   .hidden = b->hidden,
                   .hidden_rows = N_MOST};
    assert_ok(cf_cpu_backend.step(b->sessions[0], &all, &error), error);
}

static void teardown(bench *b)
{
    cf_cpu_backend.session_free(b->sessions[0]);
    cf_cpu_backend.model_free(b->prepared[0]);
    cf_cuda_backend.session_free(b->sessions[1]);
    cf_cuda_backend.model_free(b->prepared[1]);
    test_model_free(&b->model);
    free(b->expected), free(b->found), free(b->hidden), free(b->hidden_found);
}

/* Evaluates `n` tokens from `pos` on with the logits of the last `n_logits`, in `found`. */
static void evaluate(bench *b, size_t pos, size_t n, size_t n_logits)
{
    cf_error error;
    size_t n_bytes = n_logits * (size_t)b->shape.n_vocab * sizeof *b->found;
    cf_step step = {.ids = b->ids + pos, .n = n, .pos = pos};
    step.logits = n_logits > 0 ? b->found : NULL;
    step.n_logits = n_logits;
    memset(b->found, 0xFF, n_bytes);                          /* NaN: every logit must be written */
    bool is_prompt = n > 1 && b->sessions[1]->prompt != NULL; /* also where that is not faster */
    assert_ok((is_prompt ? cf_prompt_step : cf_cuda_step)(b->sessions[1], &step, &error), error);
}

/* How far what evaluate() found is from what the CPU found for the tokens that end at `end`. */
static double error_at(const bench *b, size_t end, size_t n_logits)
{
    size_t n_vocab = (size_t)b->shape.n_vocab;
    return test_relative_error(b->found, b->expected + (end - n_logits) * n_vocab,
                               n_logits * n_vocab);
}

static void check_steps(bench *b, size_t pos, const size_t *ns, size_t n_ns)
{
    double worst = 0;
    for (size_t i = 0; i < n_ns; i++) {
        size_t n_wanted[] = {1, (ns[i] + 6) / 7, ns[i]};
        for (int k = 0; k < 3; k++) {
            evaluate(b, pos, ns[i], n_wanted[k]);
            double error = error_at(b, pos + ns[i], n_wanted[k]);
            if (!(error < tolerance_of(b->dtype)))
                print_message("    %zu tokens at %zu, logits of %zu: relative error %.2e\n", ns[i],
                              pos, n_wanted[k], error);
            assert_true(error < tolerance_of(b->dtype));
            worst = fmax(worst, error);
        }
    }
    print_message("    d_head %d, d_model %d, %s, %s, at %zu: relative error %.2e at most\n",
                  b->shape.d_head, b->shape.d_model, cf_dtype_name(b->dtype),
                  b->shape.parallel_residual ? "parallel" : "sequential", pos, worst);
}

/* At the beginning, after steps of one token, and after another prompt. */
static void check_shape(const cf_shape *shape, cf_dtype dtype)
{
    static const size_t first[] = {2, 3, 64, 65, 127, 128, 129, 512, 768, 777},
                        later[] = {2, 65, 400};
    bench b;
    setup(&b, shape, dtype);
    check_steps(&b, 0, first, sizeof first / sizeof *first);
    for (size_t pos = 0; pos < 7; pos++)
        evaluate(&b, pos, 1, 0);
    check_steps(&b, 7, later, 3);
    evaluate(&b, 0, 333, 0);
    check_steps(&b, 333, later, 3);
    teardown(&b);
}

static const int32_t widths[][2] = {{32, 4}, {64, 8}, {80, 4}, {96, 4}, {128, 3}, {256, 3}};
#define N_WIDTHS (sizeof widths / sizeof *widths)

static void every_head_width_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < N_WIDTHS; i++) {
        cf_shape shape = shape_of(widths[i][0], widths[i][1]);
        check_shape(&shape, CF_DTYPE_F16);
    }
}

static void every_head_width_in_bfloat16_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < N_WIDTHS; i++) {
        cf_shape shape = shape_of(widths[i][0], widths[i][1]);
        check_shape(&shape, CF_DTYPE_BF16);
    }
}

static void sequential_models_give_the_logits_of_the_cpu(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < N_WIDTHS; i += 2) {
        cf_shape shape = shape_of(widths[i][0], widths[i][1]);
        shape.parallel_residual = false;
        shape.attention_bias = false;
        shape.d_rotary = shape.d_head;
        check_shape(&shape, CF_DTYPE_F16);
        check_shape(&shape, CF_DTYPE_BF16);
    }
}

static void every_activation_gives_the_logits_of_the_cpu(void **state)
{
    static const size_t n = 130;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (int a = CF_ACTIVATION_GELU_ERF; a <= CF_ACTIVATION_SILU; a++) {
        cf_shape shape = shape_of(64, 8);
        shape.activation = (cf_activation)a;
        bench b;
        setup(&b, &shape, CF_DTYPE_F16);
        check_steps(&b, 0, &n, 1);
        teardown(&b);
    }
}

/* Blocks of up to 256 queries, which small models have no use for. */
static void many_heads_give_the_logits_of_the_cpu(void **state)
{
    static const size_t ns[] = {700, 777};
    static const int32_t many[][2] = {{32, 56}, {64, 56}, {80, 56}, {96, 44}, {128, 44}, {256, 16}};
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
        cf_shape shape = shape_of(many[i][0], many[i][1]);
        bench b;
        shape.n_layers = 1;
        setup(&b, &shape, CF_DTYPE_F16);
        check_steps(&b, 0, ns, 2);
        teardown(&b);
    }
}

static void hidden_states_are_those_of_the_cpu(void **state)
{
    enum { POS = 5, N = 200 };
    cf_shape shape = shape_of(80, 4);
    bench b;
    cf_error error;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    for (int parallel = 0; parallel < 2; parallel++) {
        shape.parallel_residual = parallel;
        setup(&b, &shape, CF_DTYPE_F16);
        size_t d_model = (size_t)shape.d_model, n_bytes = N * d_model * sizeof(float);
        memset(b.hidden_found, 0xFF, (size_t)(shape.n_layers + 1) * b.d_hidden * sizeof(float));
        evaluate(&b, 0, POS, 0);
        cf_step step = {.ids = b.ids + POS,
                        .n = N,
                        .pos = POS,
                        .hidden = b.hidden_found,
                        .hidden_rows = N_MOST,
                        .hidden_row = POS};
        assert_ok(cf_cuda_backend.step(b.sessions[1], &step, &error), error);
        for (size_t i = 0; i <= (size_t)shape.n_layers; i++) {
            size_t place = i * b.d_hidden + POS * d_model;
            double found = test_relative_error(b.hidden_found + place, b.hidden + place,
                                               n_bytes / sizeof(float));
            print_message("    hidden state %zu: relative error %.2e\n", i, found);
            assert_true(i == 0 ? found == 0 : found < TOLERANCE_F16);
        }
        teardown(&b);
    }
}

/* The same tokens in other steps: each way is within the tolerance of the CPU. */
static void steps_of_any_sizes_go_on_from_one_another(void **state)
{
    static const size_t ways[][6] = {{777},    {512, 265}, {3, 1, 128, 1, 129, 515},
                                     {776, 1}, {1, 776},   {64, 64, 1, 1, 2, 645}};
    cf_shape shape = shape_of(80, 8);
    bench b;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    setup(&b, &shape, CF_DTYPE_F16);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        size_t pos = 0;
        for (size_t i = 0; i < 6 && ways[w][i] > 0; pos += ways[w][i++]) {
            evaluate(&b, pos, ways[w][i], 1);
            assert_true(error_at(&b, pos + ways[w][i], 1) < TOLERANCE_F16);
        }
        assert_int_equal(pos, N_MOST);
    }
    teardown(&b);
}

/* What lies beyond the position is not read, whichever path wrote it. */
static void a_rewound_session_goes_on_by_either_path(void **state)
{
    cf_shape shape = shape_of(64, 8);
    bench b;
    cf_token kept[N_MOST];
    (void)state;
    test_skip_without(&cf_cuda_backend);
    setup(&b, &shape, CF_DTYPE_F16);
    memcpy(kept, b.ids, sizeof kept);
    for (size_t pos = 100; pos < 300; pos++) /* another text from 100 on */
        b.ids[pos] = (cf_token)(pos % 500);
    evaluate(&b, 0, 300, 1);
    for (size_t pos = 300; pos < 320; pos++)
        evaluate(&b, pos, 1, 1);
    memcpy(b.ids, kept, sizeof kept);
    for (size_t pos = 100; pos < 110; pos++) {
        evaluate(&b, pos, 1, 1);
        assert_true(error_at(&b, pos + 1, 1) < TOLERANCE_F16);
    }
    evaluate(&b, 110, 150, 150);
    assert_true(error_at(&b, 260, 150) < TOLERANCE_F16);
    evaluate(&b, 260, 1, 1);
    assert_true(error_at(&b, 261, 1) < TOLERANCE_F16);
    teardown(&b);
}

static void the_same_step_gives_the_same_bits(void **state)
{
    enum { N = 300, N_TIMES = 20 };
    cf_shape shape = shape_of(64, 12);
    size_t n_bytes = N * (size_t)shape.n_vocab * sizeof(float);
    bench b;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    setup(&b, &shape, CF_DTYPE_F16);
    float *first = malloc(n_bytes);
    evaluate(&b, 0, N, N);
    memcpy(first, b.found, n_bytes);
    for (int i = 0; i < N_TIMES; i++) {
        evaluate(&b, 0, N, N);
        assert_memory_equal(first, b.found, n_bytes);
    }
    free(first);
    teardown(&b);
}

static void more_memory_than_there_is_is_refused_with_both_numbers(void **state)
{
    cf_shape shape = shape_of(80, 32);
    cf_backend_options options = {.n_context = 64, .n_chunk = (size_t)1 << 24};
    cf_backend_session *session;
    bench b;
    cf_error error;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    shape.n_layers = 1;
    setup(&b, &shape, CF_DTYPE_F16);
    options.kv_dtype = CF_DTYPE_F16;
    assert_fails(cf_cuda_backend.session_create(b.prepared[1], &options, &session, &error),
                 CF_STATUS_OUT_OF_MEMORY, error, "work space for prompts: needs ");
    assert_null(session);
    evaluate(&b, 0, 100, 1); /* the other session lives */
    assert_true(error_at(&b, 100, 1) < TOLERANCE_F16);
    teardown(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_width_gives_the_logits_of_the_cpu),
        cmocka_unit_test(every_head_width_in_bfloat16_gives_the_logits_of_the_cpu),
        cmocka_unit_test(sequential_models_give_the_logits_of_the_cpu),
        cmocka_unit_test(every_activation_gives_the_logits_of_the_cpu),
        cmocka_unit_test(many_heads_give_the_logits_of_the_cpu),
        cmocka_unit_test(hidden_states_are_those_of_the_cpu),
        cmocka_unit_test(steps_of_any_sizes_go_on_from_one_another),
        cmocka_unit_test(a_rewound_session_goes_on_by_either_path),
        cmocka_unit_test(the_same_step_gives_the_same_bits),
        cmocka_unit_test(more_memory_than_there_is_is_refused_with_both_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
