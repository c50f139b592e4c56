/* How the layer kernel cuts shapes up, for all known models and the limits of all known GPUs. */
#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/layer_plan.h"
#include "support/known_schedules.h"

#include <stdlib.h>

typedef struct named_shape {
    const char *name;
    int32_t d_model, n_heads, d_ffn;
} named_shape;

static const named_shape models[] = {
    {"pythia-14m", 128, 4, 512},       {"pythia-31m", 256, 8, 1024},
    {"pythia-70m", 512, 8, 2048},      {"pythia-160m", 768, 12, 3072},
    {"pythia-410m", 1024, 16, 4096},   {"pythia-1b", 2048, 8, 8192},
    {"pythia-1.4b", 2048, 16, 8192},   {"pythia-2.8b", 2560, 32, 10240},
    {"pythia-6.9b", 4096, 32, 16384},  {"pythia-12b", 5120, 40, 20480},
    {"gpt-neox-20b", 6144, 64, 24576}, {"uneven", 1280, 16, 5128},
    {"a wide head", 768, 3, 1024},     {"a narrow MLP", 2560, 32, 320},
};

enum { N_MODELS = sizeof models / sizeof *models };

static cf_layer_options options_of(const named_shape *model, bool whole)
{
    return (cf_layer_options){.size = sizeof(cf_layer_options),
                              .dtype = CF_DTYPE_F16,
                              .d_model = model->d_model,
                              .n_heads = model->n_heads,
                              .d_ffn = model->d_ffn,
                              .layer_norm_eps = 1e-5f,
                              .whole = whole};
}

typedef void (*plan_check)(const cf_layer_plan *plan, const cf_gpu_limits *limits);

/* The whole layer of the 20B model does not fit the smallest shared memory. */
static bool is_too_large(const named_shape *model, const cf_gpu_limits *limits, bool whole)
{
    return whole && model->d_model == 6144 && limits->shared_bytes == 99 * 1024;
}

static void for_every_plan(plan_check check)
{
    for (int i = 0; i < 2 * N_MODELS * N_KNOWN_GPUS; i++) {
        const named_shape *model = &models[i / 2 % N_MODELS];
        const cf_gpu_limits *limits = &known_gpus[i / 2 / N_MODELS];
        cf_layer_options options = options_of(model, i % 2 == 1);
        cf_layer_plan plan;
        cf_error error;
        if (is_too_large(model, limits, options.whole))
            continue;
        print_message("%s, %d multiprocessors\n", model->name, limits->n_multiprocessors);
        assert_ok(cf_layer_plan_make(&options, limits, &plan, &error), error);
        check(&plan, limits);
    }
}

/* Counts each element of a matrix that a tile covers, in the units that all tiles are made of. */
static void cover(uint8_t *covered, const cf_layer_plan *plan, const cf_layer_tile *tile)
{
    int32_t n_parts = tile->matrix == CF_LAYER_DOWN ? plan->n_chunks : 1;
    int32_t part = tile->matrix == CF_LAYER_DOWN ? tile->column / plan->chunk : 0;
    for (int32_t r = 0; r < tile->n_rows; r++)
        covered[(tile->row + r) * n_parts + part]++;
}

static void check_coverage(const cf_layer_plan *plan, const cf_gpu_limits *limits)
{
    (void)limits;
    const cf_layer_options *options = &plan->options;
    int32_t n_units[] = {3 * options->d_model, options->d_ffn, options->d_model,
                         options->whole ? options->d_model * plan->n_chunks : 0};
    uint8_t *covered[4];
    for (int m = 0; m < 4; m++)
        covered[m] = calloc((size_t)n_units[m] + 1, 1);
    for (int32_t b = 0; b < plan->n_blocks; b++) {
        cf_layer_share share = cf_layer_share_of(plan, b);
        for (int32_t t = 0; t < share.n_tiles; t++) {
            cf_layer_tile tile = cf_layer_tile_at(plan, &share, b, t);
            assert_true(tile.row >= 0 && tile.n_rows > 0 && tile.n_rows <= 32);
            cover(covered[tile.matrix], plan, &tile);
        }
    }
    for (int m = 0; m < 4; m++) {
        for (int32_t i = 0; i < n_units[m]; i++)
            assert_int_equal(covered[m][i], 1);
        assert_int_equal(covered[m][n_units[m]], 0);
        free(covered[m]);
    }
}

