/* Any bytes as a pickle. */
#include "checkpoint/pickle.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    cf_arena arena = {0};
    cf_value *value;
    size_t n_used;
    cf_error error;
    if (cf_pickle_read(data, n_bytes, "data.pkl", &arena, &value, &n_used, &error) ==
            CF_STATUS_OK &&
        (n_used > n_bytes || cf_value_kind_text(value) == NULL))
        abort();
    cf_arena_release(&arena);
    return 0;
}
