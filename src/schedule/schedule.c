#include "schedule/schedule.h"

#include "base/integers.h"
#include "base/memory.h"
#include "base/status.h"
#include "schedule/deal.h"

/*
 * A tile is about as long as a row of a large model: shorter ones do not reach the memory's speed,
 * and the last tile of a phase keeps one warp busy while all others wait.
 */
#define TILE_BYTES 12288

/* In flight per block. More does not read faster, and makes every other load wait behind it. */
#define WINDOW_BYTES 51200

/* What the memory takes for that which is in flight ahead of need, where a layer is a chain. */
#define AHEAD_NS 1300

/* Elements that a warp reads at a time: 16 bytes a lane. */
#define WARP_ELEMENTS 256

/*
 * Up to here a layer's chain of waits is longer than its stream of weights: what shortens the chain
 * counts. Beyond, what keeps the stream going.
 */
#define SHORT_D_MODEL 1024

/* Positions of the KV cache that are worth a block of their own, and a tile. */
#define SPLIT_POSITIONS 64
#define KV_POSITIONS 16

static int32_t divide_near(int32_t a, int32_t b)
{
    return (a + b / 2) / b;
}

static int32_t floor_power_of_two(int32_t value)
{
    int32_t power = 1;
    while (2 * power <= value)
        power *= 2;
    return power;
}

static cf_status check_shape(const cf_shape *shape, cf_error *error)
{
    static const int32_t head_widths[] = {32, 64, 80, 96, 128, 256};
    bool known = false;
    for (size_t i = 0; i < sizeof head_widths / sizeof *head_widths; i++)
        known = known || shape->d_head == head_widths[i];
    if (!known)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: head width %d, expected 32, 64, 80, 96, 128 or 256", shape->d_head);
    if (shape->d_model % 8 != 0 || shape->d_model > CF_SCHEDULE_MAX_D_MODEL)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: d_model %d, expected a multiple of 8, at most %d", shape->d_model,
                       CF_SCHEDULE_MAX_D_MODEL);
    if (shape->d_ffn % 8 != 0)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "CUDA: d_ffn %d, expected a multiple of 8",
                       shape->d_ffn);
    if (shape->n_layers > CF_SCHEDULE_MAX_LAYERS)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "CUDA: %d layers, expected at most %d",
                       shape->n_layers, CF_SCHEDULE_MAX_LAYERS);
    return CF_STATUS_OK;
}

/*
 * One block a multiprocessor. Where residual rows are so few that some blocks would own one and
 * some two, fewer blocks that own the same number finish together.
 */
static int32_t choose_blocks(int32_t n_multiprocessors, int32_t d_model)
{
    if (d_model >= 2 * n_multiprocessors)
        return n_multiprocessors;
    return cf_divide_up(d_model, cf_divide_up(d_model, n_multiprocessors));
}

/*
 * A slot of the ring holds the largest tile, so those of down are no larger than others; but not so
 * small that there are too many chunks.
 */
static int32_t choose_chunks(const cf_schedule *schedule)
{
    int32_t d_ffn = schedule->shape.d_ffn, unit_rows = schedule->unit_rows;
    int32_t n_rows = cf_max(schedule->tile_rows, schedule->head_tile_rows);
    int32_t least = cf_divide_up(d_ffn, TILE_BYTES / (2 * unit_rows));
    int32_t level = cf_divide_up(d_ffn, n_rows * schedule->shape.d_model / unit_rows);
    return cf_max(least, cf_min(level, CF_SCHEDULE_MAX_CHUNKS));
}

