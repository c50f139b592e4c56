/*
 * Tensor cores by the warpgroup, which is four warps: 64 x 16 times 16 x n in float16 with float32
 * sums. The right operand is read from shared memory, by the tensor cores themselves and while the
 * warps do something else. Only Hopper has this, so it is there only in code for sm_90a.
 *
 * Operands lie in shared memory in parts of 8, 16, 32 or 64 values, whose rows follow each other
 * without gaps: 16 to 128 bytes. Of the pieces of 16 bytes in a row, the place is permuted so that
 * eight rows' pieces of one column lie in different banks: the copy engine writes them so
 * (device/tensor.cuh), and the tensor cores read them so, where a part's rows begin at a multiple
 * of eight times their length.
 */
#ifndef CF_CUDA_DEVICE_WGMMA_CUH
#define CF_CUDA_DEVICE_WGMMA_CUH

#include "backend/cuda/device/barrier.cuh"

enum { N_GROUP_THREADS = 128, N_GROUP_ROWS = 64 };

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* Lets tensor cores see what this thread wrote to shared memory; before a barrier. */
static __device__ __forceinline__ void products_see_writes()
{
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
}

/* Before the first of some products: what was written to their registers comes first. */
static __device__ __forceinline__ void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
}

/* Makes one group of the products since the last one. */
static __device__ __forceinline__ void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

/* Returns when all groups but the last `n_left` are complete. */
template <int n_left> static __device__ __forceinline__ void products_await()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(n_left) : "memory");
}

/*
 * What gave this value, never below zero, is computed before a wait that follows. The compiler
 * would wait first, since to it nothing depends on the order, and so leave the warps idle; but it
 * keeps a store before the wait, and cannot know that this one is never done.
 */
static __device__ __forceinline__ void products_let_pass(float value)
{
    asm volatile("{ .reg .pred p; setp.lt.f32 p, %0, 0f00000000; @p st.shared.f32 [%1], %0; }"
                 :
                 : "f"(value), "r"(0)
                 : "memory");
}

/* After waiting for them: the compiler must not read sums before, which it would not know. */
template <int n> static __device__ __forceinline__ void products_take(float (&sums)[n][4])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile(""
                     : "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
                     :
                     : "memory");
}

/* The same for a left operand in registers, which are its own for as long. */
template <int n> static __device__ __forceinline__ void products_release(uint32_t (&a)[n][4])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3]) : : "memory");
}

/* An operand in parts of `width` values, its distances in bytes. */
template <int width>
static __device__ __forceinline__ uint64_t operand_at(const uint16_t *at, uint32_t leading,
                                                      uint32_t stride)
{
    constexpr uint32_t permutation = width == 64 ? 1 : width == 32 ? 2 : width == 16 ? 3 : 0;
    static_assert(permutation != 0 || width == 8, "16 to 128 bytes");
    uint32_t low = (shared_address(at) & 0x3FFFF) >> 4 | leading >> 4 << 16;
    return (uint64_t)(stride >> 4 | permutation << 30) << 32 | low;
}

/* A left operand's rows or a right one's columns, along which the sum runs: 16 values, which lie in
 * one part, or if that has 8, in two so many bytes apart. */
template <int width>
static __device__ __forceinline__ uint64_t operand_of_rows(const uint16_t *at, uint32_t part)
{
    return operand_at<width>(at, width == 8 ? part : 16, 16 * width);
}

/* A right operand the other way: the sum runs along 16 rows, and values of a row are neighbouring
 * columns; the next part begins so many bytes further. */
template <int width>
static __device__ __forceinline__ uint64_t operand_transposed(const uint16_t *at, uint32_t part)
{
    return operand_at<width>(at, part, 16 * width);
}

/* The same operand from another place on, a multiple of 16 bytes further. */
static __device__ __forceinline__ uint64_t operand_further(uint64_t operand, uint32_t n_bytes)
{
    return operand + (n_bytes >> 4);
}

#define SUMS(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define SUMS_32 SUMS(0), SUMS(1), SUMS(2), SUMS(3)
#define SUMS_64 SUMS_32, SUMS(4), SUMS(5), SUMS(6), SUMS(7)
#define SUMS_80 SUMS_64, SUMS(8), SUMS(9)
#define SUMS_96 SUMS_80, SUMS(10), SUMS(11)
#define SUMS_128 SUMS_96, SUMS(12), SUMS(13), SUMS(14), SUMS(15)

#define PLACES_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PLACES_64                                                                                  \
    PLACES_32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PLACES_80 PLACES_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define PLACES_96 PLACES_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define PLACES_128                                                                                 \
    PLACES_96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/*
 * sums += a b, or with `is_first` sums = a b, for the width n of the sums: begun, not complete.
 * Warp w of the group holds rows 16 w to 16 w + 15 of the sums and of an operand in registers, in
 * each the way that warp_multiply() has it. The strings name what follows the sums' registers.
 */
#define DEFINE_PRODUCTS(n, p0, p1, p2, p3, p4, p5, p6)                                             \
    static __device__ __forceinline__ void group_multiply(float(&sums)[n / 8][4], bool is_first,   \
                                                          uint64_t a, uint64_t b)                  \
    {                                                                                              \
        asm volatile("{ .reg .pred p; setp.eq.s32 p, " p2 ", 0;"                                   \
                     "  wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16"                    \
                     "  {" PLACES_##n "}, " p0 ", " p1 ", p, 1, 1, 0, 0; }"                        \
                     : SUMS_##n                                                                    \
                     : "l"(a), "l"(b), "r"((int)is_first));                                        \
    }                                                                                              \
    template <bool is_transposed>                                                                  \
    static __device__ __forceinline__ void group_multiply(float(&sums)[n / 8][4], bool is_first,   \
                                                          const uint32_t(&a)[4], uint64_t b)       \
    {                                                                                              \
        asm volatile("{ .reg .pred p; setp.eq.s32 p, " p5 ", 0;"                                   \
                     "  wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16"                    \
                     "  {" PLACES_##n "}, {" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", p, 1, 1, " p6  \
                                      "; }"                                                        \
                     : SUMS_##n                                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)is_first),     \
                       "n"((int)is_transposed));                                                   \
    }

DEFINE_PRODUCTS(32, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
DEFINE_PRODUCTS(64, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
DEFINE_PRODUCTS(80, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
DEFINE_PRODUCTS(96, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
DEFINE_PRODUCTS(128, "%64", "%65", "%66", "%67", "%68", "%69", "%70")

#endif

#endif
