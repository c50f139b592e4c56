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
    case CF_ISA_AVX512:
        return has_avx512() ? &cf_kernels_avx512 : NULL;
#else
    case CF_ISA_AVX2:
    case CF_ISA_AVX512:
#endif
    case CF_ISA_COUNT:
        break;
    }
    return NULL;
}

const cf_kernels *cf_kernels_best(void)
{
    for (int isa = CF_ISA_COUNT - 1; isa > CF_ISA_GENERIC; isa--)
        if (cf_kernels_get((cf_isa)isa) != NULL)
            return cf_kernels_get((cf_isa)isa);
    return &cf_kernels_generic;
}
