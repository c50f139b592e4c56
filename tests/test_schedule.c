/*
 * Which block streams what, and in which order: what every schedule must hold to, for all known
 * models and the limits of all known GPUs.
 */
#include "support/known_schedules.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

static int32_t n_matrix_rows(const cf_shape *shape, cf_matrix matrix)
{
    switch (matrix) {
    case CF_MATRIX_QKV:
        return 3 * shape->d_model;
    case CF_MATRIX_UP:
        return shape->d_ffn;
    case CF_MATRIX_HEAD:
        return shape->n_vocab;
    case CF_MATRIX_DOWN:
    case CF_MATRIX_DENSE:
        break;
    }
    return shape->d_model;
}

/* Counts how many columns of each row of a matrix are streamed; phases never overlap in columns. */
static void check_matrix(const cf_schedule *schedule, cf_matrix matrix)
{
    const cf_shape *shape = &schedule->shape;
    int32_t n_rows = n_matrix_rows(shape, matrix);
    int32_t n_columns = matrix == CF_MATRIX_DOWN ? shape->d_ffn : shape->d_model;
    int32_t *streamed = calloc((size_t)n_rows, sizeof *streamed);
    for (int32_t b = 0; b < schedule->n_blocks; b++)
        for (int32_t t = 0; t < n_tiles_of(schedule, b); t++) {
            const cf_tile *tile = &tiles_of(schedule, b)[t];
            const cf_phase *phase = &schedule->phases[tile->phase];
            if (phase->matrix != matrix)
                continue;
            assert_in_range(tile->row, phase->row, phase->row + phase->n_rows - tile->n_rows);
            for (int32_t r = 0; r < tile->n_rows; r++)
                streamed[tile->row + r] += phase->n_columns;
        }
    for (int32_t r = 0; r < n_rows; r++)
        assert_int_equal(streamed[r], n_columns);
    free(streamed);
}

static void check_columns(const cf_schedule *schedule)
{
    int32_t next = 0;
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        const cf_phase *phase = &schedule->phases[p];
        if (phase->matrix != CF_MATRIX_DOWN)
            continue;
        assert_int_equal(phase->column, next);
        assert_int_equal(phase->part, 1 + phase->input - CF_VECTOR_FFN);
        next += phase->n_columns;
    }
    assert_int_equal(next, schedule->shape.d_ffn);
}

static void check_coverage(const cf_schedule *schedule)
{
    check_columns(schedule);
    for (int m = CF_MATRIX_QKV; m <= CF_MATRIX_HEAD; m++)
        check_matrix(schedule, (cf_matrix)m);
}

static void every_weight_is_in_exactly_one_tile(void **state)
{
    (void)state;
    for_every_schedule(check_coverage);
}

/* Bytes of a layer that a block streams. */
static int64_t layer_bytes(const cf_schedule *schedule, int32_t block)
{
    int64_t n_bytes = 0;
    for (int32_t t = 0; t < schedule->shares[block].n_layer_tiles; t++) {
        const cf_tile *tile = &tiles_of(schedule, block)[t];
        n_bytes += 2 * (int64_t)tile->n_rows * schedule->phases[tile->phase].n_columns;
    }
    return n_bytes;
}

/* A range of numbers of bytes. */
typedef struct span {
    int64_t least, most;
} span;

static void widen(span *bytes, int64_t n)
{
    bytes->least = n < bytes->least ? n : bytes->least;
    bytes->most = n > bytes->most ? n : bytes->most;
}

/* Tiles of qkv and up of a block, or with -1 of all blocks. */
static int32_t n_free_tiles(const cf_schedule *schedule, int32_t block)
{
    int32_t n = 0;
    for (int32_t b = 0; b < schedule->n_blocks; b++)
        for (int32_t p = 0; p < schedule->n_phases; p++)
            if ((block == -1 || b == block) && (schedule->phases[p].matrix == CF_MATRIX_QKV ||
                                                schedule->phases[p].matrix == CF_MATRIX_UP))
                n += schedule->shares[b].n_phase_tiles[p];
    return n;
}

