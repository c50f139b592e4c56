/* What the fuzz targets of weight files share: reading every byte that a tensor claims. */
#ifndef CF_TESTS_FUZZ_WEIGHTS_H
#define CF_TESTS_FUZZ_WEIGHTS_H

#include "checkpoint/tensors.h"

#include <string.h>

static volatile uint8_t fuzz_sink;

/* An overread is then the sanitizer's to find. */
static inline void fuzz_touch(const cf_tensor_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const cf_tensor *tensor = &list->tensors[i];
        const uint8_t *bytes = tensor->data;
        size_t n =
            (size_t)tensor->dims[0] * (size_t)tensor->dims[1] * cf_dtype_bytes(tensor->dtype);
        for (size_t j = 0; j < n; j++)
            fuzz_sink = (uint8_t)(fuzz_sink ^ bytes[j]);
        fuzz_sink = (uint8_t)(fuzz_sink ^ strlen(tensor->name));
    }
}

#endif
