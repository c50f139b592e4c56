/* Models and sessions: the contract of the header's sections 4 and 6, on a scripted backend. */
#include "support/script_backend.h"
#include "support/tiny_model.h"

#include "engine/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static cf_error error;

typedef struct bench {
    tiny_model tiny;
    cf_session *session;
} bench;

static int set_up(void **state)
{
    test_script = (script){0};
    bench *made = calloc(1, sizeof *made);
    cf_shape shape = tiny_shape();
    tiny_model_create(&made->tiny, &shape, 1, &script_backend);
    assert_ok(cf_session_create(made->tiny.model, NULL, &made->session, &error), error);
    *state = made;
    return 0;
}

static int tear_down(void **state)
{
    bench *made = *state;
    cf_session_free(made->session);
    assert_int_equal(test_script.n_sessions, 0);
    tiny_model_free(&made->tiny);
    assert_int_equal(test_script.n_models, 0);
    free(made);
    return 0;
}

static void expected_logits(const cf_token *ids, size_t n, float logits[96])
{
    script_hashed_logits(ids, n, logits, 96);
}

/* ---- Models ---- */

static void a_model_tells_its_facts(void **state)
{
    const bench *made = *state;
    const cf_model_info *info = cf_model_info_get(made->tiny.model);
    const cf_shape *shape = cf_model_shape(made->tiny.model);
    assert_int_equal(shape->d_ffn, 128);
    assert_int_equal(info->backend, CF_BACKEND_CPU);
    assert_string_equal(info->backend_text, "scripted");
    assert_null(info->path);
    assert_int_equal(info->n_files, 0);
    assert_null(cf_model_file(made->tiny.model, 0));
    assert_int_equal(info->n_tensors, 2 * 12 + 4);
    uint64_t layer = 4 * 32 + 3 * 32 * 32 + 3 * 32 + 32 * 32 + 32 + 2 * 128 * 32 + 128 + 32;
    uint64_t n = 2 * layer + 2 * 96 * 32 + 64;
    assert_int_equal(info->n_parameters, n);
    assert_int_equal(info->weight_bytes, 4 * n);
    assert_int_equal(info->token_bytes, 4 * (n - 96 * 32 + 32));
}

static void a_tied_embedding_counts_once_and_is_read_whole(void **state)
{
    (void)state;
    tiny_model tiny;
    cf_shape shape = tiny_shape();
    shape.tied_embeddings = true;
    tiny_model_create(&tiny, &shape, 1, &script_backend);
    const cf_model_info *info = cf_model_info_get(tiny.model);
    assert_int_equal(info->n_tensors, 2 * 12 + 3);
    assert_int_equal(info->token_bytes, info->weight_bytes + 4 * 32);
    tiny_model_free(&tiny);
}

static void tensors_come_sorted_by_plain_name(void **state)
{
    const bench *made = *state;
    size_t n = (size_t)cf_model_info_get(made->tiny.model)->n_tensors;
    for (size_t i = 1; i < n; i++) {
        const char *before = cf_neox_plain_name(cf_model_tensor(made->tiny.model, i - 1)->name);
        const char *after = cf_neox_plain_name(cf_model_tensor(made->tiny.model, i)->name);
        assert_true(strcmp(before, after) < 0);
    }
    assert_null(cf_model_tensor(made->tiny.model, n));
    assert_null(cf_model_tensor(made->tiny.model, SIZE_MAX));
}

static void names_are_copied_and_data_is_used_in_place(void **state)
{
    (void)state;
    tiny_model tiny;
    cf_shape shape = tiny_shape();
    tiny_model_create(&tiny, &shape, 1, &script_backend);
    memset(tiny.memory[1], 'x', 80 * tiny.n_tensors - 1);
    const cf_tensor *first = cf_model_tensor(tiny.model, 0);
    assert_string_equal(first->name, "embed_in.weight");
    bool is_found = false;
    for (size_t i = 0; i < tiny.n_tensors; i++)
        is_found |= tiny.tensors[i].data == first->data;
    assert_true(is_found);
    tiny_model_free(&tiny);
}

