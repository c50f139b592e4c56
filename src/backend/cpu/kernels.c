/* Which table of kernels runs here. */
#include "backend/cpu/kernels.h"

#include <stddef.h>

#ifdef __x86_64__
static bool has_avx2(void)
{
    /* F16C, which not every compiler can ask for, came before AVX2. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

const cf_kernels *cf_kernels_get(cf_isa isa)
{
    switch (isa) {
    case CF_ISA_GENERIC:
        return &cf_kernels_generic;
#ifdef __x86_64__
    case CF_ISA_AVX2:
        return has_avx2() ? &cf_kernels_avx2 : NULL;
    case CF_ISA_AVX2_AHEAD:
        return has_avx2() ? &cf_kernels_avx2_ahead : NULL;
    case CF_ISA_AVX512:
        return has_avx512() ? &cf_kernels_avx512 : NULL;
    case CF_ISA_AVX512_AHEAD:
        return has_avx512() ? &cf_kernels_avx512_ahead : NULL;
#else
    case CF_ISA_AVX2:
    case CF_ISA_AVX2_AHEAD:
    case CF_ISA_AVX512:
    case CF_ISA_AVX512_AHEAD:
#endif
    case CF_ISA_COUNT:
        break;
    }
    return NULL;
}

/* Asking ahead gains a third on Intel's processors and costs half on AMD's (docs/speed_log.md). */
static bool is_worth_trying(cf_isa isa)
{
    bool is_ahead = isa == CF_ISA_AVX2_AHEAD || isa == CF_ISA_AVX512_AHEAD;
#ifdef __x86_64__
    return !is_ahead || __builtin_cpu_is("intel");
#else
    return !is_ahead;
#endif
}

cf_isa cf_isa_best(void)
{
    int isa = CF_ISA_COUNT - 1;
    while (isa > CF_ISA_GENERIC &&
           (!is_worth_trying((cf_isa)isa) || cf_kernels_get((cf_isa)isa) == NULL))
        isa--;
    return (cf_isa)isa;
}

const cf_kernels *cf_kernels_best(void)
{
    return cf_kernels_get(cf_isa_best());
}
