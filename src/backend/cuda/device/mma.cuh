/*
 * Tensor cores by the warp: 16 x 16 times 16 x 8 in float16 with float32 sums, the way of its
 * operands from shared memory into registers, and copies into shared memory meanwhile. All of it is
 * there from sm_80 on.
 */
#ifndef CF_CUDA_DEVICE_MMA_CUH
#define CF_CUDA_DEVICE_MMA_CUH

#include "backend/cuda/device/barrier.cuh"

/* Four 8 x 8 matrices of 16-bit values; lane l names row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void warp_load_matrices(uint32_t (&to)[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The same, each matrix transposed. */
static __device__ __forceinline__ void warp_load_transposed(uint32_t (&to)[4], const uint16_t *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/*
 * sums += a b, or with `is_first` sums = a b: a is [16][16], b is [16][8]. A lane holds of the
 * sums, in rows lane / 4 and lane / 4 + 8, the columns 2 (lane % 4) and the next: sums[0], [1] of
 * the one row, [2], [3] of the other.
 */
static __device__ __forceinline__ void warp_multiply(float (&sums)[4], bool is_first,
                                                     const uint32_t (&a)[4], uint32_t b0,
                                                     uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
                 : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1),
                   "f"(is_first ? 0 : sums[0]), "f"(is_first ? 0 : sums[1]),
                   "f"(is_first ? 0 : sums[2]), "f"(is_first ? 0 : sums[3]));
}

/* Copies 16 bytes into shared memory, or with `is_there` false fills them with zeros. */
static __device__ __forceinline__ void thread_copy_16(void *to, const void *from, bool is_there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}

/* Waits for this thread's copies; a barrier must follow before others read them. */
static __device__ __forceinline__ void thread_copies_await()
{
    asm volatile("cp.async.wait_all;" : : : "memory");
}

/* 2^x, to 2 units of the last place; 0 for -infinity. */
static __device__ __forceinline__ float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
