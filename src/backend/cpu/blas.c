#include "backend/cpu/blas.h"

#include <dnnl.h>

bool cf_blas_multiply(size_t m, size_t n, size_t k, cf_matrix a, cf_matrix b, bool transposed,
                      bool add, float *c, size_t c_stride)
{
    return dnnl_sgemm('N', transposed ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k, 1,
                      a.data, (dnnl_dim_t)a.stride, b.data, (dnnl_dim_t)b.stride, add ? 1 : 0, c,
                      (dnnl_dim_t)c_stride) == dnnl_success;
}
