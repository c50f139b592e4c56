/* Any bytes as a config.json: a shape within its bounds, or an error. */
#include "checkpoint/config.h"
#include "model/neox.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    cf_shape shape;
    cf_more_ends ends;
    cf_error error;
    if (cf_config_parse(data, n_bytes, "config.json", &shape, &ends, &error) == CF_STATUS_OK &&
        cf_shape_check(&shape, &error) != CF_STATUS_OK)
        abort();
    return 0;
}
