/* The CPU backend through the seam, against outputs of the reference implementation. */
#include "support/support.h"

#include "backend/backend.h"
#include "backend/cpu/cpu.h"
#include "checkpoint/checkpoint.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const folders[] = {"base1000", "bin", "hd80", "seq-pct100", "v5-config"};
#define N_FOLDERS (sizeof folders / sizeof *folders)

/* docs/numerics.md derives both: "Against the reference". */
#define TOLERANCE_F32 2e-5
#define TOLERANCE_F16_CACHE 5e-3

/* A golden folder, opened, with what it expects. */
typedef struct fixture {
    cf_checkpoint checkpoint;
    cf_neox neox;
    cf_backend_model *model;
    size_t n;
    cf_token ids[64];
    float *logits; /* [n][n_vocab] */
    float *hidden; /* [n_layers + 1][n][d_model] */
} fixture;

static size_t n_vocab(const fixture *golden)
{
    return (size_t)golden->neox.shape.n_vocab;
}

static size_t n_hidden(const fixture *golden)
{
    return ((size_t)golden->neox.shape.n_layers + 1) * golden->n *
           (size_t)golden->neox.shape.d_model;
}

static void *golden_read(const char *folder, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "golden/%s/%s", folder, name);
    return test_read(test_shared_path(path), NULL);
}

static void read_ids(fixture *golden, const char *folder)
{
    char *text = golden_read(folder, "golden.json");
    json_t *root = json_loads(text, 0, NULL), *ids = json_object_get(root, "ids");
    golden->n = json_array_size(ids);
    assert_in_range(golden->n, 1, 64);
    for (size_t i = 0; i < golden->n; i++)
        golden->ids[i] = (cf_token)json_integer_value(json_array_get(ids, i));
    json_decref(root);
    free(text);
}

/* False where the shared data is not there, or its format is not read yet. */
static bool golden_open(fixture *golden, const char *folder)
{
    cf_error error;
    char path[256];
    *golden = (fixture){0};
    snprintf(path, sizeof path, "golden/%s", folder);
    if (test_shared_path(path) == NULL)
        return false;
    cf_status status = cf_checkpoint_open(test_shared_path(path), &golden->checkpoint, &error);
    if (status == CF_STATUS_UNSUPPORTED)
        return false;
    assert_ok(status, error);
    assert_ok(cf_neox_bind(&golden->checkpoint.shape, golden->checkpoint.tensors,
                           golden->checkpoint.n_tensors, &golden->neox, &error),
              error);
    const char *text;
    assert_ok(cf_cpu_backend.model_create(&golden->neox, NULL, &golden->model, &text, &error),
              error);
    read_ids(golden, folder);
    golden->logits = golden_read(folder, "logits.f32");
    golden->hidden = golden_read(folder, "hidden.f32");
    return true;
}

static void golden_close(fixture *golden)
{
    cf_cpu_backend.model_free(golden->model);
    cf_neox_unbind(&golden->neox);
    cf_checkpoint_close(&golden->checkpoint);
    free(golden->logits);
    free(golden->hidden);
}

/* How a golden folder is evaluated. */
typedef struct manner {
    cf_isa isa;
    int32_t n_threads;
    cf_dtype kv_dtype;
    size_t n_chunk;
    bool poison;
} manner;

static cf_backend_session *session_open(const fixture *golden, manner way)
{
    cf_backend_options options = {.n_context = golden->n + 3,
                                  .n_chunk = way.n_chunk,
                                  .n_threads = way.n_threads,
                                  .kv_dtype = way.kv_dtype};
    cf_backend_session *session;
    cf_error error;
    assert_ok(cf_cpu_backend.session_create(golden->model, &options, &session, &error), error);
    cf_cpu_force_kernels(session, cf_kernels_get(way.isa));
    return session;
}

/* Fills the whole KV cache with NaNs: whatever is read before it is written then shows. */
static void poison(cf_backend_session *session)
{
    cf_session_memory memory;
    cf_error error;
    assert_ok(cf_cpu_backend.session_measure(session->model, &session->options, &memory, &error),
              error);
    memset(session->keys, 0xFF, memory.kv_bytes / 2);
    memset(session->values, 0xFF, memory.kv_bytes / 2);
}

