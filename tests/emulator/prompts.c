/* Prompts on an emulated GPU: there is no cuBLASLt, so they go token by token. */
#include "backend/cuda/host/cuda.h"

#include "base/status.h"

#include <assert.h>

cf_status cf_blaslt_open(cf_blaslt **library, cf_error *error)
{
    *library = NULL;
    return cf_fail(error, CF_STATUS_NO_DEVICE, "an emulated GPU has no cuBLASLt");
}

void cf_blaslt_close(cf_blaslt *library)
{
    (void)library;
}

size_t cf_blaslt_version(const cf_blaslt *library)
{
    (void)library;
    return 0;
}

size_t cf_prompt_least(const cf_backend_model *model)
{
    (void)model;
    return SIZE_MAX;
}

size_t cf_prompt_measure(const cf_backend_model *model, size_t n_chunk)
{
    (void)model, (void)n_chunk;
    return 0;
}

cf_status cf_prompt_create(const cf_backend_model *model, size_t n_chunk, cf_prompt **prompt,
                           cf_error *error)
{
    (void)model, (void)n_chunk;
    *prompt = NULL;
    return cf_fail(error, CF_STATUS_UNSUPPORTED, "an emulated GPU has no cuBLASLt");
}

void cf_prompt_free(cf_prompt *prompt)
{
    (void)prompt;
}

cf_status cf_prompt_step(cf_backend_session *session, const cf_step *step, cf_error *error)
{
    (void)session, (void)step;
    return cf_fail(error, CF_STATUS_UNSUPPORTED, "an emulated GPU has no cuBLASLt");
}
