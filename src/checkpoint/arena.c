#include "checkpoint/arena.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

#define ALIGNMENT 16
#define FIRST_BYTES ((size_t)4096)
#define LARGEST_BYTES ((size_t)1 << 20)

struct cf_arena_block {
    cf_arena_block *older;
    size_t used, capacity;
    _Alignas(ALIGNMENT) uint8_t bytes[];
};

static cf_status add_block(cf_arena *arena, size_t n_bytes, const char *what, cf_error *error)
{
    size_t capacity = FIRST_BYTES;
    if (arena->newest != NULL && arena->newest->capacity >= FIRST_BYTES / 2)
        capacity = 2 * arena->newest->capacity;
    if (capacity > LARGEST_BYTES)
        capacity = LARGEST_BYTES;
    if (capacity < n_bytes)
        capacity = n_bytes;
    void *memory;
    CF_TRY(cf_alloc(&memory, 1, sizeof(cf_arena_block) + capacity, what, error));
    cf_arena_block *block = memory;
    block->older = arena->newest;
    block->capacity = capacity;
    arena->newest = block;
    return CF_STATUS_OK;
}

cf_status cf_arena_take(cf_arena *arena, void **memory, size_t count, size_t n_bytes,
                        const char *what, cf_error *error)
{
    *memory = NULL;
    size_t total;
    if (__builtin_mul_overflow(count, n_bytes, &total) || total > SIZE_MAX / 4) {
        cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%s: %zu times %zu bytes", what, count, n_bytes);
        return CF_STATUS_OUT_OF_MEMORY;
    }
    total = (total + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (arena->newest == NULL || arena->newest->capacity - arena->newest->used < total)
        CF_TRY(add_block(arena, total, what, error));
    *memory = arena->newest->bytes + arena->newest->used;
    arena->newest->used += total;
    return CF_STATUS_OK;
}

cf_status cf_arena_text(cf_arena *arena, const char **copy, const char *text, size_t n_bytes,
                        cf_error *error)
{
    void *memory;
    CF_TRY(cf_arena_take(arena, &memory, n_bytes + 1, 1, "text", error));
    memcpy(memory, text, n_bytes);
    *copy = memory;
    return CF_STATUS_OK;
}

cf_status cf_arena_grow(cf_arena *arena, void **array, size_t n, size_t *capacity, size_t n_bytes,
                        const char *what, cf_error *error)
{
    if (n < *capacity)
        return CF_STATUS_OK;
    size_t wider = *capacity < 8 ? 8 : 2 * *capacity;
    void *memory;
    CF_TRY(cf_arena_take(arena, &memory, wider, n_bytes, what, error));
    if (n > 0)
        memcpy(memory, *array, n * n_bytes);
    *array = memory;
    *capacity = wider;
    return CF_STATUS_OK;
}

void cf_arena_release(cf_arena *arena)
{
    while (arena->newest != NULL) {
        cf_arena_block *older = arena->newest->older;
        cf_dealloc(arena->newest);
        arena->newest = older;
    }
}
