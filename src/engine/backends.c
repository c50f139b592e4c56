#include "engine/backends.h"

#include "base/status.h"

/* In the order in which AUTO tries them. */
static const cf_backend_interface *const backends[] = {
#ifdef CF_HAVE_CUDA
    &cf_cuda_backend,
#endif
    &cf_cpu_backend,
};

enum { N_BACKENDS = sizeof backends / sizeof backends[0] };

static const cf_backend_interface *find(cf_backend wanted)
{
    for (int i = 0; i < N_BACKENDS; i++) {
        bool fits = wanted == CF_BACKEND_AUTO ? backends[i]->check(NULL) == CF_STATUS_OK
                                              : backends[i]->id == wanted;
        if (fits)
            return backends[i];
    }
    return NULL;
}

cf_status cf_backend_choose(cf_backend wanted, const cf_backend_interface **backend,
                            cf_error *error)
{
    *backend = NULL;
    if (wanted != CF_BACKEND_AUTO && wanted != CF_BACKEND_CPU && wanted != CF_BACKEND_CUDA)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "backend %d is unknown", (int)wanted);
    const cf_backend_interface *found = find(wanted);
    if (found == NULL)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "backend %s: not built into this library",
                       cf_backend_name(wanted));
    CF_TRY(found->check(error));
    *backend = found;
    return CF_STATUS_OK;
}

cf_status cf_backend_check(cf_backend backend, cf_error *error)
{
    const cf_backend_interface *unused;
    return cf_backend_choose(backend, &unused, error);
}
