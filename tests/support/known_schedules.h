/* The models and the GPUs that are known, and their schedules. */
#ifndef CF_TESTS_KNOWN_SCHEDULES_H
#define CF_TESTS_KNOWN_SCHEDULES_H

#include "schedule/schedule.h"

typedef enum known_model {
    MODEL_14M,
    MODEL_31M,
    MODEL_70M,
    MODEL_160M,
    MODEL_410M,
    MODEL_1B,
    MODEL_1_4B,
    MODEL_2_8B,
    MODEL_6_9B,
    MODEL_12B,
    MODEL_20B,
    MODEL_SEQUENTIAL_3B,
    MODEL_SEQUENTIAL_7B,
    MODEL_UNEVEN, /* nothing divides anything */
    N_KNOWN_MODELS,
} known_model;

typedef enum known_gpu {
    GPU_A100,
    GPU_H200,
    GPU_H100,
    GPU_B200,
    GPU_RTX_5090,
    N_KNOWN_GPUS,
} known_gpu;

extern const cf_gpu_limits known_gpus[N_KNOWN_GPUS];

cf_shape known_shape(known_model model);

/*
 * The schedule of a model; free it with cf_schedule_free(). Fails the test if there is none, or if
 * it takes more than `limits` allow.
 */
cf_schedule known_schedule(known_model model, const cf_gpu_limits *limits);

/* Goes through the schedules of all models on all GPUs, but for the one that does not fit. */
void for_every_schedule(void (*check)(const cf_schedule *schedule));

/* A block's tiles: those of a layer, then those of the LM head. */
const cf_tile *tiles_of(const cf_schedule *schedule, int32_t block);
int32_t n_tiles_of(const cf_schedule *schedule, int32_t block);

#endif