/* Tiles of at most TILE_BYTES; fewer rows where a block would get too few of them to level. */
static cf_status choose_sizes(cf_schedule *schedule, const cf_gpu_limits *limits, cf_error *error)
{
    const cf_shape *shape = &schedule->shape;
    int32_t d_model = shape->d_model, n_rows = TILE_BYTES / (2 * d_model);
    int32_t n_blocks = choose_blocks(limits->n_multiprocessors, d_model);
    schedule->n_blocks = n_blocks;
    schedule->tile_rows = floor_power_of_two(cf_min(n_rows, 3 * d_model / (4 * n_blocks)));
    int32_t n_unit_rows = cf_min(n_rows, CF_SCHEDULE_MAX_CHUNKS * TILE_BYTES / (2 * shape->d_ffn));
    schedule->unit_rows = floor_power_of_two(cf_min(n_unit_rows, d_model / (2 * n_blocks)));
    schedule->head_tile_rows =
        floor_power_of_two(cf_min(cf_min(n_rows, 32), shape->n_vocab / n_blocks));
    schedule->n_chunks = choose_chunks(schedule);
    schedule->chunk = cf_round_up(cf_divide_up(shape->d_ffn, schedule->n_chunks), WARP_ELEMENTS);
    /* Rounded up, fewer may do. */
    schedule->n_chunks = cf_divide_up(shape->d_ffn, schedule->chunk);
    schedule->n_parts = schedule->n_chunks + 1;
    schedule->split_positions = SPLIT_POSITIONS;
    schedule->n_producers = d_model <= SHORT_D_MODEL ? 1 : CF_SCHEDULE_MAX_PRODUCERS;
    schedule->max_splits =
        cf_min(cf_max(1, schedule->n_blocks / shape->n_heads), CF_SCHEDULE_MAX_SPLITS);
    if (shape->n_heads > n_blocks)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: %d heads, expected at most %d, a block each", shape->n_heads,
                       n_blocks);
    if (schedule->n_chunks > CF_SCHEDULE_MAX_CHUNKS)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: d_ffn %d makes %d chunks, expected at most %d", shape->d_ffn,
                       schedule->n_chunks, CF_SCHEDULE_MAX_CHUNKS);
    return CF_STATUS_OK;
}

static void add_phase(cf_schedule *schedule, cf_phase phase)
{
    bool is_down = phase.matrix == CF_MATRIX_DOWN;
    bool is_owned = is_down || phase.matrix == CF_MATRIX_DENSE;
    phase.tile_rows = is_owned                         ? schedule->unit_rows
                      : phase.matrix == CF_MATRIX_HEAD ? schedule->head_tile_rows
                                                       : schedule->tile_rows;
    phase.row_bytes = 2 * (is_down ? schedule->shape.d_ffn : schedule->shape.d_model);
    schedule->phases[schedule->n_phases++] = phase;
}

static void add_dense(cf_schedule *schedule)
{
    int32_t d_model = schedule->shape.d_model;
    add_phase(schedule, (cf_phase){.matrix = CF_MATRIX_DENSE,
                                   .input = CF_VECTOR_ATTENTION,
                                   .n_rows = d_model,
                                   .n_columns = d_model,
                                   .part = 0});
}

static void add_phases(cf_schedule *schedule)
{
    const cf_shape *shape = &schedule->shape;
    int32_t d_model = shape->d_model, chunk = schedule->chunk;
    add_phase(schedule, (cf_phase){.matrix = CF_MATRIX_QKV,
                                   .input = CF_VECTOR_NORM1,
                                   .n_rows = 3 * d_model,
                                   .n_columns = d_model});
    if (!shape->parallel_residual)
        add_dense(schedule);
    for (int32_t k = 0; k < schedule->n_chunks; k++)
        add_phase(schedule, (cf_phase){.matrix = CF_MATRIX_UP,
                                       .input = CF_VECTOR_NORM2,
                                       .row = k * chunk,
                                       .n_rows = cf_min(chunk, shape->d_ffn - k * chunk),
                                       .n_columns = d_model});
    for (int32_t k = 0; k < schedule->n_chunks; k++)
        add_phase(schedule, (cf_phase){.matrix = CF_MATRIX_DOWN,
                                       .input = CF_VECTOR_FFN + k,
                                       .n_rows = d_model,
                                       .column = k * chunk,
                                       .n_columns = cf_min(chunk, shape->d_ffn - k * chunk),
                                       .part = 1 + k});
    if (shape->parallel_residual)
        add_dense(schedule);
    add_phase(schedule, (cf_phase){.matrix = CF_MATRIX_HEAD,
                                   .input = CF_VECTOR_NORM1,
                                   .n_rows = shape->n_vocab,
                                   .n_columns = d_model});
}

