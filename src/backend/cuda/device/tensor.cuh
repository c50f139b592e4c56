/*
 * Copies of boxes of a tensor into shared memory by the copy engine, which permutes pieces of rows
 * as the tensor cores want them (device/wgmma.cuh). What the tensor is, the host describes with the
 * driver's cuTensorMapEncodeTiled, which it asks the runtime for: the driver is not linked.
 */
#ifndef CF_CUDA_DEVICE_TENSOR_CUH
#define CF_CUDA_DEVICE_TENSOR_CUH

#include "backend/cuda/device/barrier.cuh"

#include <cuda.h>
#include <cuda_runtime_api.h>

/* Some columns of matrices in device memory that follow each other: 16-bit values in parts of
 * `width`; and of a box the rows. */
typedef struct tensor_parts {
    const uint16_t *at; /* the first row's first of these columns */
    int width, n_parts;
    int32_t d_row;  /* values from a row to the next */
    int32_t n_rows; /* of a matrix */
    int32_t n_matrices;
    int n_box_rows;
} tensor_parts;

/* False: this driver does not know how, or will not have it so. */
static inline bool tensor_describe(const tensor_parts *parts, CUtensorMap *map)
{
    typedef CUresult encode(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                            const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                            const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return false;
    cuuint64_t width = (cuuint64_t)parts->width, d_row = (cuuint64_t)parts->d_row;
    cuuint64_t n_rows = (cuuint64_t)parts->n_rows;
    cuuint64_t sizes[] = {width, n_rows, (cuuint64_t)parts->n_parts, (cuuint64_t)parts->n_matrices};
    cuuint64_t strides[] = {2 * d_row, 2 * width, 2 * d_row * n_rows}; /* bytes */
    cuuint32_t box[] = {(cuuint32_t)width, (cuuint32_t)parts->n_box_rows,
                        (cuuint32_t)parts->n_parts, 1};
    cuuint32_t steps[] = {1, 1, 1, 1};
    CUtensorMapSwizzle swizzle = parts->width == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                 : parts->width == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                      : CU_TENSOR_MAP_SWIZZLE_32B;
    return ((encode *)entry)(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
                             const_cast<uint16_t *>(parts->at), sizes, strides, box, steps,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#if __CUDA_ARCH__ >= 900

/* Brings a description, which is a kernel's parameter, nearer; by one thread. */
static __device__ __forceinline__ void tensor_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" : : "l"(map) : "memory");
}

/*
 * Copies a box, all parts one after the other: the rows from `row` on, those that are not there,
 * also before the first, as zeros. By one thread; a barrier is told of its bytes, which are those
 * of whole rows in any case.
 */
static __device__ __forceinline__ void tensor_copy(void *to, const CUtensorMap *map, int32_t row,
                                                   int32_t matrix, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %2, %4}], [%5];"
                 :
                 : "r"(shared_address(to)), "l"(map), "r"(0), "r"(row), "r"(matrix),
                   "r"(shared_address(barrier))
                 : "memory");
}

#endif

#endif
