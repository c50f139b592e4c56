#include "backend/cuda/host/device.h"

#include "base/status.h"

#include <stdio.h>

/* What the kernel needs: cp.async and mbarriers. */
#define LEAST_CAPABILITY 80

cf_status cf_cuda_fail(cf_error *error, cudaError_t code, const char *what)
{
    cf_status status = CF_STATUS_DEVICE;
    if (code == cudaErrorMemoryAllocation)
        status = CF_STATUS_OUT_OF_MEMORY;
    if (code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver ||
        code == cudaErrorInvalidDevice)
        status = CF_STATUS_NO_DEVICE;
    return cf_fail(error, status, "CUDA: %s: %s", what, cudaGetErrorString(code));
}

/* As its clock and width have it, two transfers a cycle; 0 where the driver does not say. */
static int32_t memory_speed(int32_t index)
{
    int clock_khz = 0, width_bits = 0;
    if (cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, index) != cudaSuccess ||
        cudaDeviceGetAttribute(&width_bits, cudaDevAttrGlobalMemoryBusWidth, index) != cudaSuccess)
        cudaGetLastError(); /* takes it back: it is no reason to refuse a GPU */
    return (int32_t)(2e-6 * clock_khz * (width_bits / 8));
}

static cf_status read_properties(cf_cuda_device *device, cf_error *error)
{
    struct cudaDeviceProp properties;
    CF_CUDA_TRY(cudaGetDeviceProperties(&properties, device->index), "device", error);
    device->capability = 10 * properties.major + properties.minor;
    snprintf(device->name, sizeof device->name, "%.127s", properties.name);
    device->limits.n_multiprocessors = properties.multiProcessorCount;
    device->limits.shared_bytes = (int32_t)properties.sharedMemPerBlockOptin;
    device->limits.memory_gb_per_s = memory_speed(device->index);
    if (device->capability < LEAST_CAPABILITY || !properties.cooperativeLaunch)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: %s has compute capability %d.%d, expected 8.0 or newer", device->name,
                       properties.major, properties.minor);
    return CF_STATUS_OK;
}

cf_status cf_cuda_device_open(int32_t index, cf_cuda_device *device, cf_error *error)
{
    int n_devices = 0;
    *device = (cf_cuda_device){.index = index};
    CF_CUDA_TRY(cudaGetDeviceCount(&n_devices), "no usable GPU", error);
    if (index < 0 || index >= n_devices)
        return cf_fail(error, CF_STATUS_NO_DEVICE, "CUDA: device %d, expected 0 to %d", index,
                       n_devices - 1);
    CF_CUDA_TRY(cudaSetDevice(index), "device", error);
    return read_properties(device, error);
}

static const cudaLaunchAttribute pairs = {.id = cudaLaunchAttributeClusterDimension,
                                          .val.clusterDim = {2, 1, 1}};

static cudaLaunchConfig_t launch_config(const cf_cuda_grid *grid, cudaLaunchAttribute *attributes)
{
    return (cudaLaunchConfig_t){.gridDim = {grid->n_blocks, 1, 1},
                                .blockDim = {grid->n_threads, 1, 1},
                                .dynamicSmemBytes = grid->shared_bytes,
                                .attrs = attributes};
}

cf_status cf_cuda_grid_prepare(cf_cuda_grid *grid, const char *what, cf_error *error)
{
    struct cudaFuncAttributes found;
    int n_pairs = 0;
    cudaLaunchAttribute attributes[] = {pairs};
    cudaLaunchConfig_t config = launch_config(grid, attributes);
    config.numAttrs = 1;
    CF_CUDA_TRY(cudaFuncSetAttribute(grid->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)grid->shared_bytes),
                what, error);
    CF_CUDA_TRY(cudaFuncGetAttributes(&found, grid->kernel), what, error);
    /* What was compiled for an older GPU runs as that code does: see device/copy.cuh. */
    grid->has_bulk_copies = found.ptxVersion >= 90;
    if (grid->has_bulk_copies && grid->n_blocks % 2 == 0)
        CF_CUDA_TRY(cudaOccupancyMaxActiveClusters(&n_pairs, grid->kernel, &config), what, error);
    grid->can_pair = n_pairs > 0 && 2 * (uint32_t)n_pairs >= grid->n_blocks;
    return CF_STATUS_OK;
}

cudaError_t cf_cuda_grid_launch(const cf_cuda_grid *grid, const void *arguments, bool in_pairs,
                                bool is_programmatic, cudaStream_t stream)
{
    cudaLaunchAttribute attributes[3] = {
        {.id = cudaLaunchAttributeCooperative, .val.cooperative = 1}};
    cudaLaunchConfig_t config = launch_config(grid, attributes);
    void *parameters[] = {(void *)(uintptr_t)arguments};
    config.stream = stream;
    config.numAttrs = 1;
    if (is_programmatic)
        attributes[config.numAttrs++] =
            (cudaLaunchAttribute){.id = cudaLaunchAttributeProgrammaticStreamSerialization,
                                  .val.programmaticStreamSerializationAllowed = 1};
    if (in_pairs)
        attributes[config.numAttrs++] = pairs;
    return cudaLaunchKernelExC(&config, grid->kernel, parameters);
}

void *cf_cuda_arena_take(cf_cuda_arena *arena, size_t n_bytes)
{
    char *piece = arena->memory == NULL ? NULL : arena->memory + arena->n_bytes;
    arena->n_bytes += (n_bytes + 255) / 256 * 256;
    return piece;
}

cf_status cf_cuda_arena_allocate(cf_cuda_arena *arena, const char *what, cf_error *error)
{
    size_t free_bytes = 0, total_bytes = 0, n_bytes = arena->n_bytes;
    void *memory = NULL;
    *arena = (cf_cuda_arena){0};
    CF_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes), what, error);
    if (n_bytes > free_bytes)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY,
                       "CUDA: %s: needs %zu bytes, the GPU has %zu of %zu free", what, n_bytes,
                       free_bytes, total_bytes);
    CF_CUDA_TRY(cudaMalloc(&memory, n_bytes), what, error);
    arena->memory = memory;
    return CF_STATUS_OK;
}

void cf_cuda_arena_free(cf_cuda_arena *arena)
{
    cudaFree(arena->memory);
    *arena = (cf_cuda_arena){0};
}
