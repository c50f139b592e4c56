/* One layer on a GPU: section 11 of the header. */
#include "backend/cuda/kernel/layer.h"
#include "backend/cuda/host/device.h"
#include "backend/cuda/host/layer_plan.h"
#include "base/memory.h"
#include "base/status.h"

#define SPLIT_POSITIONS 96

struct cf_layer {
    cf_cuda_device device;
    cf_cuda_arena arena;
    cf_cuda_grid grid;
    cf_layer_args args; /* all but the tensors of a launch */
};

static void take_scratch(const cf_layer_plan *plan, cf_cuda_arena *arena, cf_layer_scratch *scratch)
{
    size_t d_model = (size_t)plan->options.d_model, d_ffn = (size_t)plan->options.d_ffn;
    size_t n_parts = (size_t)plan->options.n_heads * (size_t)plan->max_splits;
    scratch->tickets = cf_cuda_arena_take(arena, sizeof *scratch->tickets);
    scratch->counters =
        cf_cuda_arena_take(arena, sizeof(uint32_t) * CF_LAYER_N_COUNTS * CF_LAYER_COUNTER_STRIDE);
    scratch->qkv = cf_cuda_arena_take(arena, sizeof(uint64_t) * 3 * d_model);
    scratch->attention = cf_cuda_arena_take(arena, sizeof(uint32_t) * d_model);
    scratch->ffn = cf_cuda_arena_take(arena, sizeof(uint32_t) * d_ffn);
    scratch->partials =
        cf_cuda_arena_take(arena, sizeof(uint64_t) * n_parts * ((size_t)plan->d_head + 2));
}

/* Zeroes the scratch through a stream of its own, which another stream's capture does not see. */
static cf_status clear_scratch(cf_layer *layer, size_t n_bytes, cf_error *error)
{
    cudaStream_t stream;
    CF_CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "layer", error);
    cudaError_t code = cudaMemsetAsync(layer->arena.memory, 0, n_bytes, stream);
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
    CF_CUDA_TRY(code, "layer", error);
    return CF_STATUS_OK;
}

static cf_status prepare_kernel(cf_layer *layer, cf_error *error)
{
    const cf_layer_plan *plan = &layer->args.plan;
    int n_blocks = 0,
        n_threads = 32 * (plan->n_consumers + CF_LAYER_N_PRODUCERS + CF_LAYER_N_HELPERS);
    layer->grid = (cf_cuda_grid){.kernel = cf_layer_kernel(plan->options.dtype),
                                 .n_blocks = (uint32_t)plan->n_blocks,
                                 .n_threads = (uint32_t)n_threads,
                                 .shared_bytes = (size_t)plan->layout.total};
    CF_TRY(cf_cuda_grid_prepare(&layer->grid, "the layer kernel", error));
    CF_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n_blocks, layer->grid.kernel,
                                                              n_threads, layer->grid.shared_bytes),
                "the layer kernel", error);
    if (n_blocks != 1)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: %d blocks of the layer kernel fit a multiprocessor, expected 1",
                       n_blocks);
    return CF_STATUS_OK;
}

static cf_status build(cf_layer *layer, const cf_layer_options *options, cf_error *error)
{
    cf_layer_args *args = &layer->args;
    CF_TRY(cf_cuda_device_open(options->device, &layer->device, error));
    CF_TRY(cf_layer_plan_make(options, &layer->device.limits, &args->plan, error));
    CF_TRY(prepare_kernel(layer, error));
    take_scratch(&args->plan, &layer->arena, &args->scratch);
    size_t n_bytes = layer->arena.n_bytes;
    CF_TRY(cf_cuda_arena_allocate(&layer->arena, "the layer's scratch", error));
    take_scratch(&args->plan, &layer->arena, &args->scratch);
    return clear_scratch(layer, n_bytes, error);
}

/* Runs build() on the layer's device, and allows it to allocate amid a capture. */
static cf_status build_aside(cf_layer *layer, const cf_layer_options *options, cf_error *error)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    int before = -1;
    bool has_device = cudaGetDevice(&before) == cudaSuccess;
    cudaThreadExchangeStreamCaptureMode(&mode);
    cf_status status = build(layer, options, error);
    cudaThreadExchangeStreamCaptureMode(&mode);
    if (has_device)
        cudaSetDevice(before);
    return status;
}