static void hash_of(tiny_model *tiny, char hash[33])
{
    assert_ok(cf_model_hash(tiny->model, NULL, NULL, hash, &error), error);
    assert_int_equal(strlen(hash), 32);
    assert_int_equal(strspn(hash, "0123456789abcdef"), 32);
}

static void the_hash_depends_on_weights_and_not_on_their_order_or_prefix(void **state)
{
    (void)state;
    cf_shape shape = tiny_shape();
    tiny_model a, b;
    char first[33], second[33];
    tiny_model_create(&a, &shape, 1, &script_backend);
    hash_of(&a, first);
    tiny_weights_create(&b, &shape, 1);
    for (size_t i = 0; i < b.n_tensors / 2; i++) {
        cf_tensor swapped = b.tensors[i];
        b.tensors[i] = b.tensors[b.n_tensors - 1 - i];
        b.tensors[b.n_tensors - 1 - i] = swapped;
    }
    for (size_t i = 0; i < b.n_tensors; i++)
        b.tensors[i].name = cf_neox_plain_name(b.tensors[i].name);
    assert_ok(cf_model_create_with(&script_backend, &shape, b.tensors, b.n_tensors, NULL, &b.model,
                                   &error),
              error);
    hash_of(&b, second);
    assert_string_equal(first, second);
    /* The last bit of the last weight. */
    const cf_tensor *last = &b.tensors[0];
    size_t n = (size_t)(last->dims[0] * last->dims[1]);
    uint8_t *byte = (uint8_t *)(uintptr_t)last->data + 4 * n - 4;
    *byte ^= 1;
    hash_of(&b, second);
    assert_string_not_equal(first, second);
    tiny_model_free(&a);
    tiny_model_free(&b);
}

static bool count_and_stop(void *user, const char *what, uint64_t done, uint64_t total)
{
    int *n_left = user;
    assert_true(done <= total);
    assert_true(strlen(what) > 0);
    return --*n_left > 0;
}

static void hashing_can_be_cancelled(void **state)
{
    const bench *made = *state;
    char hash[33];
    int n_left = 3;
    assert_fails(cf_model_hash(made->tiny.model, count_and_stop, &n_left, hash, &error),
                 CF_STATUS_CANCELLED, error, "hash");
    assert_int_equal(n_left, 0);
    assert_string_equal(hash, "");
}

static void bad_tensors_are_refused_by_name(void **state)
{
    (void)state;
    cf_shape shape = tiny_shape();
    tiny_model tiny;
    cf_model *model = (cf_model *)&tiny;
    tiny_weights_create(&tiny, &shape, 1);
    cf_tensor *tensor = &tiny.tensors[2], good = *tensor;
#define REFUSED(status, part)                                                                      \
    assert_fails(cf_model_create_with(&script_backend, &shape, tiny.tensors, tiny.n_tensors, NULL, \
                                      &model, &error),                                             \
                 status, error, part);                                                             \
    assert_null(model);                                                                            \
    *tensor = good
    tensor->name = NULL;
    REFUSED(CF_STATUS_INVALID_ARGUMENT, "tensor 2 has no name");
    tensor->data = NULL;
    REFUSED(CF_STATUS_INVALID_ARGUMENT, "layers.0.attention.query_key_value.weight has no data");
    tensor->data = (const char *)good.data + 1;
    REFUSED(CF_STATUS_INVALID_ARGUMENT, "query_key_value.weight lies at");
    tensor->device = 0;
    REFUSED(CF_STATUS_INVALID_ARGUMENT, "is on device 0");
    tensor->dims[0] = 95;
    REFUSED(CF_STATUS_BAD_FILE, "[95,32]");
    tensor->name = "gpt_neox.layers.0.attention.qkv.weight";
    REFUSED(CF_STATUS_BAD_FILE, "attention.qkv.weight");
    tensor->dtype = (cf_dtype)9;
    REFUSED(CF_STATUS_UNSUPPORTED, "dtype");
#undef REFUSED
    assert_int_equal(test_script.n_models, 1); /* the one of set_up */
    tiny_model_free(&tiny);
}

