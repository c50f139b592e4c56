/* Counter-based random numbers: the same key and counter give the same number on every backend. */
#ifndef CF_BASE_RANDOM_H
#define CF_BASE_RANDOM_H

#include <stdint.h>

/*
 * Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011):
 * four 32-bit words from a 64-bit key and a 128-bit counter.
 */
void cf_philox(uint64_t key, const uint32_t counter[4], uint32_t words[4]);

/* A double in [0, 1) with 53 random bits, of the counter's `index` under the key `seed`. */
double cf_random_uniform(uint64_t seed, uint64_t index);

#endif
