/*
 * Schedules walked in random interleavings give the logits of the CPU backend: packing, order,
 * ownership and dependencies proved without a GPU.
 */
#include "support/random_model.h"
#include "support/schedule_walk.h"
#include "support/support.h"

#include <stdlib.h>

/* Logits [WALK_POSITIONS][n_vocab] of the CPU backend, with a KV cache in float32. */
static float *expected_logits(const cf_neox *neox, const cf_token *ids)
{
    const cf_backend_interface *cpu = &cf_cpu_backend;
    cf_model_options model_options = {.size = sizeof model_options};
    cf_backend_options options = {.n_context = WALK_POSITIONS,
                                  .n_chunk = WALK_POSITIONS,
                                  .n_threads = 1,
                                  .kv_dtype = CF_DTYPE_F32};
    cf_backend_model *model;
    cf_backend_session *session;
    const char *text;
    cf_error error;
    float *logits = calloc((size_t)(WALK_POSITIONS * neox->shape.n_vocab), sizeof *logits);
    cf_step step = {.ids = ids, .n = WALK_POSITIONS, .logits = logits, .n_logits = WALK_POSITIONS};
    assert_ok(cpu->model_create(neox, &model_options, &model, &text, &error), error);
    assert_ok(cpu->session_create(model, &options, &session, &error), error);
    assert_ok(cpu->step(session, &step, &error), error);
    cpu->session_free(session);
    cpu->model_free(model);
    return logits;
}

/*
 * The walk is exact to float64; the CPU backend sums some 1,000 products in float32, 6e-8 each, and
 * errors of random sign add up to a few times that: 1e-5 leaves room and catches any lost term.
 */
#define TOLERANCE 1e-5

static void walk_tokens(token_walk *walk, const cf_token *ids, const float *expected)
{
    int32_t n_vocab = walk->neox->shape.n_vocab;
    walk->ids = ids;
    walk_begin(walk);
    while (walk_step(walk))
        continue;
    walk_check_finished(walk);
    for (int32_t t = 0; t < WALK_POSITIONS; t++)
        assert_true(test_relative_error(walk->found + t * n_vocab, expected + t * n_vocab,
                                        (size_t)n_vocab) < TOLERANCE);
}

/* Many blocks with little to do, few with much; a ring of many slots, and one of two. */
static const cf_gpu_limits gpus[] = {
    {.n_multiprocessors = 13, .shared_bytes = 100 * 1024},
    {.n_multiprocessors = 5, .shared_bytes = 52 * 1024},
    {.n_multiprocessors = 40, .shared_bytes = 64 * 1024},
};

static void walk_model(cf_shape shape)
{
    const cf_token ids[WALK_POSITIONS] = {5, 77, 130};
    test_model model;
    test_model_create(&model, &shape, CF_DTYPE_F16, 7);
    float *expected = expected_logits(&model.neox, ids);
    for (size_t g = 0; g < sizeof gpus / sizeof *gpus; g++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            token_walk walk;
            walk_create(&walk, &model.neox, &gpus[g], seed);
            walk_tokens(&walk, ids, expected);
            walk_free(&walk);
        }
    free(expected);
    test_model_free(&model);
}

static const cf_shape small = {.n_layers = 3,
                               .d_model = 128,
                               .n_heads = 4,
                               .d_head = 32,
                               .d_rotary = 8,
                               .d_ffn = 512,
                               .n_vocab = 320,
                               .n_context = WALK_POSITIONS,
                               .parallel_residual = true,
                               .attention_bias = true};

static void a_parallel_model_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    walk_model(small);
}

static void a_sequential_model_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    cf_shape shape = small;
    shape.parallel_residual = false;
    walk_model(shape);
}

static void an_inner_vector_in_uneven_chunks_gives_the_logits_of_the_cpu(void **state)
{
    (void)state;
    cf_shape shape = small;
    shape.n_layers = 1;
    shape.d_model = 160;
    shape.n_heads = 2;
    shape.d_head = 80;
    shape.d_ffn = 7000;
    shape.attention_bias = false;
    walk_model(shape);
    shape.parallel_residual = false;
    walk_model(shape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parallel_model_gives_the_logits_of_the_cpu),
        cmocka_unit_test(a_sequential_model_gives_the_logits_of_the_cpu),
        cmocka_unit_test(an_inner_vector_in_uneven_chunks_gives_the_logits_of_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
