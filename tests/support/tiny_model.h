/* Small models of random weights in memory, for tests that need a model but no file. */
#ifndef CF_TESTS_TINY_MODEL_H
#define CF_TESTS_TINY_MODEL_H

#include "backend/backend.h"
#include "support/support.h"

typedef struct tiny_model {
    cf_shape shape;
    cf_tensor *tensors; /* [n_tensors]: names as in a checkpoint, float32, host memory */
    size_t n_tensors;
    void *memory[2]; /* weights, names */
    cf_model *model;
} tiny_model;

/* 2 layers, 4 heads of 8, a vocabulary of 96, a context of 64, end-of-text token 0. */
cf_shape tiny_shape(void);

/* Makes the weights: of `seed`, normally distributed in scale, LayerNorms near 1. No model yet. */
void tiny_weights_create(tiny_model *tiny, const cf_shape *shape, uint64_t seed);

/* The same, with a model on the CPU backend, or on `backend` if that is not NULL. */
void tiny_model_create(tiny_model *tiny, const cf_shape *shape, uint64_t seed,
                       const cf_backend_interface *backend);

/* Closes the model, if there is one, and frees the weights. */
void tiny_model_free(tiny_model *tiny);

#endif