static void each_weight_is_streamed_once(void **state)
{
    (void)state;
    for_every_plan(check_coverage);
}

static void check_tiles(const cf_layer_plan *plan, const cf_gpu_limits *limits)
{
    (void)limits;
    for (int32_t b = 0; b < plan->n_blocks; b++) {
        cf_layer_share share = cf_layer_share_of(plan, b);
        int32_t last = CF_LAYER_QKV;
        for (int32_t t = 0; t < share.n_tiles; t++) {
            cf_layer_tile tile = cf_layer_tile_at(plan, &share, b, t);
            int64_t n_bytes = 2 * (int64_t)tile.n_rows * tile.n_columns;
            assert_true(n_bytes % 16 == 0 && n_bytes <= plan->slot_bytes);
            assert_true(tile.column % 8 == 0);
            assert_true((int32_t)tile.matrix >= last); /* in the order that attention hides in */
            last = (int32_t)tile.matrix;
            int32_t n_own = cf_layer_own_columns(plan, &tile);
            assert_true(n_own > 0 && n_own <= tile.n_columns && n_own % 8 == 0);
            assert_true(n_own == tile.n_columns || tile.matrix == CF_LAYER_DOWN);
            if (tile.matrix == CF_LAYER_UP)
                assert_int_equal(tile.row / plan->chunk,
                                 (tile.row + tile.n_rows - 1) / plan->chunk);
        }
    }
}

/* Attention's vector takes the place of the LayerNorm's, which the block's products may still need
 * while some heads are late: so all are waited for. */
static void check_late(const cf_layer_plan *plan, const cf_gpu_limits *limits)
{
    const cf_layer_layout *layout = &plan->layout;
    (void)limits;
    if (layout->vectors[CF_LAYER_ATTENTION] == layout->vectors[CF_LAYER_NORM1])
        assert_int_equal(plan->n_late[CF_LAYER_COUNT_ATTENTION], 0);
    for (int c = 0; c < CF_LAYER_N_COUNTS; c++)
        assert_true(plan->n_late[c] >= 0 && plan->n_late[c] <= plan->n_counting[c] / 2);
}

static void what_is_not_waited_for_overwrites_nothing(void **state)
{
    (void)state;
    for_every_plan(check_late);
}

static void tiles_fit_their_slots_and_come_in_order(void **state)
{
    (void)state;
    for_every_plan(check_tiles);
}

/* Rows of dense and down that a block counts as the same are the same rows of the output. */
static void check_owners(const cf_layer_plan *plan, const cf_gpu_limits *limits)
{
    (void)limits;
    int32_t n_own = (plan->n_units + plan->n_blocks - 1) / plan->n_blocks * plan->tile_rows;
    int32_t *rows = calloc((size_t)n_own, sizeof *rows);
    for (int32_t b = 0; b < plan->n_blocks; b++) {
        cf_layer_share share = cf_layer_share_of(plan, b);
        for (int32_t t = share.n_free; t < share.n_tiles; t++) {
            cf_layer_tile tile = cf_layer_tile_at(plan, &share, b, t);
            for (int32_t r = 0; r < tile.n_rows; r++) {
                assert_true(tile.own_row + r < n_own);
                if (tile.matrix == CF_LAYER_DENSE)
                    rows[tile.own_row + r] = tile.row + r;
                else
                    assert_int_equal(rows[tile.own_row + r], tile.row + r);
            }
        }
    }
    free(rows);
}

static void a_block_makes_whole_output_rows(void **state)
{
    (void)state;
    for_every_plan(check_owners);
}

/* A slot is drained by one warp only, and no two launches share a multiprocessor. */
static void check_memory(const cf_layer_plan *plan, const cf_gpu_limits *limits)
{
    const cf_layer_layout *layout = &plan->layout;
    assert_true(plan->n_slots >= 2 && plan->n_slots <= CF_LAYER_MAX_SLOTS);
    assert_in_range(plan->n_consumers, 1, CF_LAYER_MAX_CONSUMERS);
    assert_int_equal(plan->n_slots % plan->n_consumers, 0);
    assert_int_equal(plan->n_slots % CF_LAYER_N_PRODUCERS, 0);
    assert_in_range(plan->n_window, CF_LAYER_N_PRODUCERS, plan->n_slots);
    assert_int_equal(plan->n_window % CF_LAYER_N_PRODUCERS, 0);
    assert_true(layout->ring + plan->n_slots * plan->slot_bytes <= layout->total);
    assert_true(layout->ring % 128 == 0 && plan->slot_bytes % 128 == 0);
    assert_int_equal(layout->total, limits->shared_bytes);
}

