#include "schedule/deal.h"

#include "base/memory.h"

/*
 * Tiles are dealt like cards, one to each block in turn: neighbouring rows go to different blocks,
 * which read them at the same time. A unit of residual rows is a whole row of down and dense for
 * one block, so the blocks that get one unit more than others get fewer tiles of the other phases.
 * They leave the round early, at its end: until then all blocks advance in step.
 */

static int32_t n_tiles_of(const cf_phase *phase)
{
    return (phase->n_rows + phase->tile_rows - 1) / phase->tile_rows;
}

static bool is_owned(const cf_phase *phase)
{
    return phase->matrix == CF_MATRIX_DOWN || phase->matrix == CF_MATRIX_DENSE;
}

static bool is_free(const cf_phase *phase)
{
    return phase->matrix == CF_MATRIX_QKV || phase->matrix == CF_MATRIX_UP;
}

/* Tiles, of `n` dealt in turn to `n_blocks`, that `block` gets. */
static int32_t turn_share(int32_t n, int32_t n_blocks, int32_t block)
{
    return (n - block + n_blocks - 1) / n_blocks;
}

/* Of those with fewer tiles than `most`; there is one. */
static int32_t lightest(const int64_t *weights, const int32_t *quotas, int32_t most, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (quotas[i] < most && (best < 0 || weights[i] < weights[best]))
            best = i;
    return best;
}

/*
 * The most free tiles of a block. Where its consumers have few turns of them, as many turns as the
 * average block needs: one more, in blocks with fewer units, is what all others would wait for.
 */
static int32_t most_free_tiles(const cf_schedule *schedule)
{
    int32_t n_tiles = 0;
    int32_t turn = CF_SCHEDULE_N_STREAM_WARPS(schedule->shape.d_head) - schedule->n_producers;
    for (int32_t p = 0; p < schedule->n_phases; p++)
        n_tiles += is_free(&schedule->phases[p]) ? n_tiles_of(&schedule->phases[p]) : 0;
    int32_t n_turns = (n_tiles + turn * schedule->n_blocks - 1) / (turn * schedule->n_blocks);
    return n_turns > CF_SCHEDULE_FEW_TURNS ? n_tiles : n_turns * turn;
}

/* Weights of one tile of qkv or up, and of one unit of residual rows. */
static int64_t tile_weight(const cf_schedule *schedule)
{
    return (int64_t)schedule->tile_rows * schedule->shape.d_model;
}

static int64_t unit_weight(const cf_schedule *schedule)
{
    return (int64_t)schedule->unit_rows * (schedule->shape.d_model + schedule->shape.d_ffn);
}

/*
 * What attention costs a block, as weights that it could stream meanwhile. With a short context
 * only the first blocks attend, one a head, with a longer one two and more; in the end all do, and
 * what the first ones got less of makes no difference. Four tiles were the best of what was tried
 * (docs/speed_log.md); in small models fewer, so that every block still gets some of up.
 */
static int64_t attention_weight(const cf_schedule *schedule, int32_t block)
{
    const cf_shape *shape = &schedule->shape;
    const cf_share *shares = schedule->shares;
    int64_t more_units = shares[0].n_units - shares[schedule->n_blocks - 1].n_units;
    int64_t up = (int64_t)shape->d_ffn * shape->d_model / schedule->n_blocks;
    int64_t spare = up - more_units * unit_weight(schedule) - 2 * tile_weight(schedule);
    int64_t most = 4 * tile_weight(schedule), split = block / shape->n_heads;
    if (split > 1 || spare < 0)
        return 0;
    return (spare < most ? spare : most) / (split + 1);
}

/*
 * How many free tiles each block gets, so that all have the same to do in a layer, to a tile: the
 * weights that they stream, and attention.
 */
static void level(const cf_schedule *schedule, int64_t *weights, int32_t *quotas)
{
    int32_t most = most_free_tiles(schedule);
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        quotas[b] = 0;
        weights[b] =
            unit_weight(schedule) * schedule->shares[b].n_units + attention_weight(schedule, b);
    }
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        int32_t n_tiles = is_free(&schedule->phases[p]) ? n_tiles_of(&schedule->phases[p]) : 0;
        for (int32_t t = 0; t < n_tiles; t++) {
            int32_t b = lightest(weights, quotas, most, schedule->n_blocks);
            weights[b] += tile_weight(schedule);
            quotas[b]++;
        }
    }
}

/* Counts every block's tiles; `quotas` are its free ones. */
static void count_shares(cf_schedule *schedule, const int32_t *quotas)
{
    const cf_phase *head = &schedule->phases[schedule->n_phases - 1];
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        cf_share *share = &schedule->shares[b];
        share->n_layer_tiles = quotas[b] + share->n_units * schedule->n_parts;
        share->n_head_tiles = turn_share(n_tiles_of(head), schedule->n_blocks, b);
        int32_t n_tiles = share->n_layer_tiles + share->n_head_tiles;
        if (n_tiles > schedule->max_tiles)
            schedule->max_tiles = n_tiles;
    }
}

