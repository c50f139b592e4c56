/* Allocation with overflow checks and an alignment that suits vectors and cache lines. */
#ifndef CF_BASE_MEMORY_H
#define CF_BASE_MEMORY_H

#include "clusterfusion.h"

#define CF_ALIGNMENT 64

/*
 * `count` × `n_bytes` zeroed bytes, aligned to CF_ALIGNMENT. OUT_OF_MEMORY names `what` and the
 * bytes asked for. A count of 0 gives a valid pointer.
 */
cf_status cf_alloc(void **memory, size_t count, size_t n_bytes, const char *what, cf_error *error);

/* The same for a typed pointer: CF_ALLOC(&floats, n, "logits", error). */
#define CF_ALLOC(pointer, count, what, error)                                                      \
    cf_alloc((void **)(pointer), count, sizeof **(pointer), what, error)

/* Takes NULL. */
void cf_dealloc(void *memory);

#endif
