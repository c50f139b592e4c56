/* Section 11 of the header where CUDA is not built in: refused by name. */
#include "base/status.h"

#ifndef CF_HAVE_CUDA

static cf_status refuse(cf_error *error)
{
    return cf_fail(error, CF_STATUS_UNSUPPORTED, "layers: CUDA is not built into this library");
}

cf_status cf_layer_create(const cf_layer_options *options, cf_layer **layer, cf_error *error)
{
    (void)options;
    if (layer != NULL)
        *layer = NULL;
    return refuse(error);
}

void cf_layer_free(cf_layer *layer)
{
    (void)layer;
}

cf_status cf_layer_launch(cf_layer *layer, const cf_layer_tensors *tensors, void *stream,
                          cf_error *error)
{
    (void)layer, (void)tensors, (void)stream;
    return refuse(error);
}

#endif