static void the_ring_fits_shared_memory(void **state)
{
    (void)state;
    for_every_plan(check_memory);
}

/* In bytes of weights, to a tile and a unit: on the GPUs and models that figures are given for. */
static void large_shapes_are_dealt_evenly(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * N_KNOWN_GPUS; i++) {
        cf_layer_options options = options_of(&models[7], i % 2 == 1);
        int64_t least = INT64_MAX, most = 0;
        cf_layer_plan plan;
        cf_error error;
        assert_ok(cf_layer_plan_make(&options, &known_gpus[i / 2], &plan, &error), error);
        for (int32_t b = 0; b < plan.n_blocks; b++) {
            cf_layer_share share = cf_layer_share_of(&plan, b);
            int64_t n_bytes = 0;
            for (int32_t t = 0; t < share.n_tiles; t++) {
                cf_layer_tile tile = cf_layer_tile_at(&plan, &share, b, t);
                n_bytes += 2 * (int64_t)tile.n_rows * tile.n_columns;
            }
            least = n_bytes < least ? n_bytes : least;
            most = n_bytes > most ? n_bytes : most;
        }
        assert_true(most - least <= plan.slot_bytes);
    }
}

static void what_cannot_be_is_refused_by_name(void **state)
{
    static const struct {
        cf_layer_options change;
        const char *part;
    } cases[] = {
        {{.dtype = CF_DTYPE_F32, .d_model = 2560, .n_heads = 32, .d_ffn = 10240}, "dtype is F32"},
        {{.dtype = CF_DTYPE_F16, .d_model = 2564, .n_heads = 32, .d_ffn = 10240},
         "d_model is 2564"},
        {{.dtype = CF_DTYPE_F16, .d_model = 2560, .n_heads = 33, .d_ffn = 10240}, "n_heads is 33"},
        {{.dtype = CF_DTYPE_F16, .d_model = 2560, .n_heads = 5, .d_ffn = 10240},
         "head width is 512"},
        {{.dtype = CF_DTYPE_F16, .d_model = 2560, .n_heads = 32, .d_ffn = 10241}, "d_ffn is 10241"},
        {{.dtype = CF_DTYPE_F16, .d_model = 2560, .n_heads = 32, .d_ffn = 8, .d_rotary = 21},
         "d_rotary is 21"},
        {{.dtype = CF_DTYPE_F16, .d_model = 2560, .n_heads = 160, .d_ffn = 8}, "n_heads is 160"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cf_layer_options options = cases[i].change;
        cf_layer_plan plan;
        cf_error error;
        options.layer_norm_eps = 1e-5f;
        cf_status status = cf_layer_plan_make(&options, &known_gpus[GPU_H200], &plan, &error);
        assert_true(status == CF_STATUS_INVALID_ARGUMENT || status == CF_STATUS_UNSUPPORTED);
        assert_fails(status, status, error, cases[i].part);
    }
    cf_layer_options options = options_of(&models[10], true);
    cf_layer_plan plan;
    cf_error error;
    assert_fails(cf_layer_plan_make(&options, &known_gpus[GPU_RTX_5090], &plan, &error),
                 CF_STATUS_UNSUPPORTED, error, "bytes of shared memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_weight_is_streamed_once),
        cmocka_unit_test(tiles_fit_their_slots_and_come_in_order),
        cmocka_unit_test(what_is_not_waited_for_overwrites_nothing),
        cmocka_unit_test(a_block_makes_whole_output_rows),
        cmocka_unit_test(the_ring_fits_shared_memory),
        cmocka_unit_test(large_shapes_are_dealt_evenly),
        cmocka_unit_test(what_cannot_be_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void needs_cuda(void **state)
{
    (void)state;
    cf_layer_options options = {.size = sizeof options};
    cf_layer *layer;
    cf_error error;
    assert_fails(cf_layer_create(&options, &layer, &error), CF_STATUS_UNSUPPORTED, error,
                 "CUDA is not built into");
    assert_null(layer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(needs_cuda)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