/* Whether a block has as many of them as its consumers can take in the average block's few turns.
 */
static bool has_all_turns(const cf_schedule *schedule, int32_t block)
{
    int32_t turn = CF_SCHEDULE_N_STREAM_WARPS(schedule->shape.d_head) - schedule->n_producers;
    int32_t n_mean = (n_free_tiles(schedule, -1) + schedule->n_blocks - 1) / schedule->n_blocks;
    int32_t n_turns = (n_mean + turn - 1) / turn, n = n_free_tiles(schedule, block);
    if (n_turns > CF_SCHEDULE_FEW_TURNS)
        return false;
    assert_in_range(n, 1, n_turns * turn);
    return n == n_turns * turn;
}

/*
 * Blocks that attend with any context, with more than one part a head, and with more than two, or
 * never: each kind is levelled, and those that attend more often have less, by four tiles at most.
 * Only a block that can have no more tiles in the consumers' turns may have less than its kind.
 */
static void check_balance(const cf_schedule *schedule)
{
    enum { N_KINDS = 3 };
    span kinds[N_KINDS] = {{INT64_MAX, 0}, {INT64_MAX, 0}, {INT64_MAX, 0}}, head = {INT64_MAX, 0};
    int64_t tile = schedule->slot_bytes; /* the largest one's bytes */
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        int32_t kind = b / schedule->shape.n_heads;
        if (!has_all_turns(schedule, b))
            widen(&kinds[kind < N_KINDS ? kind : N_KINDS - 1], layer_bytes(schedule, b));
        widen(&head, schedule->shares[b].n_head_tiles);
    }
    for (int kind = 0; kind < N_KINDS; kind++)
        if (kinds[kind].most > 0) {
            assert_true(kinds[kind].most - kinds[kind].least <= tile);
            assert_true(kinds[kind].least >= kinds[0].least - tile);
            assert_true(kinds[kind].most <= kinds[0].least + 5 * tile);
        }
    assert_true(head.most - head.least <= 1);
}

static void blocks_that_attend_alike_are_levelled_to_a_tile(void **state)
{
    (void)state;
    for_every_schedule(check_balance);
}

/* In all but small models: two tiles less, and four, up to the tile that levelling leaves. */
static void check_attending(const cf_schedule *schedule)
{
    int32_t n_heads = schedule->shape.n_heads;
    int64_t tile = 2 * (int64_t)schedule->tile_rows * schedule->shape.d_model;
    if (schedule->shape.d_model < 2048 || schedule->n_blocks <= 2 * n_heads)
        return;
    int64_t always = layer_bytes(schedule, 0), often = layer_bytes(schedule, n_heads);
    int64_t seldom = layer_bytes(schedule, 2 * n_heads);
    assert_in_range(often - always, tile, 3 * tile);
    assert_in_range(seldom - always, 3 * tile, 5 * tile);
}

static void blocks_that_attend_with_short_contexts_stream_less(void **state)
{
    (void)state;
    for_every_schedule(check_attending);
}

/* The phase that makes what `phase` reads; -1 for what the residual of the layer before makes. */
static int32_t producer_of(const cf_schedule *schedule, const cf_phase *phase)
{
    bool parallel = schedule->shape.parallel_residual;
    cf_matrix wanted = CF_MATRIX_UP;
    if (phase->input == CF_VECTOR_NORM1 || (phase->input == CF_VECTOR_NORM2 && parallel))
        return -1;
    if (phase->input == CF_VECTOR_ATTENTION)
        wanted = CF_MATRIX_QKV;
    if (phase->input == CF_VECTOR_NORM2)
        wanted = CF_MATRIX_DENSE;
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        const cf_phase *candidate = &schedule->phases[p];
        if (candidate->matrix == wanted &&
            (wanted != CF_MATRIX_UP || candidate->row == phase->column))
            return p;
    }
    return schedule->n_phases;
}

