/* The CPU backend behind the seam. */
#include "backend/cpu/cpu.h"

#include "base/status.h"

static cf_status check(cf_error *error)
{
    (void)error;
    return CF_STATUS_OK;
}

const cf_backend_interface cf_cpu_backend = {
    .id = CF_BACKEND_CPU,
    .check = check,
    .model_create = cf_cpu_model_create,
    .model_free = cf_cpu_model_free,
    .session_defaults = cf_cpu_session_defaults,
    .session_measure = cf_cpu_session_measure,
    .session_create = cf_cpu_session_create,
    .session_free = cf_cpu_session_free,
    .step = cf_cpu_step,
    .measure = cf_cpu_measure,
};
