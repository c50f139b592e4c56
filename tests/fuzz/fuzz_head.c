/*
 * Any bytes as the beginning of a connection: a verdict that more bytes do not change once it is
 * there, and a fault of the client's where it is refused.
 */
#include "serve/head.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    cf_fault fault = {0};
    cf_head last = CF_HEAD_PARTIAL;
    size_t step = n_bytes < 256 ? 1 : n_bytes / 64;
    n_bytes = n_bytes < CF_MAX_HEAD_BYTES ? n_bytes : CF_MAX_HEAD_BYTES; /* no more is looked at */
    for (size_t n = 1; n <= n_bytes; n += step) {
        cf_head head = cf_head_check((const char *)data, n, &fault);
        require(last == CF_HEAD_PARTIAL || head == last);
        require(head != CF_HEAD_WRONG ||
                ((fault.http == 400 || fault.http == 413) && fault.message[0] != 0));
        require(head != CF_HEAD_PARTIAL || n < CF_MAX_HEAD_BYTES);
        last = head;
    }
    return 0;
}
