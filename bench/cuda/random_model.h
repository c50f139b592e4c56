/* What the GPU's benches share: a model of a real shape with random weights, and a session on it.
 */
#ifndef CF_BENCH_CUDA_RANDOM_MODEL_H
#define CF_BENCH_CUDA_RANDOM_MODEL_H

#include "backend/cuda/host/cuda.h"

enum { BENCH_N_CONTEXT = 2048 };

typedef struct bench_model {
    const char *name;
    cf_shape shape;
    cf_neox neox; /* its tensors lie on the GPU and are used in place */
    const char *text;
    cf_backend_model *model;
    cf_backend_session *session; /* of BENCH_N_CONTEXT positions */
} bench_model;

/*
 * Opens the model of this name ("2.8b") and prints its description after a '#'. Whatever fails ends
 * the program, exit code 1 (2 where the name is unknown), with a message that begins with
 * `program`.
 */
void bench_open(bench_model *bench, const char *program, const char *name);
void bench_close(bench_model *bench);

/* Positions as an argument gives them: 1 to BENCH_N_CONTEXT; others end the program, exit code 2.
 */
size_t bench_positions(const char *text);

/* Ends the program the same way where something has failed. */
void bench_check(cf_status status, const cf_error *error);
void bench_check_cuda(cudaError_t code);

#endif