/*
 * The work space of attention: in float32 a partial result a consumer and that of a paired block,
 * the rotated query and the rotation, in 16 bits the new position's q, k and v and its rotated key.
 */
static int32_t attention_bytes(int32_t d_head)
{
    int32_t n_partial = (CF_SCHEDULE_MOST_CONSUMERS(d_head) + 1) * (d_head + 2);
    return 4 * (n_partial + d_head + d_head) + 2 * 4 * d_head;
}

/* Takes `n_bytes` from the top of what is laid out so far. */
static int32_t place(cf_shared_layout *shared, int32_t n_bytes)
{
    int32_t offset = shared->total;
    shared->total += cf_round_up(n_bytes, 16);
    return offset;
}

/*
 * Some vectors share their place, where readers wait until all blocks or heads have counted.
 * Attention's is begun only after all products with the first LayerNorm's then, and the MLP's last
 * chunk after all with the second's. A token is drawn when all are used.
 */
static void lay_out_vectors(cf_schedule *schedule)
{
    cf_shared_layout *shared = &schedule->shared;
    int32_t d_model = schedule->shape.d_model, last = CF_VECTOR_FFN + schedule->n_chunks - 1;
    shared->norm_weights = place(shared, 2 * d_model);
    if (schedule->shape.parallel_residual && d_model <= SHORT_D_MODEL)
        shared->norm2_weights = place(shared, 2 * d_model);
    shared->sample = shared->total;
    shared->vectors[CF_VECTOR_NORM1] = place(shared, 2 * d_model);
    shared->vectors[CF_VECTOR_ATTENTION] =
        schedule->chain_bound ? place(shared, 2 * d_model) : shared->vectors[CF_VECTOR_NORM1];
    shared->vectors[CF_VECTOR_NORM2] = place(shared, 2 * cf_max(d_model, schedule->chunk));
    shared->vectors[last] = schedule->chain_bound ? place(shared, 2 * schedule->chunk)
                                                  : shared->vectors[CF_VECTOR_NORM2];
    for (int32_t v = CF_VECTOR_FFN; v < last; v++)
        shared->vectors[v] = place(shared, 2 * schedule->chunk);
    shared->norm = shared->vectors[CF_VECTOR_FFN];
    if (2 * schedule->chunk * (schedule->n_chunks - 1) < 4 * d_model)
        shared->norm = place(shared, 4 * d_model);
    shared->total = cf_max(shared->total, shared->sample + CF_SCHEDULE_SAMPLE_BYTES);
}

static void lay_out_all_but_ring(cf_schedule *schedule)
{
    cf_shared_layout *shared = &schedule->shared;
    int32_t unit_bytes = (int32_t)sizeof(float) * schedule->unit_rows * schedule->max_units;
    shared->total = CF_SCHEDULE_FIXED_BYTES;
    shared->tiles = place(shared, schedule->max_tiles * (int32_t)sizeof(cf_tile));
    shared->residual = place(shared, unit_bytes);
    shared->partials = place(shared, unit_bytes * schedule->n_parts);
    shared->arrivals = place(shared, schedule->max_units * CF_SCHEDULE_COUNTER_BYTES);
    shared->choice = place(shared, CF_SCHEDULE_CHOICE_BYTES);
    shared->attention = place(shared, attention_bytes(schedule->shape.d_head));
    lay_out_vectors(schedule);
    shared->ring = shared->total = cf_round_up(shared->total, 128);
}

static int32_t ring_slots(int32_t n_fitting, int32_t n_consumers, int32_t n_producers)
{
    int32_t step = n_consumers % n_producers == 0 ? n_consumers : n_consumers * n_producers;
    return n_fitting / step * step;
}

int32_t cf_ring_consumers(int32_t n_fitting, int32_t most, int32_t n_producers, int32_t *n_slots)
{
    int32_t most_slots = 0, best = 0;
    *n_slots = 0;
    for (int32_t n = 1; n <= most; n++)
        most_slots = cf_max(most_slots, ring_slots(n_fitting, n, n_producers));
    for (int32_t n = 1; n <= most; n++)
        if (5 * ring_slots(n_fitting, n, n_producers) >= 4 * most_slots) {
            best = n;
            *n_slots = ring_slots(n_fitting, n, n_producers);
        }
    return best;
}

