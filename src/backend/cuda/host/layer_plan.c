#include "backend/cuda/host/layer_plan.h"

#include "base/integers.h"
#include "base/status.h"

/* A tile, and what may be in flight: as the token kernel's (src/schedule/schedule.c). */
#define TILE_BYTES 12288
#define WINDOW_BYTES 51200

static cf_status check_options(const cf_layer_options *options, cf_error *error)
{
    int32_t d_model = options->d_model, n_heads = options->n_heads;
    if (options->dtype != CF_DTYPE_F16 && options->dtype != CF_DTYPE_BF16)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "dtype is %s, expected F16 or BF16",
                       cf_dtype_name(options->dtype));
    if (d_model < 8 || d_model % 8 != 0 || d_model > CF_LAYER_MAX_D_MODEL)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "d_model is %d, expected a multiple of 8, at most %d", d_model,
                       CF_LAYER_MAX_D_MODEL);
    if (n_heads < 1 || d_model % n_heads != 0)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "n_heads is %d, d_model %d", n_heads,
                       d_model);
    int32_t d_head = d_model / n_heads;
    if (d_head % 8 != 0 || d_head > CF_LAYER_MAX_D_HEAD)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "head width is %d, expected a multiple of 8, at most %d", d_head,
                       CF_LAYER_MAX_D_HEAD);
    if (options->d_rotary < 0 || options->d_rotary % 2 != 0 || options->d_rotary > d_head)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "d_rotary is %d, expected even, 0 … %d",
                       options->d_rotary, d_head);
    if (options->d_ffn < 8 || options->d_ffn % 8 != 0 || options->d_ffn > 1 << 20)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "d_ffn is %d, expected a multiple of 8",
                       options->d_ffn);
    if (!(options->layer_norm_eps > 0))
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "layer_norm_eps is %g, expected above 0",
                       (double)options->layer_norm_eps);
    if (options->activation < CF_ACTIVATION_GELU_ERF || options->activation > CF_ACTIVATION_SILU)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT, "activation is %d, which is unknown",
                       (int)options->activation);
    return CF_STATUS_OK;
}

/* Rows of a tile: a power of two that divides d_model, few enough that every block gets some. */
static int32_t choose_tile_rows(int32_t d_model, int32_t n_blocks)
{
    int32_t n_rows = 1;
    while (n_rows < 32 && d_model % (2 * n_rows) == 0 && 4 * n_rows * d_model <= TILE_BYTES &&
           4 * n_rows * n_blocks <= 3 * d_model)
        n_rows *= 2;
    return n_rows;
}

/*
 * When down's tiles can be multiplied, helpers have nothing else to do: one takes half of each, in
 * steps that both go through without a remainder (stage/product.cuh).
 */
static int32_t choose_own_columns(int32_t chunk)
{
    int32_t step = chunk % 1280 == 0 ? 1280 : chunk % 1024 == 0 ? 1024 : 256;
    return chunk - chunk / step / 2 * step;
}

/* The MLP's inner vector in chunks that a slot holds of a row of down, a whole number of tiles. */
static cf_status choose_chunks(cf_layer_plan *plan, cf_error *error)
{
    int32_t d_ffn = plan->options.d_ffn;
    plan->n_chunks = 1;
    plan->chunk = cf_round_up(d_ffn, plan->tile_rows);
    plan->n_parts = 1;
    if (!plan->options.whole)
        return CF_STATUS_OK;
    plan->n_chunks = cf_divide_up(2 * d_ffn, plan->slot_bytes);
    plan->chunk = cf_round_up(cf_divide_up(d_ffn, plan->n_chunks), 32);
    while (2 * plan->chunk > plan->slot_bytes)
        plan->chunk = cf_round_up(cf_divide_up(d_ffn, ++plan->n_chunks), 32);
    plan->n_chunks = cf_divide_up(d_ffn, plan->chunk);
    plan->own_columns = choose_own_columns(plan->chunk);
    plan->n_parts = 1 + 2 * plan->n_chunks;
    if (plan->n_chunks > CF_LAYER_MAX_CHUNKS)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "d_ffn %d makes %d chunks, expected at most %d", d_ffn, plan->n_chunks,
                       CF_LAYER_MAX_CHUNKS);
    return CF_STATUS_OK;
}

static void deal(cf_layer_plan *plan)
{
    int32_t d_model = plan->options.d_model, d_ffn = plan->options.d_ffn;
    int32_t n_up_tiles = cf_divide_up(d_ffn, plan->tile_rows), n_blocks = plan->n_blocks;
    plan->n_qkv_tiles = 3 * d_model / plan->tile_rows;
    plan->n_free_tiles = plan->n_qkv_tiles + n_up_tiles;
    plan->n_units = d_model / plan->tile_rows;
    int32_t n_heavy = plan->n_units % n_blocks;
    plan->n_light = n_heavy == 0 ? 0 : n_blocks - n_heavy;
    plan->n_extra = plan->options.whole ? (d_model + d_ffn + d_model / 2) / d_model : 1;
    if (plan->n_light == 0 || plan->n_extra * plan->n_light > n_up_tiles)
        plan->n_light = plan->n_extra = 0;
    int32_t n_in_turn = plan->n_free_tiles - plan->n_extra * plan->n_light;
    plan->turns = (cf_layer_deal){n_in_turn / n_blocks, n_in_turn % n_blocks};
    plan->units = (cf_layer_deal){plan->n_units / n_blocks, plan->n_units % n_blocks};
}

