/*
 * What nvcc gives device code, for a C++ compiler of the CPU: included before each source of the
 * token kernel that the emulator compiles (machine.h says what it is).
 */
#ifndef CF_EMULATOR_KEYWORDS_H
#define CF_EMULATOR_KEYWORDS_H

#include "machine.h"

#include <cuda_fp16.h>
#include <vector_functions.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __shared__ __thread
#define __launch_bounds__(...)
#define __grid_constant__

/* What a GPU of compute capability 9.0 compiles, without its instructions. */
#define __CUDA_ARCH__ 0

#define threadIdx (emulator_lane()->thread)
#define blockIdx (emulator_lane()->block)
#define blockDim (emulator_lane()->block_size)
#define gridDim (emulator_lane()->grid_size)

static inline void __syncthreads()
{
    emulator_sync(0, emulator_lane()->block_size.x);
}

static inline void __syncwarp()
{
    emulator_exchange(0);
}

/* The value of each lane, collected from all 32: full masks only. */
template <class value> static inline value emulator_value_of(value mine, int lane)
{
    static_assert(sizeof(value) <= sizeof(uint64_t), "wider than an exchanged word");
    uint64_t word = 0;
    memcpy(&word, &mine, sizeof mine);
    word = emulator_exchange(word)[lane];
    memcpy(&mine, &word, sizeof mine);
    return mine;
}

template <class value> static inline value __shfl_sync(unsigned, value mine, int lane)
{
    return emulator_value_of(mine, lane & 31);
}

template <class value> static inline value __shfl_xor_sync(unsigned, value mine, int mask)
{
    return emulator_value_of(mine, (int)(threadIdx.x % 32) ^ mask);
}

template <class value> static inline value __shfl_up_sync(unsigned, value mine, int delta)
{
    int lane = (int)(threadIdx.x % 32);
    return emulator_value_of(mine, lane < delta ? lane : lane - delta);
}

template <class value> static inline value __shfl_down_sync(unsigned, value mine, int delta)
{
    int lane = (int)(threadIdx.x % 32);
    return emulator_value_of(mine, lane + delta > 31 ? lane : lane + delta);
}

static inline unsigned __ballot_sync(unsigned, int condition)
{
    const uint64_t *words = emulator_exchange(condition != 0);
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++)
        votes |= (unsigned)words[lane] << lane;
    return votes;
}

/* The threads of a block take turns on one thread of the CPU. */
template <class value, class addend_type>
static inline value atomicAdd_block(value *place, addend_type addend)
{
    value before = *place;
    *place = before + addend;
    return before;
}

template <class value> static inline value __ldg(const value *place)
{
    return *place;
}

template <class value> static inline value __ldcg(const value *place)
{
    return *place;
}

static inline void __nanosleep(unsigned)
{
    emulator_yield();
}

static inline void __trap()
{
    abort();
}

static inline float __uint_as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t __float_as_uint(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++)
        result |= (uint32_t)(bytes >> (8 * (selector >> 4 * i & 7)) & 0xFF) << 8 * i;
    return result;
}

static inline int __clz(int value)
{
    return value == 0 ? 32 : __builtin_clz((unsigned)value);
}

static inline float rsqrtf(float value)
{
    return 1 / sqrtf(value);
}

/* glibc has a function of this name. */
#define __expf expf

#define __noinline__ __attribute__((noinline))

using std::isfinite;

static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

static inline float __fsub_rn(float a, float b)
{
    return a - b;
}

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}

static inline uint32_t __float2uint_rn(float value)
{
    return (uint32_t)rintf(value);
}

static inline float __int_as_float(int bits)
{
    return __uint_as_float((uint32_t)bits);
}

static inline int __float_as_int(float value)
{
    return (int)__float_as_uint(value);
}

template <class a, class b>
static inline typename std::common_type<a, b>::type max(const a &left, const b &right)
{
    return left > right ? left : right;
}

template <class a, class b>
static inline typename std::common_type<a, b>::type min(const a &left, const b &right)
{
    return left < right ? left : right;
}

#endif