static void choose_ring(cf_schedule *schedule, int32_t n_fitting)
{
    int32_t most = CF_SCHEDULE_N_STREAM_WARPS(schedule->shape.d_head) - schedule->n_producers;
    schedule->n_consumers =
        cf_ring_consumers(n_fitting, most, schedule->n_producers, &schedule->n_slots);
}

/* Each producer has the same number of tiles in flight. */
static int32_t choose_window(const cf_schedule *schedule)
{
    int32_t n_each = divide_near(WINDOW_BYTES, schedule->n_producers * schedule->slot_bytes);
    return cf_min(cf_max(1, n_each) * schedule->n_producers, schedule->n_slots);
}

/*
 * A block that is done with a layer fills its ring with the next one's tiles while it waits for the
 * others. With fewer of these in flight the others' last tiles come sooner, and so does what blocks
 * tell each other; where a layer is a chain of waits, as many as the memory's speed needs.
 * Measured.
 */
static int32_t choose_ahead(const cf_schedule *schedule, int32_t memory_gb_per_s)
{
    int32_t most = schedule->n_window / schedule->n_producers, n_each = 2 * most / 3;
    if (schedule->chain_bound) {
        int32_t n_bytes = AHEAD_NS * memory_gb_per_s / schedule->n_blocks;
        int32_t tile_bytes = 2 * schedule->tile_rows * schedule->shape.d_model;
        n_each = n_bytes > 0 ? divide_near(n_bytes, schedule->n_producers * tile_bytes) : most;
    }
    return cf_min(cf_max(1, n_each), most) * schedule->n_producers;
}

/*
 * Whoever waits for the last one to count, and then reads, makes one more round trip than needed;
 * whoever looks at what is not there yet takes memory from those that are late. Where a layer takes
 * as long as its chain of waits, not as its bytes, the round trips are what counts: blocks count
 * before they store, and what follows a layer's first chunk of the MLP is looked at without being
 * counted. Measured.
 */
static void choose_late(cf_schedule *schedule)
{
    bool is_short = schedule->shape.d_model <= SHORT_D_MODEL;
    schedule->n_late_blocks = is_short ? 2 * schedule->n_blocks / 3 : schedule->n_blocks / 12;
    schedule->n_late_heads = is_short ? schedule->shape.n_heads / 2 : 0;
    schedule->chain_bound = is_short;
}

/*
 * Consumers that have a tile of the KV cache wait for the query, and up's tiles behind it wait with
 * them. Where qkv and up leave consumers free in their last turn, these take as many tiles as there
 * are; else there are fewer and larger ones. Measured.
 */
static int32_t choose_kv_least(const cf_schedule *schedule)
{
    int32_t n_rows = 3 * schedule->shape.d_model + schedule->shape.d_ffn;
    int32_t n_tiles = cf_divide_up(n_rows, schedule->tile_rows * schedule->n_blocks);
    int32_t n_free = cf_round_up(n_tiles, schedule->n_consumers) - n_tiles;
    bool is_short = schedule->shape.d_model <= SHORT_D_MODEL;
    return is_short && n_free < 3 ? 2 * KV_POSITIONS : KV_POSITIONS;
}

static cf_status lay_out(cf_schedule *schedule, const cf_gpu_limits *limits, cf_error *error)
{
    int32_t shared_bytes = limits->shared_bytes;
    lay_out_all_but_ring(schedule);
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        const cf_phase *phase = &schedule->phases[p];
        int32_t tile_bytes = 2 * phase->tile_rows * phase->n_columns;
        schedule->slot_bytes = cf_max(schedule->slot_bytes, cf_round_up(tile_bytes, 128));
        schedule->bias_rows = cf_max(schedule->bias_rows, phase->tile_rows);
    }
    schedule->kv_positions = schedule->slot_bytes / (2 * 2 * schedule->shape.d_head);
    int32_t n_fitting = (shared_bytes - schedule->shared.ring) / schedule->slot_bytes;
    choose_ring(schedule, cf_min(n_fitting, CF_SCHEDULE_MAX_SLOTS));
    if (schedule->n_slots < 2)
        return cf_fail(error, CF_STATUS_UNSUPPORTED,
                       "CUDA: the kernel needs %d bytes of shared memory, the GPU has %d a block",
                       schedule->shared.ring + 2 * schedule->slot_bytes, shared_bytes);
    schedule->n_window = choose_window(schedule);
    schedule->n_ahead = choose_ahead(schedule, limits->memory_gb_per_s);
    schedule->kv_least = choose_kv_least(schedule);
    schedule->shared.total = schedule->shared.ring + schedule->n_slots * schedule->slot_bytes;
    return CF_STATUS_OK;
}