/* Walks all tiles as the blocks do, to see how many blocks will count for each counter. */
static void count_blocks(cf_layer_plan *plan)
{
    plan->n_counting[CF_LAYER_COUNT_ATTENTION] = plan->options.n_heads;
    for (int32_t b = 0; b < plan->n_blocks; b++) {
        cf_layer_share share = cf_layer_share_of(plan, b);
        bool counts[CF_LAYER_N_COUNTS] = {false};
        plan->max_tiles = cf_max(plan->max_tiles, share.n_tiles);
        for (int32_t t = 0; t < share.n_free; t++) {
            cf_layer_tile tile = cf_layer_tile_at(plan, &share, b, t);
            counts[cf_layer_count_of(plan, &tile)] = true;
        }
        for (int32_t c = 0; c < CF_LAYER_N_COUNTS; c++)
            plan->n_counting[c] += counts[c];
    }
    for (int32_t c = 0; c < CF_LAYER_N_COUNTS; c++) /* measured, as for the token kernel */
        plan->n_late[c] = c == CF_LAYER_COUNT_ATTENTION ? 0 : plan->n_counting[c] / 12;
}

/* Floats of attention_space_of(). */
static int32_t attention_bytes(int32_t d_head)
{
    int32_t n_groups = 32 / (d_head / 8) * CF_LAYER_N_HELPERS;
    return 4 * (9 * d_head + 2 + 3 * (n_groups + 1) + n_groups * d_head);
}

static int32_t place(cf_layer_layout *layout, int32_t n_bytes)
{
    int32_t offset = layout->total;
    layout->total += cf_round_up(n_bytes, 128);
    return offset;
}

/*
 * Attention's vector takes the place of the first LayerNorm's: it is complete only when all
 * products with that one are.
 */
static void lay_out_all_but_ring(cf_layer_plan *plan)
{
    cf_layer_layout *layout = &plan->layout;
    int32_t d_model = plan->options.d_model;
    int32_t n_own = cf_divide_up(plan->n_units, plan->n_blocks) * plan->tile_rows;
    place(layout, CF_LAYER_FIXED_BYTES);
    layout->vectors[CF_LAYER_NORM1] = place(layout, 2 * d_model);
    layout->vectors[CF_LAYER_ATTENTION] = layout->vectors[CF_LAYER_NORM1];
    layout->vectors[CF_LAYER_NORM2] = place(layout, 2 * d_model);
    for (int32_t k = 0; plan->options.whole && k < plan->n_chunks; k++)
        layout->vectors[CF_LAYER_FFN + k] = place(layout, 2 * plan->chunk);
    layout->attention = place(layout, attention_bytes(plan->d_head));
    layout->partials = place(layout, plan->options.whole ? 4 * n_own * plan->n_parts : 0);
    layout->hidden = place(layout, plan->options.whole ? 4 * n_own : 0);
    layout->arrivals = place(layout, plan->options.whole ? 4 * n_own : 0);
    layout->ring = layout->total;
}

static cf_status lay_out_ring(cf_layer_plan *plan, int32_t shared_bytes, cf_error *error)
{
    int32_t n_fitting = (shared_bytes - plan->layout.ring) / plan->slot_bytes;
    plan->n_consumers =
        cf_ring_consumers(cf_min(n_fitting, CF_LAYER_MAX_SLOTS), CF_LAYER_MAX_CONSUMERS,
                          CF_LAYER_N_PRODUCERS, &plan->n_slots);
    if (plan->n_slots < CF_LAYER_N_PRODUCERS)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "the layer kernel needs %d bytes of shared memory, the GPU has %d a block",
                       plan->layout.ring + 2 * plan->slot_bytes, shared_bytes);
    int32_t each = CF_LAYER_N_PRODUCERS * plan->slot_bytes;
    int32_t n_window = cf_max(1, (WINDOW_BYTES + each / 2) / each) * CF_LAYER_N_PRODUCERS;
    plan->n_window = cf_min(n_window, plan->n_slots / CF_LAYER_N_PRODUCERS * CF_LAYER_N_PRODUCERS);
    /* All of it, so that no two launches ever share a multiprocessor. */
    plan->layout.total = shared_bytes;
    return CF_STATUS_OK;
}

cf_status cf_layer_plan_make(const cf_layer_options *options, const cf_gpu_limits *limits,
                             cf_layer_plan *plan, cf_error *error)
{
    *plan = (cf_layer_plan){.options = *options, .n_blocks = limits->n_multiprocessors};
    CF_TRY(check_options(options, error));
    plan->d_head = options->d_model / options->n_heads;
    if (options->n_heads > plan->n_blocks)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "n_heads is %d, expected at most %d, a block each", options->n_heads,
                       plan->n_blocks);
    plan->tile_rows = choose_tile_rows(options->d_model, plan->n_blocks);
    while (1 << plan->row_bits < plan->tile_rows)
        plan->row_bits++;
    plan->slot_bytes = cf_round_up(2 * plan->tile_rows * options->d_model, 128);
    plan->max_splits = cf_min(plan->n_blocks / options->n_heads, CF_LAYER_MAX_SPLITS);
    CF_TRY(choose_chunks(plan, error));
    deal(plan);
    lay_out_all_but_ring(plan);
    CF_TRY(lay_out_ring(plan, limits->shared_bytes, error));
    count_blocks(plan);
    return CF_STATUS_OK;
}
