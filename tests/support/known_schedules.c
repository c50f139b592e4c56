#include "support/known_schedules.h"

#include "support/support.h"

static const struct {
    int32_t n_layers, d_model, n_heads, d_ffn, n_vocab;
    bool parallel;
} models[N_KNOWN_MODELS] = {
    [MODEL_14M] = {6, 128, 4, 512, 50304, true},
    [MODEL_31M] = {6, 256, 8, 1024, 50304, true},
    [MODEL_70M] = {6, 512, 8, 2048, 50304, true},
    [MODEL_160M] = {12, 768, 12, 3072, 50304, true},
    [MODEL_410M] = {24, 1024, 16, 4096, 50304, true},
    [MODEL_1B] = {16, 2048, 8, 8192, 50304, true},
    [MODEL_1_4B] = {24, 2048, 16, 8192, 50304, true},
    [MODEL_2_8B] = {32, 2560, 32, 10240, 50304, true},
    [MODEL_6_9B] = {32, 4096, 32, 16384, 50432, true},
    [MODEL_12B] = {36, 5120, 40, 20480, 50688, true},
    [MODEL_20B] = {44, 6144, 64, 24576, 50432, true},
    [MODEL_SEQUENTIAL_3B] = {32, 2560, 32, 10240, 50432, false},
    [MODEL_SEQUENTIAL_7B] = {32, 4096, 32, 16384, 50432, false},
    [MODEL_UNEVEN] = {2, 1280, 16, 5128, 50277, true},
};

/* Multiprocessors, bytes of shared memory a block, GB/s. */
const cf_gpu_limits known_gpus[N_KNOWN_GPUS] = {
    [GPU_A100] = {108, 163 * 1024, 2039},    [GPU_H200] = {132, 227 * 1024, 4916},
    [GPU_H100] = {132, 227 * 1024, 3352},    [GPU_B200] = {148, 227 * 1024, 8000},
    [GPU_RTX_5090] = {170, 99 * 1024, 1792},
};

cf_shape known_shape(known_model model)
{
    return (cf_shape){.n_layers = models[model].n_layers,
                      .d_model = models[model].d_model,
                      .n_heads = models[model].n_heads,
                      .d_head = models[model].d_model / models[model].n_heads,
                      .d_ffn = models[model].d_ffn,
                      .n_vocab = models[model].n_vocab,
                      .parallel_residual = models[model].parallel};
}

cf_schedule known_schedule(known_model model, const cf_gpu_limits *limits)
{
    cf_shape shape = known_shape(model);
    cf_schedule schedule;
    cf_error error;
    assert_ok(cf_schedule_create(&shape, limits, &schedule, &error), error);
    assert_in_range(schedule.n_blocks, 1, limits->n_multiprocessors);
    assert_in_range(schedule.shared.total, 1, limits->shared_bytes);
    return schedule;
}

/* The 20B model's inner vector is too long for the smallest shared memory; nor would it fit the
 * GPU. */
static bool is_too_large(known_model model, known_gpu gpu)
{
    return model == MODEL_20B && gpu == GPU_RTX_5090;
}

void for_every_schedule(void (*check)(const cf_schedule *schedule))
{
    for (int model = 0; model < N_KNOWN_MODELS; model++)
        for (int gpu = 0; gpu < N_KNOWN_GPUS; gpu++) {
            if (is_too_large((known_model)model, (known_gpu)gpu))
                continue;
            cf_schedule schedule = known_schedule((known_model)model, &known_gpus[gpu]);
            check(&schedule);
            cf_schedule_free(&schedule);
        }
}

const cf_tile *tiles_of(const cf_schedule *schedule, int32_t block)
{
    return &schedule->tiles[(size_t)block * (size_t)schedule->max_tiles];
}

int32_t n_tiles_of(const cf_schedule *schedule, int32_t block)
{
    return schedule->shares[block].n_layer_tiles + schedule->shares[block].n_head_tiles;
}