static void options_of_older_and_newer_callers_are_understood(void **state)
{
    const bench *made = *state;
    struct {
        cf_session_options known;
        uint64_t unknown;
    } newer = {.known = {.size = sizeof newer, .n_context = 5}};
    cf_session_memory memory;
    assert_ok(cf_session_measure(made->tiny.model, &newer.known, &memory, &error), error);
    assert_int_equal(memory.kv_bytes, 10);
    newer.unknown = 1;
    assert_fails(cf_session_measure(made->tiny.model, &newer.known, &memory, &error),
                 CF_STATUS_UNSUPPORTED, error, "session options");
    assert_int_equal(memory.kv_bytes, 0);
    cf_session_options older = {
        .size = offsetof(cf_session_options, kv_dtype), .n_context = 5, .kv_dtype = (cf_dtype)77};
    assert_ok(cf_session_measure(made->tiny.model, &older, &memory, &error), error);
    older.size = 0;
    assert_fails(cf_session_measure(made->tiny.model, &older, &memory, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "size is 0");
}

static void backends_are_checked(void **state)
{
    (void)state;
    assert_ok(cf_backend_check(CF_BACKEND_CPU, &error), error);
    assert_ok(cf_backend_check(CF_BACKEND_AUTO, &error), error);
    assert_fails(cf_backend_check((cf_backend)7, &error), CF_STATUS_INVALID_ARGUMENT, error, "7");
    cf_status status = cf_backend_check(CF_BACKEND_CUDA, &error);
    assert_true(status == CF_STATUS_OK || status == CF_STATUS_UNSUPPORTED ||
                status == CF_STATUS_NO_DEVICE);
}

static void nulls_are_answered(void **state)
{
    const bench *made = *state;
    cf_model *model;
    cf_session *session;
    cf_token id = 1;
    assert_fails(cf_model_open(NULL, NULL, &model, &error), CF_STATUS_INVALID_ARGUMENT, error,
                 "path is NULL");
    assert_null(model);
    assert_fails(cf_model_open("x", NULL, NULL, &error), CF_STATUS_INVALID_ARGUMENT, error,
                 "model is NULL");
    assert_fails(cf_model_create(NULL, made->tiny.tensors, 1, NULL, &model, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "shape is NULL");
    assert_fails(cf_model_create(cf_model_shape(made->tiny.model), NULL, 1, NULL, &model, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "tensors is NULL");
    assert_fails(cf_model_hash(NULL, NULL, NULL, (char[33]){0}, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "model is NULL");
    assert_fails(cf_session_create(NULL, NULL, &session, &error), CF_STATUS_INVALID_ARGUMENT, error,
                 "model is NULL");
    assert_fails(cf_session_create(made->tiny.model, NULL, NULL, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "session is NULL");
    assert_fails(cf_session_eval(NULL, &id, 1, NULL, &error), CF_STATUS_INVALID_ARGUMENT, error,
                 "session is NULL");
    assert_fails(cf_session_eval(made->session, NULL, 1, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "NULL");
    assert_fails(cf_session_rewind(NULL, 0, &error), CF_STATUS_INVALID_ARGUMENT, error, "NULL");
    assert_int_equal(cf_session_eval(NULL, &id, 1, NULL, NULL), CF_STATUS_INVALID_ARGUMENT);
    cf_model_close(NULL);
    cf_session_free(NULL);
    assert_null(cf_model_shape(NULL));
    assert_null(cf_model_info_get(NULL));
    assert_null(cf_model_tensor(NULL, 0));
    assert_int_equal(cf_session_n_tokens(NULL), 0);
    assert_int_equal(cf_session_reuse(NULL, &id, 1), 0);
}

static void a_missing_folder_is_not_found(void **state)
{
    (void)state;
    cf_model *model = (cf_model *)&error;
    assert_fails(cf_model_open("/nonexistent/folder", NULL, &model, &error), CF_STATUS_NOT_FOUND,
                 error, "/nonexistent/folder");
    assert_null(model);
}

static void ceilings_come_from_the_backend(void **state)
{
    const bench *made = *state;
    cf_ceilings ceilings;
    assert_ok(cf_model_measure(made->tiny.model, 0, 17, &ceilings, &error), error);
    assert_true(ceilings.read_bytes_per_s == 1 && ceilings.matmul_s == 17);
    assert_fails(cf_model_measure(made->tiny.model, -1, 17, &ceilings, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "n_threads");
    assert_true(ceilings.matmul_s == 0);
}

/* ---- Sessions ---- */

static void session_options_have_bounds(void **state)
{
    const bench *made = *state;
    static const struct {
        cf_session_options options;
        cf_status status;
        const char *part;
    } cases[] = {
        {{.n_context = -1}, CF_STATUS_INVALID_ARGUMENT, "n_context is -1"},
        {{.n_context = (1 << 24) + 1}, CF_STATUS_INVALID_ARGUMENT, "n_context"},
        {{.n_threads = -1}, CF_STATUS_INVALID_ARGUMENT, "n_threads is -1"},
        {{.n_threads = 1025}, CF_STATUS_INVALID_ARGUMENT, "n_threads is 1025"},
        {{.n_chunk = -1}, CF_STATUS_INVALID_ARGUMENT, "n_chunk"},
        {{.kv_dtype = CF_DTYPE_BF16}, CF_STATUS_UNSUPPORTED, "BF16"},
        {{.kv_dtype = (cf_dtype)12}, CF_STATUS_INVALID_ARGUMENT, "kv_dtype"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cf_session_options options = cases[i].options;
        options.size = sizeof options;
        cf_session *session = made->session;
        cf_session_memory memory = {1, 1};
        assert_fails(cf_session_create(made->tiny.model, &options, &session, &error),
                     cases[i].status, error, cases[i].part);
        assert_null(session);
        assert_fails(cf_session_measure(made->tiny.model, &options, &memory, &error),
                     cases[i].status, error, cases[i].part);
        assert_int_equal(memory.scratch_bytes, 0);
    }
}

static void defaults_are_the_models_and_the_backends(void **state)
{
    const bench *made = *state;
    cf_session_memory memory;
    assert_int_equal(cf_session_n_context(made->session), 64);
    assert_ptr_equal(cf_session_model(made->session), made->tiny.model);
    assert_int_equal(cf_session_n_tokens(made->session), 0);
    assert_ok(cf_session_measure(made->tiny.model, NULL, &memory, &error), error);
    assert_int_equal(memory.kv_bytes, 64 * 2);
    assert_int_equal(memory.scratch_bytes, 1000 + 64 * sizeof(cf_token));
}

static void logits_are_of_the_last_tokens_whatever_the_chunk(void **state)
{
    const bench *made = *state;
    cf_token ids[23];
    for (size_t i = 0; i < 23; i++)
        ids[i] = (cf_token)((i * 31 + 5) % 96);
    for (int32_t n_chunk = 1; n_chunk <= 24; n_chunk++)
        for (size_t n_logits = 0; n_logits <= 23; n_logits++) {
            cf_session_options options = {.size = sizeof options, .n_chunk = n_chunk};
            cf_session *session;
            assert_ok(cf_session_create(made->tiny.model, &options, &session, &error), error);
            float logits[24][96], expected[96];
            for (size_t i = 0; i < 96; i++)
                logits[n_logits][i] = 77;
            cf_outputs outputs = {sizeof outputs, .logits = logits[0], .n_logits = n_logits};
            assert_ok(cf_session_eval(session, ids, 23, &outputs, &error), error);
            for (size_t row = 0; row < n_logits; row++) {
                expected_logits(ids, 23 - n_logits + row + 1, expected);
                assert_memory_equal(logits[row], expected, sizeof expected);
            }
            for (size_t i = 0; i < 96; i++)
                assert_true(logits[n_logits][i] == 77);
            cf_session_free(session);
        }
}

static void hidden_states_are_layer_by_layer_whatever_the_chunk(void **state)
{
    const bench *made = *state;
    cf_token ids[11] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11};
    assert_ok(cf_session_eval(made->session, ids, 3, NULL, &error), error);
    float hidden[3][11][32];
    cf_outputs outputs = {sizeof outputs, .hidden = hidden[0][0]};
    assert_ok(cf_session_eval(made->session, ids, 11, &outputs, &error), error);
    for (size_t layer = 0; layer < 3; layer++)
        for (size_t i = 0; i < 11; i++)
            assert_true(hidden[layer][i][31] ==
                        (float)(layer * 1000000 + (3 + i) * 1000 + (size_t)ids[i]));
}

static void a_session_holds_what_was_evaluated(void **state)
{
    const bench *made = *state;
    cf_token ids[6] = {1, 2, 3, 4, 5, 6};
    assert_ok(cf_session_eval(made->session, ids, 4, NULL, &error), error);
    assert_ok(cf_session_eval(made->session, ids + 4, 2, NULL, &error), error);
    assert_int_equal(cf_session_n_tokens(made->session), 6);
    assert_memory_equal(cf_session_tokens(made->session), ids, sizeof ids);
    assert_fails(cf_session_rewind(made->session, 7, &error), CF_STATUS_INVALID_ARGUMENT, error,
                 "holds 6");
    assert_int_equal(cf_session_n_tokens(made->session), 6);
    assert_ok(cf_session_rewind(made->session, 2, &error), error);
    assert_int_equal(cf_session_n_tokens(made->session), 2);
    float logits[96], expected[96];
    cf_token other[3] = {1, 2, 50};
    cf_outputs outputs = {sizeof outputs, .logits = logits, .n_logits = 1};
    assert_ok(cf_session_eval(made->session, other + 2, 1, &outputs, &error), error);
    expected_logits(other, 3, expected);
    assert_memory_equal(logits, expected, sizeof expected);
}

static void reuse_keeps_the_common_beginning(void **state)
{
    const bench *made = *state;
    cf_token ids[6] = {1, 2, 3, 4, 5, 6}, other[8] = {1, 2, 3, 9, 5, 6, 7, 8};
    assert_ok(cf_session_eval(made->session, ids, 6, NULL, &error), error);
    assert_int_equal(cf_session_reuse(made->session, other, 8), 3);
    assert_int_equal(cf_session_n_tokens(made->session), 3);
    assert_int_equal(cf_session_reuse(made->session, other, 2), 2);
    assert_int_equal(cf_session_reuse(made->session, ids, 6), 2);
    assert_int_equal(cf_session_reuse(made->session, other + 1, 2), 0);
    assert_int_equal(cf_session_n_tokens(made->session), 0);
}

static void bad_evaluations_leave_the_session_as_it_was(void **state)
{
    const bench *made = *state;
    cf_token ids[64];
    for (size_t i = 0; i < 64; i++)
        ids[i] = 3;
    assert_ok(cf_session_eval(made->session, ids, 10, NULL, &error), error);
    assert_fails(cf_session_eval(made->session, ids, 0, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "no tokens");
    assert_fails(cf_session_eval(made->session, ids, 55, NULL, &error), CF_STATUS_CONTEXT_FULL,
                 error, "55 tokens after 10, the context holds 64");
    assert_fails(cf_session_eval(made->session, ids, SIZE_MAX, NULL, &error),
                 CF_STATUS_CONTEXT_FULL, error, "holds 64");
    ids[20] = 96;
    assert_fails(cf_session_eval(made->session, ids, 30, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "token 20 has id 96");
    ids[20] = -1;
    assert_fails(cf_session_eval(made->session, ids, 30, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "token 20 has id -1");
    float logits[96];
    cf_outputs outputs = {sizeof outputs, .logits = logits, .n_logits = 4};
    assert_fails(cf_session_eval(made->session, ids, 3, &outputs, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "logits of 4 tokens");
    assert_int_equal(cf_session_n_tokens(made->session), 10);
    assert_int_equal(test_script.n_evaluated, 10);
}

typedef struct progress_log {
    size_t n;
    uint64_t done[16];
    size_t stop_at;
} progress_log;

static bool log_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    progress_log *log = user;
    assert_string_equal(what, "prompt");
    assert_int_equal(total, 20);
    log->done[log->n++] = done;
    return log->n != log->stop_at;
}

static void progress_comes_after_each_chunk_and_can_cancel(void **state)
{
    const bench *made = *state;
    cf_token ids[20] = {0};
    progress_log log = {0};
    cf_outputs outputs = {sizeof outputs, .progress = log_progress, .progress_user = &log};
    assert_ok(cf_session_eval(made->session, ids, 20, &outputs, &error), error);
    assert_int_equal(log.n, 3);
    assert_true(log.done[0] == 8 && log.done[1] == 16 && log.done[2] == 20);
    log = (progress_log){.stop_at = 2};
    assert_fails(cf_session_eval(made->session, ids, 20, &outputs, &error), CF_STATUS_CANCELLED,
                 error, "16 of 20");
    assert_int_equal(cf_session_n_tokens(made->session), 20);
    log = (progress_log){0};
    assert_ok(cf_session_eval(made->session, ids, 20, &outputs, &error), error);
    assert_int_equal(cf_session_n_tokens(made->session), 40);
}

static void a_failed_device_kills_the_session_and_no_other(void **state)
{
    const bench *made = *state;
    cf_token ids[4] = {1, 2, 3, 4};
    cf_session *other;
    assert_ok(cf_session_create(made->tiny.model, NULL, &other, &error), error);
    assert_ok(cf_session_eval(made->session, ids, 2, NULL, &error), error);
    test_script.fail_at = test_script.n_steps + 1;
    test_script.fail_with = CF_STATUS_DEVICE;
    assert_fails(cf_session_eval(made->session, ids, 2, NULL, &error), CF_STATUS_DEVICE, error,
                 "as the script says");
    assert_fails(cf_session_eval(made->session, ids, 2, NULL, &error), CF_STATUS_DEVICE, error,
                 "dead");
    assert_ok(cf_session_rewind(made->session, 0, &error), error);
    assert_fails(cf_session_eval(made->session, ids, 2, NULL, &error), CF_STATUS_DEVICE, error,
                 "dead");
    assert_fails(cf_score(made->session, ids, 4, NULL, (float[4]){0}, NULL, &error),
                 CF_STATUS_DEVICE, error, "dead");
    assert_ok(cf_session_eval(other, ids, 2, NULL, &error), error);
    cf_session_free(other);
}

static void another_failure_leaves_the_session_usable(void **state)
{
    const bench *made = *state;
    cf_token ids[20] = {1, 2, 3, 4};
    assert_ok(cf_session_eval(made->session, ids, 2, NULL, &error), error);
    test_script.fail_at = test_script.n_steps + 2;
    test_script.fail_with = CF_STATUS_OUT_OF_MEMORY;
    assert_fails(cf_session_eval(made->session, ids, 20, NULL, &error), CF_STATUS_OUT_OF_MEMORY,
                 error, "script");
    assert_int_equal(cf_session_n_tokens(made->session), 2);
    assert_ok(cf_session_eval(made->session, ids + 2, 2, NULL, &error), error);
    assert_memory_equal(cf_session_tokens(made->session), ids, 4 * sizeof *ids);
}

static void count_span(void *user, const cf_span *span)
{
    assert_non_null(span);
    ++*(size_t *)user;
}

static void keep_span(void *user, const cf_span *span)
{
    *(cf_span *)user = *span;
}

static void a_trace_is_of_the_next_position_and_leaves_the_session_there(void **state)
{
    cf_token ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    cf_session_options options = {.size = sizeof options, .n_context = 8};
    cf_shape shape = tiny_shape();
    tiny_model tiny;
    cf_session *session;
    cf_span span = {0};
    (void)state;
    test_script = (script){0};
    tiny_model_create(&tiny, &shape, 1, &script_clock_backend);
    assert_ok(cf_session_create(tiny.model, &options, &session, &error), error);
    assert_ok(cf_session_eval(session, ids, 7, NULL, &error), error);
    assert_ok(cf_session_trace(session, 42, keep_span, &span, &error), error);
    assert_int_equal(span.block, 42); /* the script says the token and the position */
    assert_int_equal(span.layer, 7);
    assert_ok(cf_session_eval(session, ids, 1, NULL, &error), error); /* it still has room */
    assert_fails(cf_session_trace(session, 42, keep_span, &span, &error), CF_STATUS_CONTEXT_FULL,
                 error, "the context holds 8");
    assert_ok(cf_session_rewind(session, 2, &error), error);
    test_script.fail_at = test_script.n_steps + 1;
    test_script.fail_with = CF_STATUS_DEVICE;
    assert_fails(cf_session_trace(session, 42, keep_span, &span, &error), CF_STATUS_DEVICE, error,
                 "as the script says");
    assert_fails(cf_session_trace(session, 42, keep_span, &span, &error), CF_STATUS_DEVICE, error,
                 "dead");
    cf_session_free(session);
    tiny_model_free(&tiny);
}

static void a_backend_without_a_clock_traces_nothing(void **state)
{
    bench *made = *state;
    size_t n = 0;
    assert_fails(cf_session_trace(made->session, 5, count_span, &n, &error), CF_STATUS_UNSUPPORTED,
                 error, "has no clock");
    assert_fails(cf_session_trace(made->session, -1, count_span, &n, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "token");
    assert_fails(cf_session_trace(made->session, 5, NULL, NULL, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "span");
    assert_fails(cf_session_trace(NULL, 5, count_span, &n, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "session");
    assert_int_equal(n, 0);
}

#define WITH_SESSION(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SESSION(a_model_tells_its_facts),
        WITH_SESSION(a_tied_embedding_counts_once_and_is_read_whole),
        WITH_SESSION(tensors_come_sorted_by_plain_name),
        WITH_SESSION(names_are_copied_and_data_is_used_in_place),
        WITH_SESSION(the_hash_depends_on_weights_and_not_on_their_order_or_prefix),
        WITH_SESSION(hashing_can_be_cancelled),
        WITH_SESSION(bad_tensors_are_refused_by_name),
        WITH_SESSION(options_of_older_and_newer_callers_are_understood),
        WITH_SESSION(a_backend_without_a_clock_traces_nothing),
        cmocka_unit_test(a_trace_is_of_the_next_position_and_leaves_the_session_there),
        cmocka_unit_test(backends_are_checked),
        WITH_SESSION(nulls_are_answered),
        cmocka_unit_test(a_missing_folder_is_not_found),
        WITH_SESSION(ceilings_come_from_the_backend),
        WITH_SESSION(session_options_have_bounds),
        WITH_SESSION(defaults_are_the_models_and_the_backends),
        WITH_SESSION(logits_are_of_the_last_tokens_whatever_the_chunk),
        WITH_SESSION(hidden_states_are_layer_by_layer_whatever_the_chunk),
        WITH_SESSION(a_session_holds_what_was_evaluated),
        WITH_SESSION(reuse_keeps_the_common_beginning),
        WITH_SESSION(bad_evaluations_leave_the_session_as_it_was),
        WITH_SESSION(progress_comes_after_each_chunk_and_can_cancel),
        WITH_SESSION(a_failed_device_kills_the_session_and_no_other),
        WITH_SESSION(another_failure_leaves_the_session_usable),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
