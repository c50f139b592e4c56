/* How the layer kernel cuts a shape up for a GPU: plain arithmetic, tested without one. */
#ifndef CF_CUDA_HOST_LAYER_PLAN_H
#define CF_CUDA_HOST_LAYER_PLAN_H

#include "backend/cuda/stage/layer.h"
#include "schedule/schedule.h"

/* INVALID_ARGUMENT names an option, UNSUPPORTED what the kernel cannot run. Allocates nothing. */
cf_status cf_layer_plan_make(const cf_layer_options *options, const cf_gpu_limits *limits,
                             cf_layer_plan *plan, cf_error *error);

#endif
