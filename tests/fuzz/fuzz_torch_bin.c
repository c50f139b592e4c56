/* Any bytes as a pytorch_model.bin, zip or legacy. */
#include "checkpoint/torch_bin.h"
#include "weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    cf_arena arena = {0};
    cf_tensor_list list = {.arena = &arena};
    const char *format;
    cf_error error;
    if (cf_torch_bin_read(data, n_bytes, "pytorch_model.bin", &list, &format, &error) ==
        CF_STATUS_OK)
        fuzz_touch(&list);
    cf_arena_release(&arena);
    return 0;
}
