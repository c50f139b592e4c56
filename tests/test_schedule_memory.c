/*
 * Where a block's tiles and vectors lie in its shared memory, and what is on its way there: for all
 * known models and the limits of all known GPUs.
 */
#include "support/known_schedules.h"
#include "support/support.h"

static void check_shared_memory(const cf_schedule *schedule)
{
    const cf_shared_layout *shared = &schedule->shared;
    int32_t offsets[] = {
        CF_SCHEDULE_FIXED_BYTES, shared->tiles + schedule->max_tiles * (int32_t)sizeof(cf_tile),
        shared->vectors[CF_VECTOR_FFN + schedule->n_chunks - 1] + 2 * schedule->chunk};
    assert_true(offsets[0] <= shared->tiles);
    assert_true(offsets[1] <= shared->residual);
    assert_true(offsets[2] <= shared->ring);
    assert_int_equal(shared->ring + schedule->n_slots * schedule->slot_bytes, shared->total);
    assert_int_equal(shared->ring % 128, 0);
    assert_int_equal(schedule->slot_bytes % 128, 0);
}

static void shared_memory_fits_and_is_aligned(void **state)
{
    (void)state;
    for_every_schedule(check_shared_memory);
}

/* A wait on a barrier's parity cannot tell a phase from the next but one: see the kernel. */
static void check_ring(const cf_schedule *schedule)
{
    assert_int_equal(schedule->n_slots % schedule->n_consumers, 0);
    int32_t n_others =
        CF_SCHEDULE_N_ATTENTION_WARPS(schedule->shape.d_head) + CF_SCHEDULE_N_VECTOR_WARPS;
    assert_in_range(schedule->n_consumers + schedule->n_producers + n_others, 4,
                    CF_SCHEDULE_MAX_WARPS);
    assert_int_equal(schedule->n_slots % schedule->n_producers, 0);
    assert_in_range(schedule->n_slots, 2, CF_SCHEDULE_MAX_SLOTS);
    assert_in_range(schedule->n_window, 1, schedule->n_slots);
    assert_int_equal(schedule->n_window % schedule->n_producers, 0);
    assert_in_range(schedule->n_ahead, schedule->n_producers, schedule->n_window);
    assert_int_equal(schedule->n_ahead % schedule->n_producers, 0);
    /* Of two tiles a producer and more, where it is the stream that takes the time. */
    if (!schedule->chain_bound && schedule->n_window > schedule->n_producers)
        assert_true(schedule->n_ahead < schedule->n_window);
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        const cf_phase *phase = &schedule->phases[p];
        int32_t tile_bytes = 2 * phase->tile_rows * phase->n_columns;
        assert_true(tile_bytes <= schedule->slot_bytes);
        assert_true(phase->tile_rows <= schedule->bias_rows);
        assert_int_equal(2 * phase->n_columns % 16, 0); /* what a bulk copy can carry */
        assert_int_equal(phase->row_bytes % 16, 0);
        assert_int_equal(2 * phase->column % 16, 0);
    }
}

/* Whoever gathers what not all have counted may still need the LayerNorms. */
static void check_late(const cf_schedule *schedule)
{
    const int32_t *places = schedule->shared.vectors;
    assert_in_range(schedule->n_late_blocks, 0, schedule->n_blocks - 1);
    assert_in_range(schedule->n_late_heads, 0, schedule->shape.n_heads - 1);
    assert_true(schedule->n_late_heads == 0 || schedule->chain_bound);
    if (!schedule->chain_bound)
        return;
    for (int32_t v = CF_VECTOR_ATTENTION; v < CF_VECTOR_FFN + schedule->n_chunks; v++) {
        assert_int_not_equal(places[v], places[CF_VECTOR_NORM1]);
        assert_int_not_equal(places[v], places[CF_VECTOR_NORM2]);
    }
}

static void what_is_not_waited_for_overwrites_nothing(void **state)
{
    (void)state;
    for_every_schedule(check_late);
}

static void a_slot_is_drained_by_one_warp_and_holds_every_tile(void **state)
{
    (void)state;
    for_every_schedule(check_ring);
}

/* Amid the stream, when q, k and v have long been streamed, and before what attention feeds. */
static void check_kv_place(const cf_schedule *schedule)
{
    assert_in_range(schedule->kv_positions, 1, 4096);
    assert_true(4 * schedule->shape.d_head * schedule->kv_positions <= schedule->slot_bytes);
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        const cf_share *share = &schedule->shares[b];
        for (int32_t t = 0; t < share->n_layer_tiles; t++) {
            cf_matrix matrix = schedule->phases[tiles_of(schedule, b)[t].phase].matrix;
            if (matrix == CF_MATRIX_QKV)
                assert_true(t < share->kv_place);
            if (matrix == CF_MATRIX_DENSE || matrix == CF_MATRIX_DOWN)
                assert_true(t >= share->kv_place);
        }
    }
}

static void the_kv_cache_comes_between_qkv_and_dense(void **state)
{
    (void)state;
    for_every_schedule(check_kv_place);
}

/* Of a model on an H200: places that qkv and up leave free in the consumers' last turn. */
static int32_t free_consumers(const cf_schedule *schedule)
{
    int32_t n = 0;
    for (int32_t b = 0; b < schedule->n_blocks; b++)
        for (int32_t p = 0; p < schedule->n_phases; p++)
            if (schedule->phases[p].matrix == CF_MATRIX_QKV ||
                schedule->phases[p].matrix == CF_MATRIX_UP)
                n += schedule->shares[b].n_phase_tiles[p];
    int32_t each = (n + schedule->n_blocks - 1) / schedule->n_blocks;
    return (schedule->n_consumers - each % schedule->n_consumers) % schedule->n_consumers;
}

static void a_short_cache_is_cut_as_finely_as_consumers_are_free(void **state)
{
    (void)state;
    static const struct {
        known_model model;
        int32_t least;
    } expected[] = {{MODEL_160M, 16}, {MODEL_410M, 32}, {MODEL_2_8B, 16}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cf_schedule schedule = known_schedule(expected[i].model, &known_gpus[GPU_H200]);
        assert_int_equal(schedule.kv_least, expected[i].least);
        if (schedule.shape.d_model <= 1024)
            assert_int_equal(free_consumers(&schedule) >= 3, schedule.kv_least == 16);
        cf_schedule_free(&schedule);
    }
}

/* The 410M's tiles of 8 KB: 1.3 us of what each block gets of the memory, up to the window. */
static void what_is_in_flight_ahead_follows_the_memory(void **state)
{
    (void)state;
    static const struct {
        int32_t gb_per_s, n_ahead;
    } expected[] = {{0, 6}, {100, 1}, {1792, 2}, {3352, 4}, {4916, 6}, {100000, 6}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cf_gpu_limits limits = known_gpus[GPU_H200];
        limits.memory_gb_per_s = expected[i].gb_per_s;
        cf_schedule schedule = known_schedule(MODEL_410M, &limits);
        assert_int_equal(schedule.n_ahead, expected[i].n_ahead);
        cf_schedule_free(&schedule);
    }
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_memory_fits_and_is_aligned),
        cmocka_unit_test(a_slot_is_drained_by_one_warp_and_holds_every_tile),
        cmocka_unit_test(what_is_not_waited_for_overwrites_nothing),
        cmocka_unit_test(the_kv_cache_comes_between_qkv_and_dense),
        cmocka_unit_test(a_short_cache_is_cut_as_finely_as_consumers_are_free),
        cmocka_unit_test(what_is_in_flight_ahead_follows_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