cf_status cf_layer_create(const cf_layer_options *options, cf_layer **layer, cf_error *error)
{
    cf_layer *made;
    if (layer == NULL || options == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "%s is NULL",
                       layer == NULL ? "layer" : "options");
    *layer = NULL;
    if (options->size != sizeof *options)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "options.size is %zu, expected %zu",
                       options->size, sizeof *options);
    CF_TRY(CF_ALLOC(&made, 1, "layer", error));
    cf_status status = build_aside(made, options, error);
    if (status != CF_STATUS_OK) {
        cf_layer_free(made);
        return status;
    }
    *layer = made;
    return CF_STATUS_OK;
}

void cf_layer_free(cf_layer *layer)
{
    if (layer == NULL)
        return;
    cf_cuda_arena_free(&layer->arena); /* waits for the device */
    cf_dealloc(layer);
}

typedef struct checked_pointer {
    const char *name;
    const void *address;
    uintptr_t alignment;
} checked_pointer;

static cf_status check_pointers(const cf_layer_tensors *tensors, bool whole, cf_error *error)
{
#define POINTER(name, alignment)                                                                   \
    {                                                                                              \
#name, tensors->name, alignment                                                            \
    }
    const checked_pointer pointers[] = {
        POINTER(hidden, 16),       POINTER(qkv_weight, 16),   POINTER(qkv_bias, 16),
        POINTER(dense_weight, 16), POINTER(dense_bias, 16),   POINTER(up_weight, 16),
        POINTER(up_bias, 16),      POINTER(norm1_weight, 16), POINTER(norm1_bias, 16),
        POINTER(norm2_weight, 16), POINTER(norm2_bias, 16),   POINTER(cosines, 4),
        POINTER(sines, 4),         POINTER(k_cache, 16),      POINTER(v_cache, 16),
        POINTER(output, 16),       POINTER(k_new, 16),        POINTER(v_new, 16),
    };
    const checked_pointer down[] = {POINTER(down_weight, 16), POINTER(down_bias, 16)};
    const checked_pointer mlp[] = {POINTER(mlp, 16), POINTER(mlp, 16)};
#undef POINTER
    enum { N_POINTERS = sizeof pointers / sizeof *pointers };
    for (size_t i = 0; i < N_POINTERS + 2; i++) {
        const checked_pointer *pointer = i < N_POINTERS ? &pointers[i]
                                         : whole        ? &down[i - N_POINTERS]
                                                        : &mlp[i - N_POINTERS];
        if (pointer->address == NULL)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "%s is NULL", pointer->name);
        if ((uintptr_t)pointer->address % pointer->alignment != 0)
            return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                           "%s is at %p, expected a multiple of %d bytes", pointer->name,
                           pointer->address, (int)pointer->alignment);
    }
    return CF_STATUS_OK;
}

/*
 * Cooperative: blocks wait for each other, so all of a launch must have their multiprocessors, or
 * none; parts of two launches, from two streams, would wait for ever. Programmatic: it is set up
 * while the one before runs, and itself waits for that one's end (grid_await_previous()).
 */
static cudaError_t launch(const cf_layer *layer, const cf_layer_args *args, cudaStream_t stream)
{
    const cf_cuda_grid *grid = &layer->grid;
    /* Code for older GPUs does not wait. */
    bool is_programmatic = grid->has_bulk_copies;
    return cf_cuda_grid_launch(grid, args, args->has_pairs, is_programmatic, stream);
}

cf_status cf_layer_launch(cf_layer *layer, const cf_layer_tensors *tensors, void *stream,
                          cf_error *error)
{
    int before = 0;
    if (layer == NULL || tensors == NULL)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "%s is NULL",
                       layer == NULL ? "layer" : "tensors");
    const cf_layer_plan *plan = &layer->args.plan;
    CF_TRY(check_pointers(tensors, plan->options.whole, error));
    if (tensors->n_cached < 0 || tensors->n_cached >= tensors->n_context)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "n_cached is %d, expected 0 … %d, the cache's rows less one",
                       tensors->n_cached, tensors->n_context - 1);
    cf_layer_args args = layer->args;
    int32_t n_splits = (tensors->n_cached + SPLIT_POSITIONS) / SPLIT_POSITIONS;
    args.tensors = *tensors;
    args.n_splits = n_splits < plan->max_splits ? n_splits : plan->max_splits;
    args.has_pairs = layer->grid.can_pair && plan->max_splits % 2 == 0 && args.n_splits > 1;
    CF_CUDA_TRY(cudaGetDevice(&before), "device", error);
    if (before != layer->device.index)
        CF_CUDA_TRY(cudaSetDevice(layer->device.index), "device", error);
    cudaError_t code = launch(layer, &args, (cudaStream_t)stream);
    if (before != layer->device.index)
        cudaSetDevice(before);
    CF_CUDA_TRY(code, "the layer kernel", error);
    return CF_STATUS_OK;
}
