/*
 * A backend without arithmetic, for tests of the engine: its logits are what a test prescribes, and
 * it checks that every step is within the seam's contract.
 */
#ifndef CF_TESTS_SCRIPT_BACKEND_H
#define CF_TESTS_SCRIPT_BACKEND_H

#include "backend/backend.h"
#include "support/support.h"

/* Writes the logits [n_vocab] that follow the tokens `ids` [n]. */
typedef void (*script_logits_fn)(const cf_token *ids, size_t n, float *logits, size_t n_vocab);

/* What the backend does; a test sets it before it makes models. One test program, one script. */
typedef struct script {
    script_logits_fn logits; /* NULL: script_hashed_logits */
    size_t n_chunk;          /* of sessions that do not choose; 0: 8 */
    size_t fail_at;          /* the step, from 1, that fails; 0: none */
    cf_status fail_with;
    size_t n_steps;     /* counted: steps */
    size_t n_evaluated; /* counted: tokens */
    size_t n_rows;      /* counted: rows of logits */
    size_t n_sessions;  /* alive now */
    size_t n_models;
} script;

extern script test_script;
extern const cf_backend_interface script_backend;

/* The same with a clock: see cf_session_trace(). */
extern const cf_backend_interface script_clock_backend;

/* Pseudo-random logits of scale 2 that depend on every token before, and on nothing else. */
void script_hashed_logits(const cf_token *ids, size_t n, float *logits, size_t n_vocab);

#endif
