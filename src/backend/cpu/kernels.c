#include "backend/cpu/kernels.h"

const cf_kernels *cf_kernels_get(cf_isa isa)
{
    return isa == CF_ISA_GENERIC ? &cf_kernels_generic : NULL;
}

const cf_kernels *cf_kernels_best(void)
{
    for (int isa = CF_ISA_COUNT - 1; isa > CF_ISA_GENERIC; isa--)
        if (cf_kernels_get((cf_isa)isa) != NULL)
            return cf_kernels_get((cf_isa)isa);
    return &cf_kernels_generic;
}
