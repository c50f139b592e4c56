/* A session: the tokens that its backend's KV cache holds, and whether it still can be used. */
#ifndef CF_ENGINE_SESSION_H
#define CF_ENGINE_SESSION_H

#include "engine/model.h"

struct cf_session {
    const cf_model *model;
    cf_backend_options options;
    cf_backend_session *computing;
    cf_token *tokens; /* [options.n_context] */
    size_t n_tokens;
    bool is_dead; /* the device failed: nothing it holds can be trusted */
};

/* DEVICE if the session is dead. */
cf_status cf_session_check(const cf_session *session, cf_error *error);

/*
 * For results that are no numbers: kills the session, whose KV cache holds them too, and returns
 * DEVICE. `pos` is the position of the token whose logits they are.
 */
cf_status cf_session_spoil(cf_session *session, size_t pos, cf_error *error);

#endif
