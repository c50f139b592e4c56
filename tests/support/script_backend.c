#include "support/script_backend.h"

#include "base/memory.h"
#include "base/random.h"
#include "base/status.h"

#include <math.h>
#include <string.h>

script test_script;

struct cf_backend_model {
    const cf_neox *neox;
};

struct cf_backend_session {
    const cf_neox *neox;
    cf_backend_options options;
    cf_token *cache; /* [n_context]: stands for keys and values */
};

void script_hashed_logits(const cf_token *ids, size_t n, float *logits, size_t n_vocab)
{
    uint64_t key = n;
    for (size_t i = 0; i < n; i++) {
        uint32_t words[4];
        cf_philox(key, (uint32_t[4]){(uint32_t)ids[i], (uint32_t)i, 7, 7}, words);
        key = (uint64_t)words[0] << 32 | words[1];
    }
    for (size_t i = 0; i < n_vocab; i++) {
        double sum = -3;
        for (uint64_t j = 0; j < 6; j++)
            sum += cf_random_uniform(key, i * 6 + j);
        logits[i] = (float)(2.8 * sum);
    }
}

static cf_status check(cf_error *error)
{
    (void)error;
    return CF_STATUS_OK;
}

static cf_status model_create(const cf_neox *neox, const cf_model_options *options,
                              cf_backend_model **model, const char **text, cf_error *error)
{
    assert_int_equal(options->size, sizeof *options);
    CF_TRY(CF_ALLOC(model, 1, "scripted model", error));
    (*model)->neox = neox;
    *text = "scripted";
    test_script.n_models++;
    return CF_STATUS_OK;
}

static void model_free(cf_backend_model *model)
{
    test_script.n_models--;
    cf_dealloc(model);
}

static void session_defaults(const cf_backend_model *model, cf_backend_options *options)
{
    (void)model;
    if (options->n_threads == 0)
        options->n_threads = 1;
    if (options->n_chunk == 0)
        options->n_chunk = test_script.n_chunk != 0 ? test_script.n_chunk : 8;
    if (options->kv_dtype == CF_DTYPE_DEFAULT)
        options->kv_dtype = CF_DTYPE_F16;
}

static void check_options(const cf_backend_options *options)
{
    assert_in_range(options->n_context, 1, 1 << 24);
    assert_in_range(options->n_chunk, 1, options->n_context);
    assert_in_range(options->n_threads, 1, 1024);
    assert_true(options->kv_dtype == CF_DTYPE_F16 || options->kv_dtype == CF_DTYPE_F32);
}

static cf_status session_measure(const cf_backend_model *model, const cf_backend_options *options,
                                 cf_session_memory *memory, cf_error *error)
{
    (void)model, (void)error;
    check_options(options);
    *memory = (cf_session_memory){options->n_context * cf_dtype_bytes(options->kv_dtype), 1000};
    return CF_STATUS_OK;
}

static cf_status session_create(const cf_backend_model *model, const cf_backend_options *options,
                                cf_backend_session **session, cf_error *error)
{
    check_options(options);
    cf_backend_session *created;
    CF_TRY(CF_ALLOC(&created, 1, "scripted session", error));
    created->neox = model->neox;
    created->options = *options;
    cf_status status = CF_ALLOC(&created->cache, options->n_context, "scripted cache", error);
    if (status != CF_STATUS_OK) {
        cf_dealloc(created);
        return status;
    }
    memset(created->cache, 0xFF, options->n_context * sizeof *created->cache);
    *session = created;
    test_script.n_sessions++;
    return CF_STATUS_OK;
}

static void session_free(cf_backend_session *session)
{
    test_script.n_sessions--;
    cf_dealloc(session->cache);
    cf_dealloc(session);
}

static void check_step(const cf_backend_session *session, const cf_step *step)
{
    assert_in_range(step->n, 1, session->options.n_chunk);
    assert_true(step->pos + step->n <= session->options.n_context);
    assert_true(step->n_logits <= step->n);
    assert_int_equal(step->logits == NULL, step->n_logits == 0);
    for (size_t i = 0; i < step->n; i++)
        assert_in_range(step->ids[i], 0, session->neox->shape.n_vocab - 1);
    for (size_t i = 0; i < step->pos; i++) /* what was not written by a step is not there */
        assert_int_not_equal(session->cache[i], -1);
}

/* Each row says whose it is: layer, position, token. */
static void write_hidden(const cf_backend_session *session, const cf_step *step)
{
    size_t d_model = (size_t)session->neox->shape.d_model;
    for (size_t layer = 0; layer <= (size_t)session->neox->shape.n_layers; layer++)
        for (size_t i = 0; i < step->n; i++) {
            float *row =
                step->hidden + (layer * step->hidden_rows + step->hidden_row + i) * d_model;
            for (size_t j = 0; j < d_model; j++)
                row[j] = (float)(layer * 1000000 + (step->pos + i) * 1000 + (size_t)step->ids[i]);
        }
}

static cf_status step_once(cf_backend_session *session, const cf_step *step, cf_error *error)
{
    check_step(session, step);
    memcpy(session->cache + step->pos, step->ids, step->n * sizeof *step->ids);
    test_script.n_steps++;
    test_script.n_evaluated += step->n;
    test_script.n_rows += step->n_logits;
    if (test_script.n_steps == test_script.fail_at)
        return cf_fail(error, test_script.fail_with, "as the script says");
    size_t n_vocab = (size_t)session->neox->shape.n_vocab;
    script_logits_fn write = test_script.logits != NULL ? test_script.logits : script_hashed_logits;
    for (size_t i = 0; i < step->n_logits; i++)
        write(session->cache, step->pos + step->n - step->n_logits + i + 1,
              step->logits + i * n_vocab, n_vocab);
    if (step->hidden != NULL)
        write_hidden(session, step);
    return CF_STATUS_OK;
}

static cf_status measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                         cf_ceilings *ceilings, cf_error *error)
{
    (void)model, (void)error;
    *ceilings = (cf_ceilings){.read_bytes_per_s = n_threads, .matmul_s = (double)n_tokens};
    return CF_STATUS_OK;
}

/* One span, of the token and its position; a failure in what would be the next step. */
static cf_status trace(cf_backend_session *session, cf_token token, size_t pos, cf_span_fn span,
                       void *user, cf_error *error)
{
    cf_span one = {.stage = "scripted", .role = "script", .block = token, .layer = (int32_t)pos};
    assert_in_range(pos, 0, session->options.n_context - 1);
    if (test_script.n_steps + 1 == test_script.fail_at)
        return cf_fail(error, test_script.fail_with, "as the script says");
    span(user, &one);
    return CF_STATUS_OK;
}

const cf_backend_interface script_clock_backend = {
    .id = CF_BACKEND_CUDA,
    .check = check,
    .model_create = model_create,
    .model_free = model_free,
    .session_defaults = session_defaults,
    .session_measure = session_measure,
    .session_create = session_create,
    .session_free = session_free,
    .step = step_once,
    .measure = measure,
    .trace = trace,
};

const cf_backend_interface script_backend = {
    .id = CF_BACKEND_CPU,
    .check = check,
    .model_create = model_create,
    .model_free = model_free,
    .session_defaults = session_defaults,
    .session_measure = session_measure,
    .session_create = session_create,
    .session_free = session_free,
    .step = step_once,
    .measure = measure,
};