/*
 * The KV cache's tiles come before the first phase that residual rows are made of, and where up is
 * streamed before that, in the midst of it: q is made by then, and what attention feeds is still to
 * come.
 */
static void place_kv(cf_schedule *schedule)
{
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        cf_share *share = &schedule->shares[b];
        int32_t n_before = 0, n_up = 0;
        for (int32_t p = 0; schedule->phases[p].matrix != CF_MATRIX_DENSE &&
                            schedule->phases[p].matrix != CF_MATRIX_DOWN;
             p++) {
            n_before += share->n_phase_tiles[p];
            n_up += schedule->phases[p].matrix == CF_MATRIX_UP ? share->n_phase_tiles[p] : 0;
        }
        share->kv_place = n_before - n_up / 2;
    }
}

/* Whether a block has a tile of every matrix of a layer: see cf_share. */
static bool takes_part(const cf_schedule *schedule, const cf_share *share)
{
    int32_t n_tiles[CF_MATRIX_HEAD + 1] = {0};
    for (int32_t p = 0; p < schedule->n_phases; p++)
        n_tiles[schedule->phases[p].matrix] += share->n_phase_tiles[p];
    bool all = true;
    for (int32_t m = 0; m < CF_N_LAYER_MATRICES; m++)
        all = all && n_tiles[m] > 0;
    return all;
}

static cf_status check_shares(const cf_schedule *schedule, cf_error *error)
{
    for (int32_t b = 0; b < schedule->n_blocks; b++)
        if (!takes_part(schedule, &schedule->shares[b]))
            return cf_fail(error, CF_STATUS_UNSUPPORTED,
                           "CUDA: d_ffn %d is too small for d_model %d on %d multiprocessors",
                           schedule->shape.d_ffn, schedule->shape.d_model, schedule->n_blocks);
    return CF_STATUS_OK;
}

cf_status cf_schedule_create(const cf_shape *shape, const cf_gpu_limits *limits,
                             cf_schedule *schedule, cf_error *error)
{
    *schedule = (cf_schedule){.shape = *shape};
    CF_TRY(check_shape(shape, error));
    CF_TRY(choose_sizes(schedule, limits, error));
    choose_late(schedule);
    add_phases(schedule);
    cf_status status = cf_schedule_deal(schedule, error);
    if (status == CF_STATUS_OK)
        status = check_shares(schedule, error);
    if (status == CF_STATUS_OK)
        status = lay_out(schedule, limits, error);
    if (status == CF_STATUS_OK)
        place_kv(schedule);
    if (status != CF_STATUS_OK)
        cf_schedule_free(schedule);
    return status;
}

void cf_schedule_free(cf_schedule *schedule)
{
    cf_dealloc(schedule->tiles);
    cf_dealloc(schedule->shares);
    *schedule = (cf_schedule){0};
}

int32_t cf_schedule_splits(const cf_schedule *schedule, int32_t n_pos)
{
    return cf_min(cf_divide_up(n_pos, schedule->split_positions), schedule->max_splits);
}

uint64_t cf_schedule_token_bytes(const cf_schedule *schedule)
{
    uint64_t layer = 0, head = 0;
    for (int32_t p = 0; p < schedule->n_phases; p++) {
        const cf_phase *phase = &schedule->phases[p];
        uint64_t n_bytes = (uint64_t)phase->n_rows * (2 * (uint64_t)phase->n_columns + 4);
        *(phase->matrix == CF_MATRIX_HEAD ? &head : &layer) += n_bytes;
    }
    return layer * (uint64_t)schedule->shape.n_layers + head;
}
