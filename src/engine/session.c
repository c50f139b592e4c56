#include "engine/session.h"

#include "base/memory.h"
#include "engine/arguments.h"

#include <string.h>

static cf_status check_kv_dtype(cf_dtype dtype, cf_error *error)
{
    if (dtype == CF_DTYPE_DEFAULT || dtype == CF_DTYPE_F16 || dtype == CF_DTYPE_F32)
        return CF_STATUS_OK;
    cf_status status = dtype == CF_DTYPE_BF16 ? CF_STATUS_UNSUPPORTED : CF_STATUS_INVALID_ARGUMENT;
    return cf_fail(error, status, "kv_dtype is %s (%d), expected F16 or F32", cf_dtype_name(dtype),
                   (int)dtype);
}

/* Checks what the caller asked for and fills in the rest. */
static cf_status complete_options(const cf_model *model, const cf_session_options *wanted,
                                  cf_backend_options *options, cf_error *error)
{
    cf_session_options read;
    CF_TRY(cf_options_read(wanted, &read, sizeof read, "session options", error));
    if (read.n_context == 0)
        read.n_context = model->neox.shape.n_context;
    CF_TRY(cf_check_integer("n_context", read.n_context, 1, CF_MAX_CONTEXT, error));
    CF_TRY(cf_check_integer("n_threads", read.n_threads, 0, CF_MAX_THREADS, error));
    CF_TRY(cf_check_integer("n_chunk", read.n_chunk, 0, CF_MAX_CONTEXT, error));
    CF_TRY(check_kv_dtype(read.kv_dtype, error));
    *options = (cf_backend_options){
        .n_context = (size_t)read.n_context,
        .n_chunk = (size_t)read.n_chunk,
        .n_threads = read.n_threads,
        .kv_dtype = read.kv_dtype,
    };
    model->backend->session_defaults(model->prepared, options);
    if (options->n_chunk > options->n_context)
        options->n_chunk = options->n_context;
    return CF_STATUS_OK;
}

cf_status cf_session_measure(const cf_model *model, const cf_session_options *options,
                             cf_session_memory *memory, cf_error *error)
{
    CF_NEED(memory, error);
    *memory = (cf_session_memory){0};
    CF_NEED(model, error);
    cf_backend_options complete;
    CF_TRY(complete_options(model, options, &complete, error));
    cf_session_memory measured = {0};
    CF_TRY(model->backend->session_measure(model->prepared, &complete, &measured, error));
    *memory = measured;
    memory->scratch_bytes += complete.n_context * sizeof(cf_token);
    return CF_STATUS_OK;
}

cf_status cf_session_create(const cf_model *model, const cf_session_options *options,
                            cf_session **session, cf_error *error)
{
    CF_NEED(session, error);
    *session = NULL;
    CF_NEED(model, error);
    cf_backend_options complete;
    CF_TRY(complete_options(model, options, &complete, error));
    cf_session *created;
    CF_TRY(CF_ALLOC(&created, 1, "session", error));
    created->model = model;
    created->options = complete;
    cf_status status = CF_ALLOC(&created->tokens, complete.n_context, "session's tokens", error);
    if (status == CF_STATUS_OK)
        status =
            model->backend->session_create(model->prepared, &complete, &created->computing, error);
    if (status == CF_STATUS_OK)
        *session = created;
    else
        cf_session_free(created);
    return status;
}

void cf_session_free(cf_session *session)
{
    if (session == NULL)
        return;
    if (session->computing != NULL)
        session->model->backend->session_free(session->computing);
    cf_dealloc(session->tokens);
    cf_dealloc(session);
}

const cf_model *cf_session_model(const cf_session *session)
{
    return session != NULL ? session->model : NULL;
}

size_t cf_session_n_context(const cf_session *session)
{
    return session != NULL ? session->options.n_context : 0;
}

size_t cf_session_n_tokens(const cf_session *session)
{
    return session != NULL ? session->n_tokens : 0;
}

const cf_token *cf_session_tokens(const cf_session *session)
{
    return session != NULL ? session->tokens : NULL;
}

cf_status cf_session_rewind(cf_session *session, size_t n_tokens, cf_error *error)
{
    CF_NEED(session, error);
    if (n_tokens > session->n_tokens)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "rewind to %zu tokens, the session holds %zu", n_tokens, session->n_tokens);
    session->n_tokens = n_tokens;
    return CF_STATUS_OK;
}

