#include "backend/cpu/blas.h"

#include <dnnl.h>
#include <pthread.h>
#include <signal.h>

/*
 * A signal handler that ran in the midst of oneDNN 2.6.3's product left the heap damaged: seen
 * after Ctrl-C in a prompt, in most runs with one thread, in none with the signals held back. (The
 * likely cause is that generated code uses the stack pointer for something else; that was not
 * looked up.) So signals wait until the product is done: a fraction of a millisecond.
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
