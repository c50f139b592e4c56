/* A backend with a model and a session on it, driven through the seam. */
#ifndef CF_TESTS_RUNNER_H
#define CF_TESTS_RUNNER_H

#include "backend/backend.h"

typedef struct test_runner {
    const cf_backend_interface *backend;
    cf_backend_model *model;
    cf_backend_session *session;
    size_t pos;
} test_runner;

/* Fails the test if it cannot. */
void test_runner_start(test_runner *runner, const cf_backend_interface *backend,
                       const cf_neox *neox, size_t n_context, cf_dtype kv_dtype);
void test_runner_stop(test_runner *runner);

/*
 * Evaluates up to position `end`, at most `n_step` tokens a step; the logits, unless NULL, are
 * those of the last token.
 */
void test_runner_advance(test_runner *runner, const cf_token *ids, size_t end, size_t n_step,
                         float *logits);

/* Token ids that are all over the vocabulary. */
void test_make_ids(cf_token *ids, size_t n, int32_t n_vocab);

/* A small model's shape: three layers, a vocabulary of 1,009. */
cf_shape test_small_shape(int32_t d_head, int32_t n_heads);

/* Skips the running test, saying why, where this backend cannot run. */
void test_skip_without(const cf_backend_interface *backend);

/*
 * A cache of a session of the CPU backend with a float32 KV cache: [n_layers][n_heads][n_context]
 * [d_head].
 */
const float *test_cpu_keys(const cf_backend_session *session);
const float *test_cpu_values(const cf_backend_session *session);

#endif
