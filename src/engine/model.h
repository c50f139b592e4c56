/* A model: tensors, their table, and what a backend made of them. */
#ifndef CF_ENGINE_MODEL_H
#define CF_ENGINE_MODEL_H

#include "backend/backend.h"
#include "checkpoint/checkpoint.h"

struct cf_model {
    cf_model_info info;
    cf_neox neox;
    const cf_backend_interface *backend;
    cf_backend_model *prepared;
    cf_checkpoint checkpoint; /* empty when created from memory */
    cf_tensor *copies;        /* of the caller's descriptions; NULL when opened */
    char *names;              /* of `copies` */
    char *path;
    const cf_tensor **used; /* [info.n_tensors], sorted by name without prefix */
};

/* Bounds of sessions, and of what is measured for them. */
#define CF_MAX_CONTEXT (1 << 24)
#define CF_MAX_THREADS 1024

/* cf_model_create() with a backend that need not be one of the library's own: for tests. */
cf_status cf_model_create_with(const cf_backend_interface *backend, const cf_shape *shape,
                               const cf_tensor *tensors, size_t n_tensors,
                               const cf_model_options *options, cf_model **model, cf_error *error);

#endif
