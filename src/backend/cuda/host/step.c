/*
 * A step: of several tokens, by matrix products; else, and without these, by the token kernel, as
 * many tokens a launch as nobody wants logits of. Logits and hidden states come back where they are
 * asked for.
 */
#include "backend/cuda/host/cuda.h"

#include "base/status.h"

#include <string.h>

/*
 * Pairs merge the splits of a head: where the last token of the launch has any. So a token whose
 * heads are split always finds pairs, whatever else its launch evaluates, and gives the same bits.
 * With an odd number of splits some pairs are of two heads, and it is slower (docs/speed_log.md).
 */
static bool comes_in_pairs(const cf_backend_session *session)
{
    const cf_schedule *schedule = &session->model->schedule;
    const cf_token_step *step = &session->args.step;
    return session->model->grid.can_pair && schedule->max_splits % 2 == 0 &&
           cf_schedule_splits(schedule, step->pos + step->n_tokens) > 1;
}

/* Launches what session->args say. */
static cf_status launch(cf_backend_session *session, cf_error *error)
{
    bool in_pairs = comes_in_pairs(session);
    session->args.step.has_pairs = in_pairs;
    CF_CUDA_TRY(cf_cuda_grid_launch(&session->model->grid, &session->args, in_pairs, false,
                                    session->stream),
                "the token kernel", error);
    return CF_STATUS_OK;
}

void cf_cuda_count_tokens(cf_backend_session *session, size_t n)
{
    session->args.step.epoch += (uint32_t)(n * (size_t)session->model->schedule.shape.n_layers);
    session->args.step.n_before += (uint32_t)n;
}

cf_status cf_cuda_launch(cf_backend_session *session, const cf_token *tokens, size_t n, size_t pos,
                         bool want_logits, bool want_hidden, cf_error *error)
{
    cf_token_step *step = &session->args.step;
    step->token = tokens[0];
    step->tokens = session->tokens;
    step->n_tokens = (int32_t)n;
    step->n_without_logits = (int32_t)n - (want_logits ? 1 : 0);
    step->pos = (int32_t)pos;
    step->want_hidden = want_hidden;
    if (n > 1)
        CF_CUDA_TRY(cudaMemcpyAsync(session->tokens, tokens, n * sizeof *tokens,
                                    cudaMemcpyHostToDevice, session->stream),
                    "tokens", error);
    CF_TRY(launch(session, error));
    cf_cuda_count_tokens(session, n);
    return CF_STATUS_OK;
}

cf_status cf_cuda_launch_choice(cf_backend_session *session, cf_token token, size_t n, size_t pos,
                                cf_error *error)
{
    cf_token_step *step = &session->args.step;
    step->token = token;
    step->n_tokens = (int32_t)n;
    step->n_without_logits = 0;
    step->pos = (int32_t)pos;
    step->want_hidden = false;
    return launch(session, error);
}

cf_status cf_cuda_fetch_logits(cf_backend_session *session, float *logits, cf_error *error)
{
    size_t n_bytes = sizeof(float) * (size_t)session->model->neox->shape.n_vocab;
    CF_CUDA_TRY(cudaMemcpyAsync(session->staging, session->args.session.logits, n_bytes,
                                cudaMemcpyDeviceToHost, session->stream),
                "logits", error);
    CF_CUDA_TRY(cudaStreamSynchronize(session->stream), "the token kernel", error);
    memcpy(logits, session->staging, n_bytes);
    return CF_STATUS_OK;
}

/* Row `row` of every layer's hidden states. */
static cf_status fetch_hidden(cf_backend_session *session, const cf_step *step, size_t row,
                              cf_error *error)
{
    const cf_shape *shape = &session->model->neox->shape;
    size_t d_model = (size_t)shape->d_model, n_bytes = sizeof(float) * d_model;
    CF_CUDA_TRY(cudaMemcpy2DAsync(step->hidden + (step->hidden_row + row) * d_model,
                                  step->hidden_rows * n_bytes, session->args.session.hidden,
                                  n_bytes, n_bytes, (size_t)shape->n_layers + 1,
                                  cudaMemcpyDeviceToHost, session->stream),
                "hidden states", error);
    return CF_STATUS_OK;
}

static cf_status run(cf_backend_session *session, const cf_step *step, cf_error *error)
{
    size_t n_vocab = (size_t)session->model->neox->shape.n_vocab;
    size_t n_logits = step->logits == NULL ? 0 : step->n_logits;
    CF_CUDA_TRY(cudaSetDevice(session->model->device.index), "device", error);
    if (session->prompt != NULL && step->n >= cf_prompt_least(session->model))
        return cf_prompt_step(session, step, error);
    bool want_hidden = step->hidden != NULL;
    for (size_t i = 0, n; i < step->n; i += n) {
        size_t n_plain = step->n - n_logits > i ? step->n - n_logits - i : 0;
        bool want_logits = n_plain == 0;
        n = want_hidden || want_logits ? 1 : n_plain < CF_MAX_LAUNCH ? n_plain : CF_MAX_LAUNCH;
        CF_TRY(cf_cuda_launch(session, step->ids + i, n, step->pos + i, want_logits, want_hidden,
                              error));
        if (want_hidden)
            CF_TRY(fetch_hidden(session, step, i, error));
        if (want_logits)
            CF_TRY(cf_cuda_fetch_logits(session, step->logits + (i + n_logits - step->n) * n_vocab,
                                        error));
    }
    CF_CUDA_TRY(cudaStreamSynchronize(session->stream), "the token kernel", error);
    return CF_STATUS_OK;
}

cf_status cf_cuda_check(const cf_backend_session *session, cf_error *error)
{
    if (session->dead)
        return cf_fail(error, CF_STATUS_DEVICE, "CUDA: the device failed in an earlier step");
    return CF_STATUS_OK;
}

cf_status cf_cuda_step(cf_backend_session *session, const cf_step *step, cf_error *error)
{
    CF_TRY(cf_cuda_check(session, error));
    cf_status status = run(session, step, error);
    session->dead = status != CF_STATUS_OK;
    return status;
}