/* Where the next tile goes, and how many each block has been given. */
typedef struct dealer {
    cf_schedule *schedule;
    int32_t *quotas;
    int32_t *given;
    int32_t turn;
} dealer;

static void give(dealer *deal, int32_t block, int32_t phase_index, int32_t tile)
{
    cf_schedule *schedule = deal->schedule;
    const cf_phase *phase = &schedule->phases[phase_index];
    cf_share *share = &schedule->shares[block];
    int32_t first = tile * phase->tile_rows, left = phase->n_rows - first;
    cf_tile *next =
        &schedule
             ->tiles[(size_t)block * (size_t)schedule->max_tiles + (size_t)deal->given[block]++];
    *next = (cf_tile){
        .row = phase->row + first,
        .phase = (uint8_t)phase_index,
        .n_rows = (uint8_t)(left < phase->tile_rows ? left : phase->tile_rows),
        .unit = (uint16_t)share->n_phase_tiles[phase_index]++,
    };
}

static int32_t next_with_quota(dealer *deal)
{
    int32_t n_blocks = deal->schedule->n_blocks;
    while (deal->quotas[deal->turn] == 0)
        deal->turn = (deal->turn + 1) % n_blocks;
    int32_t block = deal->turn;
    deal->quotas[block]--;
    deal->turn = (deal->turn + 1) % n_blocks;
    return block;
}

static void deal_phase(dealer *deal, int32_t phase_index)
{
    const cf_phase *phase = &deal->schedule->phases[phase_index];
    int32_t n_tiles = n_tiles_of(phase);
    for (int32_t t = 0; t < n_tiles; t++) {
        int32_t block = is_free(phase) ? next_with_quota(deal) : t % deal->schedule->n_blocks;
        give(deal, block, phase_index, t);
    }
}

/* A block's rows of the LM head are consecutive: tokens are drawn in the order of their ids. */
static void deal_head(dealer *deal, int32_t phase_index)
{
    int32_t t = 0;
    for (int32_t b = 0; b < deal->schedule->n_blocks; b++)
        for (int32_t n = deal->schedule->shares[b].n_head_tiles; n > 0; n--)
            give(deal, b, phase_index, t++);
}

static void count_units(cf_schedule *schedule)
{
    int32_t n_blocks = schedule->n_blocks, n_units = 0;
    for (int32_t p = 0; p < schedule->n_phases; p++)
        if (is_owned(&schedule->phases[p]))
            n_units = n_tiles_of(&schedule->phases[p]);
    for (int32_t b = 0; b < n_blocks; b++)
        schedule->shares[b].n_units = turn_share(n_units, n_blocks, b);
    schedule->max_units = schedule->shares[0].n_units;
}

static cf_status deal_all(cf_schedule *schedule, int64_t *weights, int32_t *quotas, int32_t *given,
                          cf_error *error)
{
    count_units(schedule);
    level(schedule, weights, quotas);
    count_shares(schedule, quotas);
    size_t n_tiles = (size_t)schedule->n_blocks * (size_t)schedule->max_tiles;
    cf_status status = CF_ALLOC(&schedule->tiles, n_tiles, "schedule", error);
    if (status != CF_STATUS_OK)
        return status;
    dealer state = {.schedule = schedule, .quotas = quotas, .given = given};
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        if (schedule->phases[p].matrix == CF_MATRIX_HEAD)
            deal_head(&state, p);
        else
            deal_phase(&state, p);
        for (int32_t b = 0; b < schedule->n_blocks; b++)
            schedule->phases[p].n_blocks += schedule->shares[b].n_phase_tiles[p] > 0;
    }
    return CF_STATUS_OK;
}

cf_status cf_schedule_deal(cf_schedule *schedule, cf_error *error)
{
    size_t n = (size_t)schedule->n_blocks;
    int64_t *weights = NULL;
    int32_t *quotas = NULL, *given = NULL;
    cf_status status = CF_ALLOC(&schedule->shares, n, "schedule", error);
    if (status == CF_STATUS_OK)
        status = CF_ALLOC(&weights, n, "schedule", error);
    if (status == CF_STATUS_OK)
        status = CF_ALLOC(&quotas, n, "schedule", error);
    if (status == CF_STATUS_OK)
        status = CF_ALLOC(&given, n, "schedule", error);
    if (status == CF_STATUS_OK)
        status = deal_all(schedule, weights, quotas, given, error);
    cf_dealloc(weights);
    cf_dealloc(quotas);
    cf_dealloc(given);
    return status;
}
