/* The read ceiling: every block streams its share of memory into shared memory, and drops it. */
#include "backend/cuda/device/copy.cuh"
#include "backend/cuda/kernel/kernels.h"

enum { PIECE_BYTES = 16384, N_PIECES = 8, RING_BYTES = PIECE_BYTES * N_PIECES };

static __global__ void read_memory(const char *memory, int64_t n_pieces)
{
    extern __shared__ __align__(128) char ring[];
    __shared__ uint64_t full[N_PIECES];
    if (threadIdx.x == 0)
        for (int s = 0; s < N_PIECES; s++)
            barrier_init(&full[s], COPY_ARRIVALS);
    __syncwarp();
    int64_t n_mine = (n_pieces - blockIdx.x + gridDim.x - 1) / gridDim.x;
    for (int64_t i = 0; i < n_mine + N_PIECES; i++) {
        int slot = (int)(i % N_PIECES);
        if (i >= N_PIECES)
            barrier_wait(&full[slot], (uint32_t)(i / N_PIECES - 1) & 1);
        if (i >= n_mine)
            continue;
        warp_copy_begin(&full[slot], PIECE_BYTES, threadIdx.x);
        warp_copy(ring + slot * PIECE_BYTES, memory + (blockIdx.x + i * gridDim.x) * PIECE_BYTES,
                  PIECE_BYTES, &full[slot], threadIdx.x);
        warp_copy_end(&full[slot], threadIdx.x);
    }
}

cudaError_t cf_read_memory(const void *memory, size_t n_bytes, int32_t n_blocks,
                           cudaStream_t stream)
{
    cudaError_t error =
        cudaFuncSetAttribute(read_memory, cudaFuncAttributeMaxDynamicSharedMemorySize, RING_BYTES);
    if (error != cudaSuccess)
        return error;
    read_memory<<<n_blocks, 32, RING_BYTES, stream>>>(static_cast<const char *>(memory),
                                                      (int64_t)(n_bytes / PIECE_BYTES));
    return cudaGetLastError();
}