size_t cf_session_reuse(cf_session *session, const cf_token *ids, size_t n_ids)
{
    if (session == NULL)
        return 0;
    size_t n_most = ids == NULL ? 0 : n_ids < session->n_tokens ? n_ids : session->n_tokens;
    size_t n = 0;
    while (n < n_most && ids[n] == session->tokens[n])
        n++;
    session->n_tokens = n;
    return n;
}

cf_status cf_session_check(const cf_session *session, cf_error *error)
{
    if (session->is_dead)
        return cf_fail(error, CF_STATUS_DEVICE,
                       "the session is dead since an evaluation failed; free it");
    return CF_STATUS_OK;
}

cf_status cf_session_spoil(cf_session *session, size_t pos, cf_error *error)
{
    session->is_dead = true;
    return cf_fail(error, CF_STATUS_DEVICE,
                   "the logits at position %zu are not finite numbers: the weights or the device "
                   "are damaged",
                   pos);
}

/* One call of cf_session_eval(). */
typedef struct evaluation {
    const cf_token *ids;
    size_t n;
    cf_outputs outputs;
} evaluation;

static cf_status check_evaluation(const cf_session *session, evaluation *call,
                                  const cf_outputs *outputs, cf_error *error)
{
    CF_TRY(cf_session_check(session, error));
    CF_TRY(cf_options_read(outputs, &call->outputs, sizeof call->outputs, "outputs", error));
    if (call->n == 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "no tokens to evaluate");
    if (call->n > session->options.n_context - session->n_tokens)
        return cf_fail(error, CF_STATUS_CONTEXT_FULL, "%zu tokens after %zu, the context holds %zu",
                       call->n, session->n_tokens, session->options.n_context);
    CF_TRY(cf_check_ids("tokens", call->ids, call->n, session->model->neox.shape.n_vocab, error));
    if (call->outputs.logits == NULL)
        call->outputs.n_logits = 0;
    if (call->outputs.n_logits > call->n)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "logits of %zu tokens asked for, %zu are evaluated", call->outputs.n_logits,
                       call->n);
    return CF_STATUS_OK;
}

/* The step that evaluates ids[start … start + n - 1], with its part of the outputs. */
static cf_step make_step(const cf_session *session, const evaluation *call, size_t start, size_t n)
{
    const cf_outputs *outputs = &call->outputs;
    size_t first_row = call->n - outputs->n_logits; /* the first token whose logits are wanted */
    size_t end = start + n;
    size_t from = start > first_row ? start : first_row;
    size_t n_logits = end > from ? end - from : 0;
    size_t n_vocab = (size_t)session->model->neox.shape.n_vocab;
    return (cf_step){
        .ids = call->ids + start,
        .n = n,
        .pos = session->n_tokens + start,
        .logits = n_logits > 0 ? outputs->logits + (from - first_row) * n_vocab : NULL,
        .n_logits = n_logits,
        .hidden = outputs->hidden,
        .hidden_rows = call->n,
        .hidden_row = start,
    };
}

static cf_status run_chunks(const cf_session *session, const evaluation *call, cf_error *error)
{
    const cf_outputs *outputs = &call->outputs;
    for (size_t start = 0; start < call->n;) {
        size_t left = call->n - start;
        size_t n = left < session->options.n_chunk ? left : session->options.n_chunk;
        cf_step step = make_step(session, call, start, n);
        CF_TRY(session->model->backend->step(session->computing, &step, error));
        start += n;
        if (outputs->progress != NULL &&
            !outputs->progress(outputs->progress_user, "prompt", start, call->n))
            return cf_fail(error, CF_STATUS_CANCELLED, "cancelled after %zu of %zu tokens", start,
                           call->n);
    }
    return CF_STATUS_OK;
}

cf_status cf_session_eval(cf_session *session, const cf_token *ids, size_t n,
                          const cf_outputs *outputs, cf_error *error)
{
    CF_NEED(session, error);
    CF_NEED(ids, error);
    evaluation call = {.ids = ids, .n = n};
    CF_TRY(check_evaluation(session, &call, outputs, error));
    cf_status status = run_chunks(session, &call, error);
    if (status == CF_STATUS_DEVICE)
        session->is_dead = true;
    if (status != CF_STATUS_OK)
        return status;
    memmove(session->tokens + session->n_tokens, ids, n * sizeof *ids);
    session->n_tokens += n;
    return CF_STATUS_OK;
}
