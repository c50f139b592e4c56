/*
 * The functions of the CUDA runtime that the backend's host side calls, on an emulated GPU: device
 * memory is the CPU's, a launch runs beside the caller as on a GPU, whatever else comes in its
 * stream waits for it.
 */
#include "machine.h"

#include "backend/cuda/kernel/kernels.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

/* An H200 with fewer multiprocessors; CF_EMULATED_BLOCKS says how many. */
enum { N_MULTIPROCESSORS = 16, SHARED_BYTES = 227 * 1024 };
static const size_t memory_bytes = (size_t)4 << 30;

struct CUstream_st {
    std::thread launch;
    std::atomic<bool> is_running{false};
};

struct CUevent_st {
    std::chrono::steady_clock::time_point when;
};

typedef void (*token_kernel_fn)(cf_token_args);

struct launch_arguments {
    token_kernel_fn kernel;
    cf_token_args args;
};

static void finish(cudaStream_t stream)
{
    if (stream != NULL && stream->launch.joinable())
        stream->launch.join();
}

static void run_thread(const void *given)
{
    const launch_arguments *launch = (const launch_arguments *)given;
    launch->kernel(launch->args);
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *n_devices)
{
    *n_devices = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int)
{
    const char *blocks = getenv("CF_EMULATED_BLOCKS");
    *properties = {};
    strcpy(properties->name, "emulated GPU");
    properties->major = 9;
    properties->multiProcessorCount = blocks == NULL ? (int)N_MULTIPROCESSORS : atoi(blocks);
    properties->sharedMemPerBlockOptin = SHARED_BYTES;
    properties->cooperativeLaunch = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t code)
{
    return code == cudaErrorMemoryAllocation ? "out of memory" : "error of the emulator";
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = *total_bytes = memory_bytes;
    return cudaSuccess;
}

/* As a GPU gives it: what was there before, here 0xAB. */
cudaError_t cudaMalloc(void **memory, size_t n_bytes)
{
    *memory = n_bytes > memory_bytes ? NULL : aligned_alloc(256, (n_bytes + 255) / 256 * 256);
    if (*memory == NULL)
        return cudaErrorMemoryAllocation;
    memset(*memory, 0xAB, n_bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t n_bytes)
{
    return cudaMalloc(memory, n_bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    return cudaFree(memory);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind)
{
    memcpy(to, from, n_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *memory, int value, size_t n_bytes)
{
    memset(memory, value, n_bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    finish(stream);
    return cudaMemcpy(to, from, n_bytes, kind);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t n_bytes, cudaStream_t stream)
{
    finish(stream);
    return cudaMemset(memory, value, n_bytes);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind,
                              cudaStream_t stream)
{
    finish(stream);
    for (size_t i = 0; i < height; i++)
        memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new CUstream_st;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    finish(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    finish(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    return stream != NULL && stream->is_running ? cudaErrorNotReady : cudaSuccess;
}

/* What is not in a stream is done when its call returns. */
cudaError_t cudaDeviceSynchronize()
{
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *)
{
    *attributes = {};
    attributes->ptxVersion = 90;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute, int value)
{
    return value <= SHARED_BYTES ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    finish(stream);
    event->when = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    *milliseconds = std::chrono::duration<float, std::milli>(end->when - begin->when).count();
    return cudaSuccess;
}

/* The token kernel is all that is launched this way. */
cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block,
                                        void **arguments, size_t, cudaStream_t stream)
{
    launch_arguments launch = {(token_kernel_fn)kernel, *(const cf_token_args *)arguments[0]};
    finish(stream);
    stream->is_running = true;
    stream->launch = std::thread([=] {
        emulator_run(grid, block, run_thread, &launch);
        stream->is_running = false;
    });
    return cudaSuccess;
}

} /* extern "C" */