/*
 * With all blocks going through the phases in the same order, and every phase after those that make
 * its input, the earliest unfinished phase can always go on: no interleaving ends in a deadlock.
 */
static void check_order(const cf_schedule *schedule)
{
    for (int32_t p = 0; p < schedule->n_phases; p++)
        assert_true(producer_of(schedule, &schedule->phases[p]) < p);
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        const cf_share *share = &schedule->shares[b];
        int32_t n_seen[CF_SCHEDULE_MAX_PHASES] = {0};
        for (int32_t t = 0; t < n_tiles_of(schedule, b); t++) {
            const cf_tile *tile = &tiles_of(schedule, b)[t];
            assert_true(t == 0 || tile[-1].phase <= tile->phase);
            assert_int_equal(tile->phase == schedule->n_phases - 1, t >= share->n_layer_tiles);
            assert_int_equal(tile->unit, n_seen[tile->phase]++);
        }
        for (int32_t p = 0; p < schedule->n_phases; p++)
            assert_int_equal(n_seen[p], share->n_phase_tiles[p]);
    }
}

static void every_input_is_made_by_an_earlier_phase(void **state)
{
    (void)state;
    for_every_schedule(check_order);
}

/* A block that made nothing of what it reads would not hold back those that overwrite it. */
static void check_participation(const cf_schedule *schedule)
{
    int32_t n_blocks[CF_SCHEDULE_MAX_PHASES] = {0};
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        int32_t n_tiles[CF_MATRIX_HEAD + 1] = {0};
        for (int32_t p = 0; p < schedule->n_phases; p++) {
            n_tiles[schedule->phases[p].matrix] += schedule->shares[b].n_phase_tiles[p];
            n_blocks[p] += schedule->shares[b].n_phase_tiles[p] > 0;
        }
        for (int m = 0; m < CF_N_LAYER_MATRICES; m++)
            assert_true(n_tiles[m] > 0);
    }
    for (int32_t p = 0; p < schedule->n_phases; p++)
        assert_int_equal(schedule->phases[p].n_blocks, n_blocks[p]);
}

static void every_block_has_a_tile_of_every_matrix_of_a_layer(void **state)
{
    (void)state;
    for_every_schedule(check_participation);
}

/* All partial sums of a row of the residual come together in one place of one block. */
static void check_ownership(const cf_schedule *schedule)
{
    int32_t n_rows = schedule->shape.d_model;
    int32_t *owner = malloc(sizeof *owner * (size_t)n_rows);
    memset(owner, -1, sizeof *owner * (size_t)n_rows);
    for (int32_t b = 0; b < schedule->n_blocks; b++)
        for (int32_t t = 0; t < schedule->shares[b].n_layer_tiles; t++) {
            const cf_tile *tile = &tiles_of(schedule, b)[t];
            cf_matrix matrix = schedule->phases[tile->phase].matrix;
            if (matrix != CF_MATRIX_DOWN && matrix != CF_MATRIX_DENSE)
                continue;
            int32_t place = b * schedule->max_units + tile->unit;
            assert_true(tile->unit < schedule->shares[b].n_units);
            assert_true(owner[tile->row] == -1 || owner[tile->row] == place);
            owner[tile->row] = place;
        }
    free(owner);
}

static void a_residual_row_belongs_to_one_block(void **state)
{
    (void)state;
    for_every_schedule(check_ownership);
}

static void splits_grow_with_the_context_up_to_the_blocks(void **state)
{
    (void)state;
    cf_schedule schedule = known_schedule(MODEL_2_8B, &known_gpus[GPU_H200]);
    assert_int_equal(cf_schedule_splits(&schedule, 1), 1);
    assert_int_equal(cf_schedule_splits(&schedule, 64), 1);
    assert_int_equal(cf_schedule_splits(&schedule, 65), 2);
    assert_int_equal(cf_schedule_splits(&schedule, 1 << 24), 132 / 32);
    cf_schedule_free(&schedule);
}

