/* Where a token's time goes, for those who ask. */
#include "engine/arguments.h"
#include "engine/session.h"

#include "base/status.h"

cf_status cf_session_trace(cf_session *session, cf_token token, cf_span_fn span, void *user,
                           cf_error *error)
{
    CF_NEED(session, error);
    CF_NEED(span, error);
    const cf_model *model = session->model;
    CF_TRY(cf_session_check(session, error));
    CF_TRY(cf_check_ids("token", &token, 1, model->neox.shape.n_vocab, error));
    if (model->backend->trace == NULL)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "the %s backend has no clock in its kernels",
                       cf_backend_name(model->backend->id));
    if (session->n_tokens >= session->options.n_context)
        return cf_fail(error, CF_STATUS_CONTEXT_FULL, "a token after %zu, the context holds %zu",
                       session->n_tokens, session->options.n_context);
    cf_status status =
        model->backend->trace(session->computing, token, session->n_tokens, span, user, error);
    if (status == CF_STATUS_DEVICE)
        session->is_dead = true;
    return status;
}
