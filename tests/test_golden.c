/*
 * The golden ladder through the public header: what other implementations computed for whole
 * checkpoints. Tolerances are relative errors ‖a − b‖ / ‖b‖ of a whole array, or absolute ones of
 * log-probabilities:
 *
 *   F32 KV cache: 2e-5. Both sides round to 24 bits (u = 6e-8). A sum of d ≤ 640 products in any
 *   order errs by about √d u ≈ 1.5e-6 of its scale; some six such sums follow each other in each of
 *   the layers, whose errors add up by their squares: √(6 × 6) × 1.5e-6 ≈ 1e-5.
 *   F16 KV cache: 5e-3. Keys and values round to 11 bits (u = 5e-4), once for each of up to six
 *   layers; scores of a few units turn key errors into as many times larger errors of weights.
 */
#include "support/support.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE_F32 2e-5
#define TOLERANCE_F16 5e-3

typedef struct golden {
    const char *model, *data; /* folders */
    json_t *root;
    size_t n;
    cf_token *ids;
    float *logits, *hidden;
    cf_model *opened;
} golden;

static cf_error error;

static cf_token *read_ids(json_t *root, const char *key, size_t *n)
{
    json_t *array = json_object_get(root, key);
    assert_true(json_is_array(array));
    *n = json_array_size(array);
    cf_token *ids = malloc((*n + 1) * sizeof *ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (cf_token)json_integer_value(json_array_get(array, i));
    return ids;
}

static const char *in_folder(const char *folder, const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void golden_open(golden *it, const char *model, const char *data)
{
    *it = (golden){.model = model, .data = data};
    assert_ok(cf_json_load(in_folder(data, "golden.json"), 1 << 24, &it->root, &error), error);
    it->ids = read_ids(it->root, "ids", &it->n);
    it->logits = test_read(in_folder(data, "logits.f32"), NULL);
    it->hidden = test_read(in_folder(data, "hidden.f32"), NULL);
    cf_model_options options = {.size = sizeof options, .backend = CF_BACKEND_CPU};
    assert_ok(cf_model_open(model, &options, &it->opened, &error), error);
}

static void golden_close(golden *it)
{
    cf_model_close(it->opened);
    free(it->ids);
    free(it->logits);
    free(it->hidden);
    json_decref(it->root);
}

static cf_session *open_session(const golden *it, cf_dtype kv_dtype, int32_t n_chunk)
{
    cf_session_options options = {
        .size = sizeof options, .kv_dtype = kv_dtype, .n_chunk = n_chunk, .n_threads = 1};
    cf_session *session;
    assert_ok(cf_session_create(it->opened, &options, &session, &error), error);
    return session;
}

static void check_within(const char *what, double found, double tolerance, int32_t n_chunk)
{
    if (!(found <= tolerance))
        fail_msg("%s in chunks of %d: error %g, tolerance %g", what, n_chunk, found, tolerance);
}

static void check_arrays(const golden *it, cf_dtype kv_dtype, int32_t n_chunk, double tolerance)
{
    const cf_shape *shape = cf_model_shape(it->opened);
    size_t n_logits = it->n * (size_t)shape->n_vocab;
    size_t n_row = it->n * (size_t)shape->d_model;
    float *logits = malloc(n_logits * sizeof *logits);
    float *hidden = malloc(((size_t)shape->n_layers + 1) * n_row * sizeof *hidden);
    cf_session *session = open_session(it, kv_dtype, n_chunk);
    cf_outputs outputs = {sizeof outputs, .logits = logits, .n_logits = it->n, .hidden = hidden};
    assert_ok(cf_session_eval(session, it->ids, it->n, &outputs, &error), error);
    for (size_t layer = 0; layer <= (size_t)shape->n_layers; layer++)
        check_within("hidden states",
                     test_relative_error(hidden + layer * n_row, it->hidden + layer * n_row, n_row),
                     tolerance, n_chunk);
    check_within("logits", test_relative_error(logits, it->logits, n_logits), tolerance, n_chunk);
    cf_session_free(session);
    free(logits);
    free(hidden);
}

static void check_scores(const golden *it, cf_dtype kv_dtype, double tolerance)
{
    json_t *expected = json_object_get(it->root, "token_logprobs");
    assert_int_equal(json_array_size(expected), it->n);
    float *logprobs = malloc(it->n * sizeof *logprobs);
    cf_session *session = open_session(it, kv_dtype, 0);
    assert_ok(cf_score(session, it->ids, it->n, NULL, logprobs, NULL, &error), error);
    assert_true(isnan(logprobs[0]) && json_is_null(json_array_get(expected, 0)));
    for (size_t i = 1; i < it->n; i++) {
        double wanted = json_number_value(json_array_get(expected, i));
        check_within("log-probability", fabs((double)logprobs[i] - wanted) / fmax(1, fabs(wanted)),
                     tolerance, (int32_t)i);
    }
    cf_session_free(session);
    free(logprobs);
}

typedef struct collected {
    cf_token ids[256];
    size_t n;
} collected;

static bool collect(void *user, const cf_event *event)
{
    collected *to = user;
    if (event->kind == CF_EVENT_TOKEN)
        to->ids[to->n++] = event->token;
    return true;
}

static void check_greedy(const golden *it, cf_dtype kv_dtype)
{
    size_t n_prompt, n_greedy;
    cf_token *prompt = read_ids(it->root, "greedy_prompt", &n_prompt);
    cf_token *greedy = read_ids(it->root, "greedy", &n_greedy);
    assert_in_range(n_greedy, 1, 256);
    cf_session *session = open_session(it, kv_dtype, 0);
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    collected found = {.n = 0};
    assert_ok(cf_generate(session, NULL, prompt, n_prompt, n_greedy, &options, collect, &found,
                          NULL, &error),
              error);
    assert_int_equal(found.n, n_greedy);
    assert_memory_equal(found.ids, greedy, n_greedy * sizeof *greedy);
    cf_session_free(session);
    free(prompt);
    free(greedy);
}

static void check_folder(const char *model, const char *data)
{
    if (model == NULL || data == NULL) {
        print_message("the golden data is not there\n");
        skip();
    }
    golden it;
    char *model_path = strdup(model), *data_path = strdup(data);
    golden_open(&it, model_path, data_path);
    for (int32_t n_chunk = 1; n_chunk <= 32; n_chunk = n_chunk * 3 - 1 + (n_chunk == 1)) {
        check_arrays(&it, CF_DTYPE_F32, n_chunk, TOLERANCE_F32);
        check_arrays(&it, CF_DTYPE_F16, n_chunk, TOLERANCE_F16);
    }
    check_scores(&it, CF_DTYPE_F32, TOLERANCE_F32);
    check_scores(&it, CF_DTYPE_F16, TOLERANCE_F16);
    check_greedy(&it, CF_DTYPE_F32);
    golden_close(&it);
    free(model_path);
    free(data_path);
}

static void check_shared(const char *name)
{
    char relative[64];
    snprintf(relative, sizeof relative, "golden/%s", name);
    const char *folder = test_shared_path(relative);
    check_folder(folder, folder);
}

static void rotary_base_1000_agrees(void **state)
{
    (void)state;
    check_shared("base1000");
}

static void a_pytorch_checkpoint_agrees(void **state)
{
    (void)state;
    check_shared("bin");
}

static void head_width_80_agrees(void **state)
{
    (void)state;
    check_shared("hd80");
}

static void sequential_layers_with_full_rotary_agree(void **state)
{
    (void)state;
    check_shared("seq-pct100");
}

static void the_newest_config_spelling_agrees(void **state)
{
    (void)state;
    check_shared("v5-config");
}

static void the_bundled_model_agrees(void **state)
{
    (void)state;
    check_folder(test_path("models/classics"), test_path("tests/data/classics_golden"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rotary_base_1000_agrees),
        cmocka_unit_test(a_pytorch_checkpoint_agrees),
        cmocka_unit_test(head_width_80_agrees),
        cmocka_unit_test(sequential_layers_with_full_rotary_agree),
        cmocka_unit_test(the_newest_config_spelling_agrees),
        cmocka_unit_test(the_bundled_model_agrees),
    };
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
