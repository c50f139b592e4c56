#include "engine/ahead.h"

#include "base/status.h"

static const cf_backend_interface *backend_of(const cf_ahead *ahead)
{
    return ahead->session->model->backend;
}

/* A failure of the device ends the session. */
static cf_status pass_on(const cf_ahead *ahead, cf_status status)
{
    if (status == CF_STATUS_DEVICE)
        ahead->session->is_dead = true;
    return status;
}

static bool is_end(const cf_decode *decode, cf_token token)
{
    for (size_t i = 0; i < decode->n_ends; i++)
        if (decode->ends[i] == token)
            return true;
    return false;
}

static cf_status begin(cf_ahead *ahead, cf_decode *decode, bool *is_able, cf_error *error)
{
    const cf_backend_interface *backend = backend_of(ahead);
    cf_session *session = ahead->session;
    size_t limit = 0;
    if (backend->decode_begin != NULL)
        limit = backend->decode_limit(session->computing, decode);
    *is_able = limit > 0;
    if (!*is_able)
        return CF_STATUS_OK;
    limit = limit < ahead->most ? limit : ahead->most;
    decode->n = decode->n < limit ? decode->n : limit;
    decode->pos = session->n_tokens;
    CF_TRY(pass_on(ahead, backend->decode_begin(session->computing, decode, error)));
    ahead->n_left = decode->n;
    ahead->is_going = true;
    return CF_STATUS_OK;
}

cf_status cf_ahead_next(cf_ahead *ahead, cf_decode *decode, bool *is_able, cf_decoded *decoded,
                        cf_error *error)
{
    cf_session *session = ahead->session;
    *is_able = true;
    if (ahead->n_left == 0)
        CF_TRY(begin(ahead, decode, is_able, error));
    if (!*is_able)
        return CF_STATUS_OK;
    CF_TRY(pass_on(ahead, backend_of(ahead)->decode_next(session->computing, decoded, error)));
    session->tokens[session->n_tokens++] = decode->token;
    ahead->is_used = true;
    ahead->is_beyond = false;
    ahead->n_left--;
    if (decoded->id < 0)
        return cf_session_spoil(session, session->n_tokens - 1, error);
    if (is_end(decode, decoded->id))
        ahead->n_left = 0;
    return ahead->n_left == 0 ? cf_ahead_end(ahead, error) : CF_STATUS_OK;
}

cf_status cf_ahead_end(cf_ahead *ahead, cf_error *error)
{
    if (!ahead->is_going)
        return CF_STATUS_OK;
    ahead->is_going = false;
    ahead->is_beyond = ahead->n_left > 0;
    ahead->n_left = 0;
    return pass_on(ahead, backend_of(ahead)->decode_end(ahead->session->computing, error));
}

cf_status cf_ahead_logits(const cf_ahead *ahead, float *logits, cf_error *error)
{
    const cf_backend_interface *backend = backend_of(ahead);
    cf_session *session = ahead->session;
    if (!ahead->is_used)
        return CF_STATUS_OK;
    CF_TRY(cf_session_check(session, error));
    if (!ahead->is_beyond)
        return pass_on(ahead, backend->decode_logits(session->computing, logits, error));
    size_t last = session->n_tokens - 1;
    cf_step step = {
        .ids = session->tokens + last, .n = 1, .pos = last, .logits = logits, .n_logits = 1};
    return pass_on(ahead, backend->step(session->computing, &step, error));
}
