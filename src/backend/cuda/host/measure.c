/* The speed that bounds decoding: reading the GPU's memory once. */
#include "backend/cuda/host/cuda.h"

#include "base/status.h"

/* Many times what the caches hold. */
#define READ_BYTES ((size_t)2 << 30)
#define N_READS 20

typedef struct stopwatch {
    cudaEvent_t begin, end;
    void *memory;
} stopwatch;

/* The best of many: the others were disturbed. */
static cf_status measure_read(const cf_backend_model *model, stopwatch *watch, double *bytes_per_s,
                              cf_error *error)
{
    CF_CUDA_TRY(cudaMemset(watch->memory, 1, READ_BYTES), "read ceiling", error);
    for (int i = 0; i < N_READS; i++) {
        float milliseconds;
        CF_CUDA_TRY(cudaEventRecord(watch->begin, NULL), "read ceiling", error);
        CF_CUDA_TRY(
            cf_read_memory(watch->memory, READ_BYTES, model->device.limits.n_multiprocessors, NULL),
            "read ceiling", error);
        CF_CUDA_TRY(cudaEventRecord(watch->end, NULL), "read ceiling", error);
        CF_CUDA_TRY(cudaEventSynchronize(watch->end), "read ceiling", error);
        CF_CUDA_TRY(cudaEventElapsedTime(&milliseconds, watch->begin, watch->end), "read ceiling",
                    error);
        double found = (double)READ_BYTES / ((double)milliseconds * 1e-3);
        *bytes_per_s = found > *bytes_per_s ? found : *bytes_per_s;
    }
    return CF_STATUS_OK;
}

static cf_status measure_all(const cf_backend_model *model, stopwatch *watch, cf_ceilings *ceilings,
                             cf_error *error)
{
    CF_CUDA_TRY(cudaSetDevice(model->device.index), "read ceiling", error);
    CF_CUDA_TRY(cudaEventCreate(&watch->begin), "read ceiling", error);
    CF_CUDA_TRY(cudaEventCreate(&watch->end), "read ceiling", error);
    CF_CUDA_TRY(cudaMalloc(&watch->memory, READ_BYTES), "read ceiling", error);
    return measure_read(model, watch, &ceilings->read_bytes_per_s, error);
}

/* The matrix products of prompts are not measured here: bench_prompt has them. */
cf_status cf_cuda_measure(const cf_backend_model *model, int32_t n_threads, size_t n_tokens,
                          cf_ceilings *ceilings, cf_error *error)
{
    stopwatch watch = {0};
    (void)n_threads, (void)n_tokens;
    *ceilings = (cf_ceilings){0};
    cf_status status = measure_all(model, &watch, ceilings, error);
    if (watch.begin != NULL)
        cudaEventDestroy(watch.begin);
    if (watch.end != NULL)
        cudaEventDestroy(watch.end);
    cudaFree(watch.memory);
    return status;
}
