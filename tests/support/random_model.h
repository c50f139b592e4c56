/* A model of random weights, in the form that backends take. */
#ifndef CF_TESTS_RANDOM_MODEL_H
#define CF_TESTS_RANDOM_MODEL_H

#include "model/neox.h"

typedef struct test_model {
    cf_neox neox;
    cf_tensor *tensors;
    size_t n_tensors;
} test_model;

/*
 * Makes one of `shape` (a GELU-erf, rope_theta and layer_norm_eps are filled in where they are 0)
 * with matrices in `dtype`, F16 or BF16, and vectors in F32. Products keep the scale of their
 * input, LayerNorms and biases are not trivial. Fails the test if it cannot.
 */
void test_model_create(test_model *model, const cf_shape *shape, cf_dtype dtype, uint64_t seed);
void test_model_free(test_model *model);

#endif
