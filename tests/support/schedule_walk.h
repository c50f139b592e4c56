/*
 * An interpreter of schedules: walks one as the kernel does, several tokens in one launch, in
 * random interleavings of everything that runs at the same time, in float64. A value that is read
 * before it is written, or after it was overwritten, fails the test.
 */
#ifndef CF_TESTS_SCHEDULE_WALK_H
#define CF_TESTS_SCHEDULE_WALK_H

#include "backend/backend.h"
#include "schedule/schedule.h"

/* Tokens of a launch. */
enum { WALK_POSITIONS = 3 };

/* Values in global memory, each with the number of times it has been written. */
typedef struct shared_values {
    double *values;
    int *epochs;
    int32_t n;
} shared_values;

typedef struct walk_block {
    int32_t ring[CF_SCHEDULE_MAX_SLOTS]; /* the tile in each slot, or NOTHING */
    int32_t next_issued[CF_SCHEDULE_MAX_PRODUCERS];
    int32_t next_tile[CF_SCHEDULE_MAX_WARPS];
    int32_t n_vectors;      /* loaded so far: the vector warps' place in their program */
    int32_t n_attended;     /* layers, of all tokens */
    int held[CF_N_VECTORS]; /* the round whose vector lies in its place, or NOTHING */
    double *memory;         /* the vectors, at half their byte offsets */
    double *residual, *partials;
    int *n_arrived; /* partial sums of each unit */
} walk_block;

typedef struct token_walk {
    const cf_neox *neox;
    cf_schedule schedule;
    int program[CF_N_VECTORS], n_program; /* what vector warps load in a layer, in order */
    walk_block *blocks;
    shared_values residual, qkv, attention, ffn, logits;
    float *found;          /* [WALK_POSITIONS][n_vocab]: each token's logits */
    double *embedding;     /* [d_model] */
    double *keys, *values; /* [n_layers][WALK_POSITIONS][d_model] */
    const cf_token *ids;   /* [WALK_POSITIONS] */
    uint64_t random;
} token_walk;

/* Of a model in host memory, which outlives it; `seed` is that of the interleaving. */
void walk_create(token_walk *walk, const cf_neox *neox, const cf_gpu_limits *limits, uint64_t seed);
void walk_free(token_walk *walk);

/* What a launch begins with: empty rings, nothing loaded. */
void walk_begin(token_walk *walk);

/* Lets one actor, chosen at random among those that can, take a step; false if none can. */
bool walk_step(token_walk *walk);

/* Fails the test if something is left to do: a deadlock. */
void walk_check_finished(const token_walk *walk);

#endif
