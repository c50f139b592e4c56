/* Any bytes as the index of a sharded checkpoint. */
#include "checkpoint/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    cf_arena arena = {0};
    cf_index index;
    cf_error error;
    if (cf_index_parse(data, n_bytes, "index.json", &arena, &index, &error) == CF_STATUS_OK)
        cf_index_check(&index, "index.json", NULL, 0, &error);
    cf_arena_release(&arena);
    return 0;
}
