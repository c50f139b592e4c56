/* What every schedule must hold to, for all known models and the limits of all known GPUs. */
#include "schedule/schedule.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

typedef struct named_shape {
    const char *name;
    int32_t n_layers, d_model, n_heads, d_ffn, n_vocab;
    bool parallel;
} named_shape;

static const named_shape models[] = {
    {"pythia-14m", 6, 128, 4, 512, 50304, true},
    {"pythia-31m", 6, 256, 8, 1024, 50304, true},
    {"pythia-70m", 6, 512, 8, 2048, 50304, true},
    {"pythia-160m", 12, 768, 12, 3072, 50304, true},
    {"pythia-410m", 24, 1024, 16, 4096, 50304, true},
    {"pythia-1b", 16, 2048, 8, 8192, 50304, true},
    {"pythia-1.4b", 24, 2048, 16, 8192, 50304, true},
    {"pythia-2.8b", 32, 2560, 32, 10240, 50304, true},
    {"pythia-6.9b", 32, 4096, 32, 16384, 50432, true},
    {"pythia-12b", 36, 5120, 40, 20480, 50688, true},
    {"gpt-neox-20b", 44, 6144, 64, 24576, 50432, true},
    {"RedPajama-INCITE-3B", 32, 2560, 32, 10240, 50432, false},
    {"RedPajama-INCITE-7B", 32, 4096, 32, 16384, 50432, false},
    {"uneven", 2, 1280, 16, 5128, 50277, true}, /* nothing divides anything */
};

typedef struct named_gpu {
    const char *name;
    cf_gpu_limits limits;
} named_gpu;

/* Multiprocessors, bytes of shared memory a block, GB/s. */
static const named_gpu gpus[] = {
    {"sm_80, A100", {108, 163 * 1024, 2039}},     {"sm_90, H200", {132, 227 * 1024, 4916}},
    {"sm_90, H100", {132, 227 * 1024, 3352}},     {"sm_100, B200", {148, 227 * 1024, 8000}},
    {"sm_120, RTX 5090", {170, 99 * 1024, 1792}},
};

enum { N_MODELS = sizeof models / sizeof *models, N_GPUS = sizeof gpus / sizeof *gpus };

static cf_shape shape_of(const named_shape *model)
{
    return (cf_shape){.n_layers = model->n_layers,
                      .d_model = model->d_model,
                      .n_heads = model->n_heads,
                      .d_head = model->d_model / model->n_heads,
                      .d_ffn = model->d_ffn,
                      .n_vocab = model->n_vocab,
                      .parallel_residual = model->parallel};
}

/* The 20B model's inner vector is too long for the smallest shared memory; nor would it fit the
 * GPU. */
static bool is_too_large(const named_shape *model, const named_gpu *gpu)
{
    return model->d_model == 6144 && gpu->limits.shared_bytes == 99 * 1024;
}

typedef void (*schedule_check)(const cf_schedule *schedule);

static void for_every_schedule(schedule_check check)
{
    for (int m = 0; m < N_MODELS; m++)
        for (int g = 0; g < N_GPUS; g++) {
            cf_shape shape = shape_of(&models[m]);
            cf_schedule schedule;
            cf_error error;
            if (is_too_large(&models[m], &gpus[g]))
                continue;
            assert_ok(cf_schedule_create(&shape, &gpus[g].limits, &schedule, &error), error);
            check(&schedule);
            cf_schedule_free(&schedule);
        }
}

static const cf_tile *tiles_of(const cf_schedule *schedule, int32_t block)
{
    return &schedule->tiles[(size_t)block * (size_t)schedule->max_tiles];
}

static int32_t n_tiles_of(const cf_schedule *schedule, int32_t block)
{
    return schedule->shares[block].n_layer_tiles + schedule->shares[block].n_head_tiles;
}

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

static const named_gpu *gpu_of(const cf_schedule *schedule)
{
    for (int g = 0; g < N_GPUS; g++)
        if (schedule->n_blocks <= gpus[g].limits.n_multiprocessors &&
            schedule->shared.total <= gpus[g].limits.shared_bytes)
            return &gpus[g];
    return NULL;
}

