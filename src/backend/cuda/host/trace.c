/* The clock in the token kernel: its moments, and the stages between them. */
#include "backend/cuda/host/cuda.h"

#include "base/memory.h"
#include "base/status.h"

/* Which form of the residual has a stage. */
enum { EITHER, PARALLEL, SEQUENTIAL };

/* A stage is what lies between two moments of a block. */
typedef struct stage_row {
    const char *name, *role;
    int8_t from, to;    /* cf_trace_event */
    bool from_previous; /* `from` is of the layer before */
    int8_t form;        /* of the residual */
} stage_row;

static const stage_row stages[] = {
    {"await residual", "vectors", CF_TRACE_ATTENTION_LOADED, CF_TRACE_RESIDUAL_THERE, true,
     PARALLEL},
    {"await residual", "vectors", CF_TRACE_FFN_LOADED, CF_TRACE_RESIDUAL_THERE, true, SEQUENTIAL},
    {"read residual", "vectors", CF_TRACE_RESIDUAL_THERE, CF_TRACE_RESIDUAL_READ, false, EITHER},
    {"LayerNorm", "vectors", CF_TRACE_RESIDUAL_READ, CF_TRACE_NORM_READY, false, EITHER},
    {"gather MLP", "vectors", CF_TRACE_NORM_READY, CF_TRACE_FFN_LOADED, false, PARALLEL},
    {"gather attention", "vectors", CF_TRACE_FFN_LOADED, CF_TRACE_ATTENTION_LOADED, false,
     PARALLEL},
    {"gather attention", "vectors", CF_TRACE_NORM_READY, CF_TRACE_ATTENTION_LOADED, false,
     SEQUENTIAL},
    {"gather MLP", "vectors", CF_TRACE_ATTENTION_LOADED, CF_TRACE_FFN_LOADED, false, SEQUENTIAL},
    {"await q k v", "attention", CF_TRACE_ATTENTION_DONE, CF_TRACE_ATTENTION_BEGIN, true, EITHER},
    {"attention", "attention", CF_TRACE_ATTENTION_BEGIN, CF_TRACE_ATTENTION_DONE, false, EITHER},
    {"await LayerNorm", "consumers", CF_TRACE_TILES_DONE, CF_TRACE_NORM_READY, true, EITHER},
    {"products", "consumers", CF_TRACE_NORM_READY, CF_TRACE_TILES_DONE, false, EITHER},
    {"last rows", "publishing", CF_TRACE_TILES_DONE, CF_TRACE_PUBLISHED, false, EITHER},
};

enum { N_STAGES = sizeof stages / sizeof *stages };

/* The moments of a launch, in nanoseconds; 0: it did not come. */
typedef struct moments {
    const cf_schedule *schedule;
    uint64_t *at; /* [n_layers + 1][n_blocks][CF_N_TRACE_EVENTS] */
    size_t n;
    uint64_t begin; /* the first of all */
} moments;

static uint64_t moment(const moments *found, int32_t layer, int32_t block, int event)
{
    size_t n_blocks = (size_t)found->schedule->n_blocks;
    return found
        ->at[((size_t)layer * n_blocks + (size_t)block) * CF_N_TRACE_EVENTS + (size_t)event];
}

/* A block without a part in attention lacks its moments; short stages may end before they begin. */
static void report_stage(const moments *found, const stage_row *stage, int32_t layer, int32_t block,
                         cf_span_fn span, void *user)
{
    int32_t from_layer = stage->from_previous ? layer - 1 : layer;
    if (from_layer < 0)
        return;
    uint64_t from = moment(found, from_layer, block, stage->from);
    uint64_t to = moment(found, layer, block, stage->to);
    if (from == 0 || to == 0 || from > to)
        return;
    bool is_head = layer == found->schedule->shape.n_layers && stage->to == CF_TRACE_TILES_DONE;
    cf_span one = {.stage = is_head ? "LM head" : stage->name,
                   .role = stage->role,
                   .block = block,
                   .layer = layer,
                   .begin_us = (double)(from - found->begin) * 1e-3,
                   .end_us = (double)(to - found->begin) * 1e-3};
    span(user, &one);
}

static void report(moments *found, cf_span_fn span, void *user)
{
    int form = found->schedule->shape.parallel_residual ? PARALLEL : SEQUENTIAL;
    found->begin = UINT64_MAX;
    for (size_t i = 0; i < found->n; i++)
        if (found->at[i] != 0 && found->at[i] < found->begin)
            found->begin = found->at[i];
    for (int32_t block = 0; block < found->schedule->n_blocks; block++)
        for (int s = 0; s < N_STAGES; s++) {
            if (stages[s].form != EITHER && stages[s].form != form)
                continue;
            for (int32_t layer = 0; layer <= found->schedule->shape.n_layers; layer++)
                report_stage(found, &stages[s], layer, block, span, user);
        }
}

/* The first launch brings the GPU to its pace, the second is timed. */
static cf_status launch(cf_backend_session *session, cf_token token, size_t pos, uint64_t *device,
                        moments *found, cf_error *error)
{
    size_t n_bytes = found->n * sizeof *found->at;
    CF_CUDA_TRY(cudaMemset(device, 0, n_bytes), "trace", error);
    CF_TRY(cf_cuda_launch(session, &token, 1, pos, true, false, error));
    session->args.step.trace = device;
    cf_status status = cf_cuda_launch(session, &token, 1, pos, true, false, error);
    session->args.step.trace = NULL;
    CF_TRY(status);
    CF_CUDA_TRY(cudaStreamSynchronize(session->stream), "the token kernel", error);
    CF_CUDA_TRY(cudaMemcpy(found->at, device, n_bytes, cudaMemcpyDeviceToHost), "trace", error);
    return CF_STATUS_OK;
}

cf_status cf_cuda_trace(cf_backend_session *session, cf_token token, size_t pos, cf_span_fn span,
                        void *user, cf_error *error)
{
    const cf_schedule *schedule = &session->model->schedule;
    moments found = {.schedule = schedule,
                     .n = (size_t)(schedule->shape.n_layers + 1) * (size_t)schedule->n_blocks *
                          CF_N_TRACE_EVENTS};
    uint64_t *device = NULL;
    CF_CUDA_TRY(cudaSetDevice(session->model->device.index), "device", error);
    CF_TRY(CF_ALLOC(&found.at, found.n, "trace", error));
    cudaError_t code = cudaMalloc((void **)&device, found.n * sizeof *device);
    cf_status status = code == cudaSuccess ? launch(session, token, pos, device, &found, error)
                                           : cf_cuda_fail(error, code, "trace");
    cudaFree(device);
    if (status == CF_STATUS_OK)
        report(&found, span, user);
    session->dead = session->dead || status == CF_STATUS_DEVICE;
    cf_dealloc(found.at);
    return status;
}