/* 32 layers of 157.3 MB and a head of 257.6 MB, in 16-bit weights, and 4 bytes a row of biases. */
static void a_token_of_the_2_8b_model_reads_its_weights_once(void **state)
{
    (void)state;
    cf_schedule schedule = known_schedule(MODEL_2_8B, &known_gpus[GPU_H200]);
    uint64_t D = 2560, F = 10240, V = 50304;
    uint64_t weights = 2 * (32 * (4 * D * D + 2 * D * F) + V * D);
    uint64_t biases = 4 * (32 * (3 * D + F + 5 * D) + V);
    assert_int_equal(cf_schedule_token_bytes(&schedule), weights + biases);
    cf_schedule_free(&schedule);
}

static void assert_refused(cf_shape shape, cf_gpu_limits limits, const char *part)
{
    cf_schedule schedule;
    cf_error error;
    assert_fails(cf_schedule_create(&shape, &limits, &schedule, &error), CF_STATUS_UNSUPPORTED,
                 error, part);
    assert_null(schedule.tiles);
}

static void no_chunk_of_any_inner_vector_is_empty(void **state)
{
    (void)state;
    cf_shape shape = known_shape(MODEL_1B);
    int n_made = 0;
    for (shape.d_ffn = 1024; shape.d_ffn <= 16384; shape.d_ffn += 8) {
        cf_schedule schedule;
        if (cf_schedule_create(&shape, &known_gpus[GPU_H200], &schedule, NULL) != CF_STATUS_OK)
            continue;
        n_made++;
        check_columns(&schedule);
        for (int32_t p = 0; p < schedule.n_phases; p++) {
            assert_true(schedule.phases[p].n_rows > 0);
            assert_true(schedule.phases[p].n_columns > 0);
        }
        cf_schedule_free(&schedule);
    }
    assert_in_range(n_made, 1000, 2000);
}

static void what_cannot_run_is_refused_by_name(void **state)
{
    (void)state;
    cf_gpu_limits hopper = known_gpus[GPU_H200];
    cf_shape shape = known_shape(MODEL_2_8B);
    shape.d_head = 72;
    assert_refused(shape, hopper, "head width 72");
    shape = known_shape(MODEL_2_8B);
    shape.d_model = 12288;
    assert_refused(shape, hopper, "d_model 12288");
    shape = known_shape(MODEL_2_8B);
    shape.d_ffn = 10242;
    assert_refused(shape, hopper, "d_ffn 10242");
    shape.d_ffn = 2560 * 24;
    assert_refused(shape, hopper, "10 chunks, expected at most 8");
    shape = known_shape(MODEL_2_8B);
    shape.n_layers = 65;
    assert_refused(shape, hopper, "65 layers");
    shape = known_shape(MODEL_2_8B);
    shape.d_ffn = 128;
    assert_refused(shape, hopper, "d_ffn 128 is too small");
    cf_gpu_limits small = {.n_multiprocessors = 46, .shared_bytes = 64 * 1024};
    assert_refused(known_shape(MODEL_20B), small, "64 heads, expected at most 46");
    small.n_multiprocessors = 68;
    assert_refused(known_shape(MODEL_20B), small, "the GPU has 65536 a block");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_weight_is_in_exactly_one_tile),
        cmocka_unit_test(blocks_that_attend_alike_are_levelled_to_a_tile),
        cmocka_unit_test(blocks_that_attend_with_short_contexts_stream_less),
        cmocka_unit_test(every_input_is_made_by_an_earlier_phase),
        cmocka_unit_test(every_block_has_a_tile_of_every_matrix_of_a_layer),
        cmocka_unit_test(a_residual_row_belongs_to_one_block),
        cmocka_unit_test(splits_grow_with_the_context_up_to_the_blocks),
        cmocka_unit_test(a_token_of_the_2_8b_model_reads_its_weights_once),
        cmocka_unit_test(no_chunk_of_any_inner_vector_is_empty),
        cmocka_unit_test(what_cannot_run_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