static void check_shared_memory(const cf_schedule *schedule)
{
    const cf_shared_layout *shared = &schedule->shared;
    int32_t offsets[] = {
        CF_SCHEDULE_FIXED_BYTES, shared->tiles + schedule->max_tiles * (int32_t)sizeof(cf_tile),
        shared->vectors[CF_VECTOR_FFN + schedule->n_chunks - 1] + 2 * schedule->chunk};
    assert_non_null(gpu_of(schedule));
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
        int32_t model, least;
    } expected[] = {{3, 16}, {4, 32}, {7, 16}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cf_shape shape = shape_of(&models[expected[i].model]);
        cf_schedule schedule;
        cf_error error;
        assert_ok(cf_schedule_create(&shape, &gpus[1].limits, &schedule, &error), error);
        assert_int_equal(schedule.kv_least, expected[i].least);
        if (shape.d_model <= 1024)
            assert_int_equal(free_consumers(&schedule) >= 3, schedule.kv_least == 16);
        cf_schedule_free(&schedule);
    }
}

static cf_schedule schedule_of(int32_t model, cf_gpu_limits limits)
{
    cf_shape shape = shape_of(&models[model]);
    cf_schedule schedule;
    cf_error error;
    assert_ok(cf_schedule_create(&shape, &limits, &schedule, &error), error);
    return schedule;
}

/* The 410M's tiles of 8 KB: 1.3 us of what each block gets of the memory, up to the window. */
static void what_is_in_flight_ahead_follows_the_memory(void **state)
{
    (void)state;
    static const struct {
        int32_t gb_per_s, n_ahead;
    } expected[] = {{0, 6}, {100, 1}, {1792, 2}, {3352, 4}, {4916, 6}, {100000, 6}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cf_gpu_limits limits = gpus[1].limits;
        limits.memory_gb_per_s = expected[i].gb_per_s;
        cf_schedule schedule = schedule_of(4, limits);
        assert_int_equal(schedule.n_ahead, expected[i].n_ahead);
        cf_schedule_free(&schedule);
    }
}

static void splits_grow_with_the_context_up_to_the_blocks(void **state)
{
    (void)state;
    cf_schedule schedule = schedule_of(7, gpus[1].limits);
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
    cf_schedule schedule = schedule_of(7, gpus[1].limits);
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
    cf_shape shape = shape_of(&models[5]);
    int n_made = 0;
    for (shape.d_ffn = 1024; shape.d_ffn <= 16384; shape.d_ffn += 8) {
        cf_schedule schedule;
        if (cf_schedule_create(&shape, &gpus[1].limits, &schedule, NULL) != CF_STATUS_OK)
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
    cf_gpu_limits hopper = gpus[1].limits;
    cf_shape shape = shape_of(&models[7]);
    shape.d_head = 72;
    assert_refused(shape, hopper, "head width 72");
    shape = shape_of(&models[7]);
    shape.d_model = 12288;
    assert_refused(shape, hopper, "d_model 12288");
    shape = shape_of(&models[7]);
    shape.d_ffn = 10242;
    assert_refused(shape, hopper, "d_ffn 10242");
    shape.d_ffn = 2560 * 24;
    assert_refused(shape, hopper, "10 chunks, expected at most 8");
    shape = shape_of(&models[7]);
    shape.n_layers = 65;
    assert_refused(shape, hopper, "65 layers");
    shape = shape_of(&models[7]);
    shape.d_ffn = 128;
    assert_refused(shape, hopper, "d_ffn 128 is too small");
    cf_gpu_limits small = {.n_multiprocessors = 46, .shared_bytes = 64 * 1024};
    assert_refused(shape_of(&models[10]), small, "64 heads, expected at most 46");
    small.n_multiprocessors = 68;
    assert_refused(shape_of(&models[10]), small, "the GPU has 65536 a block");
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
        cmocka_unit_test(shared_memory_fits_and_is_aligned),
        cmocka_unit_test(a_slot_is_drained_by_one_warp_and_holds_every_tile),
        cmocka_unit_test(what_is_not_waited_for_overwrites_nothing),
        cmocka_unit_test(the_kv_cache_comes_between_qkv_and_dense),
        cmocka_unit_test(a_short_cache_is_cut_as_finely_as_consumers_are_free),
        cmocka_unit_test(what_is_in_flight_ahead_follows_the_memory),
        cmocka_unit_test(splits_grow_with_the_context_up_to_the_blocks),
        cmocka_unit_test(a_token_of_the_2_8b_model_reads_its_weights_once),
        cmocka_unit_test(no_chunk_of_any_inner_vector_is_empty),
        cmocka_unit_test(what_cannot_run_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
