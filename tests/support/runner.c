#include "support/runner.h"

#include "backend/cpu/cpu.h"
#include "support/support.h"

void test_runner_start(test_runner *runner, const cf_backend_interface *backend,
                       const cf_neox *neox, size_t n_context, cf_dtype kv_dtype)
{
    cf_model_options model_options = {.size = sizeof model_options};
    cf_backend_options options = {.n_context = n_context, .kv_dtype = kv_dtype};
    const char *text;
    cf_error error;
    *runner = (test_runner){.backend = backend};
    assert_ok(backend->model_create(neox, &model_options, &runner->model, &text, &error), error);
    backend->session_defaults(runner->model, &options);
    assert_ok(backend->session_create(runner->model, &options, &runner->session, &error), error);
}

void test_runner_stop(test_runner *runner)
{
    runner->backend->session_free(runner->session);
    runner->backend->model_free(runner->model);
}

void test_runner_advance(test_runner *runner, const cf_token *ids, size_t end, size_t n_step,
                         float *logits)
{
    cf_error error;
    while (runner->pos < end) {
        size_t n = end - runner->pos < n_step ? end - runner->pos : n_step;
        cf_step step = {.ids = ids + runner->pos, .n = n, .pos = runner->pos};
        if (runner->pos + n == end && logits != NULL) {
            step.logits = logits;
            step.n_logits = 1;
        }
        assert_ok(runner->backend->step(runner->session, &step, &error), error);
        runner->pos += n;
    }
}

void test_make_ids(cf_token *ids, size_t n, int32_t n_vocab)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (cf_token)((i * 7919 + 13) % (size_t)n_vocab);
}

cf_shape test_small_shape(int32_t d_head, int32_t n_heads)
{
    return (cf_shape){.n_layers = 3,
                      .d_model = d_head * n_heads,
                      .n_heads = n_heads,
                      .d_head = d_head,
                      .d_rotary = d_head / 4 / 2 * 2,
                      .d_ffn = 4 * d_head * n_heads,
                      .n_vocab = 1009,
                      .n_context = 256,
                      .parallel_residual = true,
                      .attention_bias = true};
}

void test_skip_without(const cf_backend_interface *backend)
{
    cf_error error;
    if (backend->check(&error) == CF_STATUS_OK)
        return;
    print_message("%s\n", error.message);
    skip();
}

const float *test_cpu_keys(const cf_backend_session *session)
{
    return session->keys;
}

const float *test_cpu_values(const cf_backend_session *session)
{
    return session->values;
}