static void evaluate(const fixture *golden, manner way, float *logits, float *hidden)
{
    cf_backend_session *session = session_open(golden, way);
    cf_error error;
    if (way.poison)
        poison(session);
    for (size_t pos = 0; pos < golden->n; pos += way.n_chunk) {
        size_t n = golden->n - pos < way.n_chunk ? golden->n - pos : way.n_chunk;
        cf_step step = {.ids = golden->ids + pos,
                        .n = n,
                        .pos = pos,
                        .logits = logits + pos * n_vocab(golden),
                        .n_logits = n,
                        .hidden = hidden,
                        .hidden_rows = golden->n,
                        .hidden_row = pos};
        assert_ok(cf_cpu_backend.step(session, &step, &error), error);
    }
    cf_cpu_backend.session_free(session);
}

/* Evaluates one way and compares everything with the reference. */
static void check(const fixture *golden, const char *folder, manner way)
{
    size_t n_logits = golden->n * n_vocab(golden);
    float *logits = calloc(n_logits, sizeof *logits);
    float *hidden = calloc(n_hidden(golden), sizeof *hidden);
    double tolerance = way.kv_dtype == CF_DTYPE_F32 ? TOLERANCE_F32 : TOLERANCE_F16_CACHE;
    evaluate(golden, way, logits, hidden);
    double of_logits = test_max_error(logits, golden->logits, n_logits);
    double of_hidden = test_max_error(hidden, golden->hidden, n_hidden(golden));
    if (!(of_logits <= tolerance) || !(of_hidden <= tolerance))
        fail_msg("%s, %s, %d threads, %s cache, chunks of %zu: logits differ by %g, hidden by %g",
                 folder, cf_kernels_get(way.isa)->name, way.n_threads, cf_dtype_name(way.kv_dtype),
                 way.n_chunk, of_logits, of_hidden);
    free(logits);
    free(hidden);
}

/* Calls `visit` for each folder; skips the test if none is there. */
static void for_each_golden(void (*visit)(const fixture *golden, const char *folder))
{
    size_t seen = 0;
    for (size_t i = 0; i < N_FOLDERS; i++) {
        fixture golden;
        if (!golden_open(&golden, folders[i])) {
            golden_close(&golden);
            continue;
        }
        visit(&golden, folders[i]);
        golden_close(&golden);
        seen++;
    }
    if (seen == 0)
        skip();
}

static void every_way(const fixture *golden, const char *folder)
{
    static const size_t chunks[] = {1, 2, 5, 24};
    for (int isa = 0; isa < CF_ISA_COUNT; isa++)
        for (size_t i = 0; i < 4 && cf_kernels_get((cf_isa)isa) != NULL; i++)
            for (int32_t n_threads = 1; n_threads <= 3; n_threads++) {
                manner way = {(cf_isa)isa, n_threads, CF_DTYPE_F32, chunks[i], true};
                check(golden, folder, way);
                way.kv_dtype = CF_DTYPE_F16;
                check(golden, folder, way);
            }
}

static void logits_and_hidden_states_agree_with_the_reference(void **state)
{
    (void)state;
    for_each_golden(every_way);
}

static void same_bits(const fixture *golden, const char *folder)
{
    size_t n_logits = golden->n * n_vocab(golden);
    float *one = calloc(n_logits, sizeof *one), *many = calloc(n_logits, sizeof *many);
    for (int isa = 0; isa < CF_ISA_COUNT; isa++)
        for (size_t n_chunk = 1; n_chunk <= 24 && cf_kernels_get((cf_isa)isa); n_chunk += 23) {
            manner way = {(cf_isa)isa, 1, CF_DTYPE_F16, n_chunk, true};
            evaluate(golden, way, one, NULL);
            for (way.n_threads = 2; way.n_threads <= 7; way.n_threads++) {
                evaluate(golden, way, many, NULL);
                if (memcmp(one, many, n_logits * sizeof *one) != 0)
                    fail_msg("%s: %d threads give other bits than one", folder, way.n_threads);
            }
        }
    free(one);
    free(many);
}

static void the_number_of_threads_does_not_change_a_bit(void **state)
{
    (void)state;
    for_each_golden(same_bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_hidden_states_agree_with_the_reference),
        cmocka_unit_test(the_number_of_threads_does_not_change_a_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
