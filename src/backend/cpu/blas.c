#include "backend/cpu/blas.h"

#include <dnnl.h>
#include <pthread.h>
#include <signal.h>

/*
 * oneDNN's generated code does not keep to the stack pointer's rules: a signal handler that runs in
 * the midst of it overwrites memory (seen as a damaged heap after Ctrl-C in a prompt, 2.6.3). So
 * signals wait until the product is done; with a fraction of a millisecond each, nobody notices.
 */
bool cf_blas_multiply(size_t m, size_t n, size_t k, cf_matrix a, cf_matrix b, bool transposed,
                      bool add, float *c, size_t c_stride)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    dnnl_status_t status = dnnl_sgemm('N', transposed ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n,
                                      (dnnl_dim_t)k, 1, a.data, (dnnl_dim_t)a.stride, b.data,
                                      (dnnl_dim_t)b.stride, add ? 1 : 0, c, (dnnl_dim_t)c_stride);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status == dnnl_success;
}
