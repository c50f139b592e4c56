/* The CUDA backend behind the seam. */
#include "backend/cuda/host/cuda.h"

static cf_status check(cf_error *error)
{
    cf_cuda_device device;
    return cf_cuda_device_open(0, &device, error);
}

const cf_backend_interface cf_cuda_backend = {
    .id = CF_BACKEND_CUDA,
    .check = check,
    .model_create = cf_cuda_model_create,
    .model_free = cf_cuda_model_free,
    .session_defaults = cf_cuda_session_defaults,
    .session_measure = cf_cuda_session_measure,
    .session_create = cf_cuda_session_create,
    .session_free = cf_cuda_session_free,
    .step = cf_cuda_step,
    .measure = cf_cuda_measure,
    .trace = cf_cuda_trace,
    .decode_limit = cf_cuda_decode_limit,
    .decode_begin = cf_cuda_decode_begin,
    .decode_next = cf_cuda_decode_next,
    .decode_end = cf_cuda_decode_end,
    .decode_logits = cf_cuda_decode_logits,
};
