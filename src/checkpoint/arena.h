/* Memory that is taken in many small pieces and given back at once. */
#ifndef CF_CHECKPOINT_ARENA_H
#define CF_CHECKPOINT_ARENA_H

#include "clusterfusion.h"

typedef struct cf_arena_block cf_arena_block;

/* Starts zeroed. */
typedef struct cf_arena {
    cf_arena_block *newest;
} cf_arena;

/*
 * `count` × `n_bytes` zeroed bytes, aligned to 16, valid until the arena is released. OUT_OF_MEMORY
 * names `what`.
 */
cf_status cf_arena_take(cf_arena *arena, void **memory, size_t count, size_t n_bytes,
                        const char *what, cf_error *error);

/* The same for a typed pointer. */
#define CF_ARENA_TAKE(arena, pointer, count, what, error)                                          \
    cf_arena_take(arena, (void **)(pointer), count, sizeof **(pointer), what, error)

/* A copy of `n_bytes` of text with a zero byte behind. */
cf_status cf_arena_text(cf_arena *arena, const char **copy, const char *text, size_t n_bytes,
                        cf_error *error);

/*
 * Makes room for one more entry in an array of `n` entries that the arena holds: when `*capacity`
 * is reached, `*array` moves to twice the room. The places it leaves stay taken, at most as much
 * again.
 */
cf_status cf_arena_grow(cf_arena *arena, void **array, size_t n, size_t *capacity, size_t n_bytes,
                        const char *what, cf_error *error);

/* Takes a zeroed one too. */
void cf_arena_release(cf_arena *arena);

#endif
