/*
 * A GPU made of threads of the CPU, to run the token kernel where there is none: every block is a
 * thread, every CUDA thread a stack of its own on it. They take turns: one runs until it waits for
 * others, in a warp's exchange, at a barrier, or between two looks at memory. Blocks run truly side
 * by side. What differs from a GPU by nature (the instructions of device/, memory that is ordered
 * more strongly than a GPU's, copies that are there at once) is not tested by it; all else of the
 * kernel and of its host side is the code that a GPU runs.
 */
#ifndef CF_EMULATOR_MACHINE_H
#define CF_EMULATOR_MACHINE_H

#include <vector_types.h>

#include <stddef.h>
#include <stdint.h>

/* Where the running thread is. */
typedef struct emulator_place {
    uint3 thread, block;
    dim3 block_size, grid_size;
} emulator_place;

/* Of the thread that runs now. */
extern __thread const emulator_place *emulator_now;

static inline const emulator_place *emulator_lane()
{
    return emulator_now;
}

/* Lets the block's others run. Whoever polls calls it between two looks. */
void emulator_yield();

/*
 * Returns when (*word & mask) != value; only threads of the same block change the word. Costs the
 * others a comparison, not a turn.
 */
void emulator_wait(const uint64_t *word, uint64_t mask, uint64_t value);

/* Waits for the warp's 32 lanes; returns what each brought, until the lane's next exchange. */
const uint64_t *emulator_exchange(uint64_t mine);

/* Waits until n_threads are at the block's barrier `index`, 0 to 15. */
void emulator_sync(int index, unsigned n_threads);

/* Runs `body(arguments)` in each thread of the grid; returns when all have returned. */
void emulator_run(dim3 grid, dim3 block, void (*body)(const void *), const void *arguments);

#endif
