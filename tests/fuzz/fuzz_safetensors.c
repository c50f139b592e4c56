/* Any bytes as a safetensors file, at an aligned address and at an odd one. */
#include "checkpoint/safetensors.h"
#include "weights.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void read_at(const uint8_t *data, size_t n_bytes)
{
    cf_arena arena = {0};
    cf_tensor_list list = {.arena = &arena};
    cf_error error;
    if (cf_safetensors_read(data, n_bytes, "model.safetensors", &list, &error) == CF_STATUS_OK)
        fuzz_touch(&list);
    cf_arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    uint8_t *copy = malloc(n_bytes + 1);
    if (copy == NULL)
        return 0;
    read_at(data, n_bytes);
    if (n_bytes > 0)
        memcpy(copy + 1, data, n_bytes);
    read_at(copy + 1, n_bytes);
    free(copy);
    return 0;
}
