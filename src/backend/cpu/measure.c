/* The speeds that bound this backend: reading memory, and the BLAS alone. */
#include "backend/cpu/cpu.h"

#include "base/status.h"

cf_status cf_cpu_measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                         cf_ceilings *ceilings, cf_error *error)
{
    (void)model, (void)n_threads, (void)n_tokens;
    *ceilings = (cf_ceilings){0};
    return cf_fail(error, CF_STATUS_UNSUPPORTED, "the CPU's ceilings are not measured yet");
}
