#include "support/schedule_walk.h"

#include "base/half.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NOTHING = -1 };

static double weight(const cf_tensor *tensor, int64_t row, int64_t column)
{
    size_t i = (size_t)(row * tensor->dims[1] + column);
    if (tensor->dtype == CF_DTYPE_F16)
        return (double)cf_float_from_f16(((const uint16_t *)tensor->data)[i]);
    return (double)((const float *)tensor->data)[i];
}

static double element(const cf_tensor *vector, int64_t i)
{
    return vector == NULL ? 0 : weight(vector, i, 0);
}

static uint32_t random_below(token_walk *walk, uint32_t n)
{
    walk->random = walk->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(walk->random >> 33) % n;
}

static void publish(shared_values *shared, int32_t i, double value, int epoch)
{
    assert_int_equal(shared->epochs[i], epoch - 1);
    shared->values[i] = value;
    shared->epochs[i] = epoch;
}

/* Whether values first … first + n - 1 all have `epoch`; none may have been overwritten. */
static bool are_there(const shared_values *shared, int32_t first, int32_t n, int epoch)
{
    for (int32_t i = first; i < first + n; i++) {
        assert_true(shared->epochs[i] <= epoch);
        if (shared->epochs[i] < epoch)
            return false;
    }
    return true;
}

/* A round is a layer of a token, or after its layers the LM head. */
static int n_rounds(const token_walk *walk)
{
    return walk->neox->shape.n_layers + 1;
}

static int layer_of(const token_walk *walk, int round)
{
    return round % n_rounds(walk);
}

static int token_of(const token_walk *walk, int round)
{
    return round / n_rounds(walk);
}

/* The epoch of what a round makes. */
static int epoch_of(const token_walk *walk, int round)
{
    return token_of(walk, round) * walk->neox->shape.n_layers + layer_of(walk, round) + 1;
}

/* Times that the residual was complete before the layers' part `part` of a round: 0 or 1. */
static int residual_epoch(const token_walk *walk, int round, int part)
{
    int n_before = epoch_of(walk, round) - 1;
    return walk->neox->shape.parallel_residual ? n_before + part : 2 * n_before + part;
}

static void hold(token_walk *walk, walk_block *block, int vector, int round)
{
    const int32_t *places = walk->schedule.shared.vectors;
    for (int v = 0; v < CF_N_VECTORS; v++)
        if (places[v] == places[vector])
            block->held[v] = NOTHING;
    block->held[vector] = round;
}

/* The residual is brought to where the MLP's chunks lie, if not to a place of its own. */
static void overwrite_chunks(token_walk *walk, walk_block *block)
{
    const cf_schedule *schedule = &walk->schedule;
    if (schedule->shared.norm != schedule->shared.vectors[CF_VECTOR_FFN])
        return;
    for (int32_t k = 0; k + 1 < schedule->n_chunks; k++)
        block->held[CF_VECTOR_FFN + k] = NOTHING;
}

static double *vector_memory(const token_walk *walk, const walk_block *block, int vector)
{
    return block->memory + walk->schedule.shared.vectors[vector] / 2;
}

static void normalise(token_walk *walk, walk_block *block, int vector, int round, const double *x)
{
    int layer = layer_of(walk, round);
    const cf_neox *neox = walk->neox;
    const cf_neox_layer *weights = &neox->layers[layer < neox->shape.n_layers ? layer : 0];
    const cf_tensor *scale = weights->ln1_weight, *shift = weights->ln1_bias;
    if (vector == CF_VECTOR_NORM2) {
        scale = weights->ln2_weight;
        shift = weights->ln2_bias;
    } else if (layer == neox->shape.n_layers) {
        scale = neox->final_ln_weight;
        shift = neox->final_ln_bias;
    }
    int32_t n = neox->shape.d_model;
    double mean = 0, square = 0, *output = vector_memory(walk, block, vector);
    for (int32_t i = 0; i < n; i++)
        mean += x[i] / n;
    for (int32_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / n;
    double factor = 1 / sqrt(square + (double)neox->shape.layer_norm_eps);
    for (int32_t i = 0; i < n; i++)
        output[i] = (x[i] - mean) * factor * element(scale, i) + element(shift, i);
    hold(walk, block, vector, round);
}

/*
 * The token's embedding, to be normalised and in the block's own rows of the residual, as soon as
 * all logits of the token before are there: the residual has been read by all then.
 */
static bool load_embedding(token_walk *walk, walk_block *block, int token)
{
    const cf_schedule *schedule = &walk->schedule;
    int32_t b = (int32_t)(block - walk->blocks);
    if (!are_there(&walk->logits, 0, walk->logits.n, token))
        return false;
    for (int32_t i = 0; i < schedule->shape.d_model; i++)
        walk->embedding[i] = weight(walk->neox->embed, walk->ids[token], i);
    for (int32_t t = 0; t < schedule->shares[b].n_layer_tiles; t++) {
        const cf_tile *tile = &schedule->tiles[b * schedule->max_tiles + t];
        if (schedule->phases[tile->phase].matrix != CF_MATRIX_DENSE)
            continue;
        assert_int_equal(block->n_arrived[tile->unit], 0);
        for (int r = 0; r < tile->n_rows; r++)
            block->residual[tile->unit * schedule->unit_rows + r] = walk->embedding[tile->row + r];
    }
    return true;
}

/* Whether a block has published all its rows of the residual as of `epoch`. */
static bool has_published(const token_walk *walk, int32_t b, int epoch)
{
    const cf_schedule *schedule = &walk->schedule;
    for (int32_t t = 0; t < schedule->shares[b].n_layer_tiles; t++) {
        const cf_tile *tile = &schedule->tiles[b * schedule->max_tiles + t];
        if (schedule->phases[tile->phase].matrix == CF_MATRIX_DENSE &&
            !are_there(&walk->residual, tile->row, tile->n_rows, epoch))
            return false;
    }
    return true;
}

/*
 * Whether the residual of `epoch` may be begun to be read: all blocks but the late ones, and this
 * one, have published theirs.
 */
static bool may_read_residual(const token_walk *walk, const walk_block *block, int epoch)
{
    const cf_schedule *schedule = &walk->schedule;
    int32_t n = 0;
    for (int32_t b = 0; b < schedule->n_blocks; b++)
        n += has_published(walk, b, epoch);
    return n >= schedule->n_blocks - schedule->n_late_blocks &&
           has_published(walk, (int32_t)(block - walk->blocks), epoch);
}

/* The same of attention: all heads but the late ones are there. */
static bool may_read_attention(const token_walk *walk, int epoch)
{
    const cf_schedule *schedule = &walk->schedule;
    int32_t n = 0, d_head = schedule->shape.d_head;
    for (int32_t h = 0; h < schedule->shape.n_heads; h++)
        n += are_there(&walk->attention, h * d_head, d_head, epoch);
    return n >= schedule->shape.n_heads - schedule->n_late_heads;
}

static bool load(token_walk *walk, walk_block *block, int vector, int round)
{
    int layer = layer_of(walk, round);
    const cf_schedule *schedule = &walk->schedule;
    const cf_shape *shape = &schedule->shape;
    if (vector == CF_VECTOR_NORM1 || vector == CF_VECTOR_NORM2) {
        int epoch = residual_epoch(walk, round, vector == CF_VECTOR_NORM2);
        bool is_first = layer == 0 && vector == CF_VECTOR_NORM1;
        if (is_first && !load_embedding(walk, block, token_of(walk, round)))
            return false;
        if (!is_first && !may_read_residual(walk, block, epoch))
            return false;
        /* From here on: what is there is brought, whatever is still to come. */
        overwrite_chunks(walk, block);
        if (!is_first && !are_there(&walk->residual, 0, shape->d_model, epoch))
            return false;
        const double *x = is_first ? walk->embedding : walk->residual.values;
        normalise(walk, block, vector, round, x);
        if (shape->parallel_residual && layer < shape->n_layers)
            normalise(walk, block, CF_VECTOR_NORM2, round, x);
        return true;
    }
    bool is_attention = vector == CF_VECTOR_ATTENTION;
    const shared_values *source = is_attention ? &walk->attention : &walk->ffn;
    int32_t first = is_attention ? 0 : (vector - CF_VECTOR_FFN) * schedule->chunk;
    int32_t left = source->n - first;
    int32_t n = is_attention || left < schedule->chunk ? left : schedule->chunk;
    bool is_counted = !schedule->chain_bound || vector == CF_VECTOR_FFN ||
                      (is_attention && !shape->parallel_residual);
    if (is_attention && is_counted && !may_read_attention(walk, epoch_of(walk, round)))
        return false;
    /* What others have made comes in, whatever this block's consumers still have to read. */
    if (is_attention || !is_counted)
        hold(walk, block, vector, NOTHING);
    if (!are_there(source, first, n, epoch_of(walk, round)))
        return false;
    memcpy(vector_memory(walk, block, vector), source->values + first, sizeof(double) * (size_t)n);
    hold(walk, block, vector, round);
    return true;
}

/* The vector warps' next step; false if there is none, or it has to wait. */
static bool step_vectors(token_walk *walk, walk_block *block)
{
    int32_t per_token = walk->neox->shape.n_layers * walk->n_program + 1;
    int token = block->n_vectors / per_token, place = block->n_vectors % per_token;
    if (token == WALK_POSITIONS)
        return false;
    int round = token * n_rounds(walk) + place / walk->n_program;
    if (!load(walk, block, walk->program[place % walk->n_program], round))
        return false;
    block->n_vectors++;
    return true;
}

/* Tiles of one token. */
static int32_t count_tiles(const token_walk *walk, int32_t b)
{
    const cf_share *share = &walk->schedule.shares[b];
    return share->n_layer_tiles * walk->neox->shape.n_layers + share->n_head_tiles;
}

static bool step_producer(token_walk *walk, int32_t b, int producer)
{
    const cf_schedule *schedule = &walk->schedule;
    walk_block *block = &walk->blocks[b];
    int32_t n = WALK_POSITIONS * count_tiles(walk, b);
    int32_t *next = &block->next_issued[producer];
    int32_t *slot = &block->ring[*next % schedule->n_slots];
    if (*next >= n || *slot != NOTHING)
        return false;
    *slot = *next;
    *next += schedule->n_producers;
    return true;
}

static const cf_tensor *matrix_of(const cf_neox *neox, cf_matrix matrix, int layer)
{
    switch (matrix) {
    case CF_MATRIX_QKV:
        return neox->layers[layer].qkv_weight;
    case CF_MATRIX_UP:
        return neox->layers[layer].up_weight;
    case CF_MATRIX_DOWN:
        return neox->layers[layer].down_weight;
    case CF_MATRIX_DENSE:
        return neox->layers[layer].dense_weight;
    case CF_MATRIX_HEAD:
        break;
    }
    return neox->head;
}

/* Adds up a residual row that all its parts, or dense alone where that comes first, have reached.
 */
static void complete_unit(token_walk *walk, walk_block *block, const cf_tile *tile, int round)
{
    const cf_schedule *schedule = &walk->schedule;
    const cf_neox_layer *weights = &walk->neox->layers[layer_of(walk, round)];
    bool parallel = schedule->shape.parallel_residual;
    int n_arrived = ++block->n_arrived[tile->unit];
    bool dense_only = !parallel && n_arrived == 1;
    if (!dense_only && n_arrived < schedule->n_parts)
        return;
    int epoch = residual_epoch(walk, round, parallel || dense_only ? 1 : 2);
    for (int r = 0; r < tile->n_rows; r++) {
        int32_t place = tile->unit * schedule->unit_rows + r, row = tile->row + r;
        double *x = &block->residual[place];
        if (parallel || dense_only)
            *x += element(weights->dense_bias, row) + block->partials[place];
        for (int32_t part = 1; part < schedule->n_parts && !dense_only; part++)
            *x += block->partials[part * schedule->max_units * schedule->unit_rows + place];
        if (!dense_only)
            *x += element(weights->down_bias, row);
        publish(&walk->residual, row, *x, epoch);
    }
    if (!dense_only)
        block->n_arrived[tile->unit] = 0;
}

static void deliver(token_walk *walk, walk_block *block, const cf_tile *tile, int r, double sum,
                    int round)
{
    int layer = layer_of(walk, round), epoch = epoch_of(walk, round);
    const cf_schedule *schedule = &walk->schedule;
    const cf_phase *phase = &schedule->phases[tile->phase];
    int32_t row = tile->row + r;
    if (phase->matrix == CF_MATRIX_HEAD) {
        publish(&walk->logits, row, sum, token_of(walk, round) + 1);
        walk->found[token_of(walk, round) * walk->logits.n + row] = (float)sum;
    } else if (phase->matrix == CF_MATRIX_QKV) {
        double bias = element(walk->neox->layers[layer].qkv_bias, row);
        publish(&walk->qkv, row, sum + bias, epoch);
    } else if (phase->matrix == CF_MATRIX_UP) {
        sum += element(walk->neox->layers[layer].up_bias, row);
        publish(&walk->ffn, row, sum * 0.5 * erfc(-sum * sqrt(0.5)), epoch);
    } else {
        int32_t place = phase->part * schedule->max_units + tile->unit;
        block->partials[place * schedule->unit_rows + r] = sum;
    }
}

static void consume(token_walk *walk, walk_block *block, const cf_tile *tile, int round)
{
    int layer = layer_of(walk, round);
    const cf_phase *phase = &walk->schedule.phases[tile->phase];
    const cf_tensor *matrix = matrix_of(walk->neox, phase->matrix, layer);
    const double *vector = vector_memory(walk, block, phase->input);
    for (int r = 0; r < tile->n_rows; r++) {
        double sum = 0;
        for (int32_t c = 0; c < phase->n_columns; c++)
            sum += weight(matrix, tile->row + r, phase->column + c) * vector[c];
        deliver(walk, block, tile, r, sum, round);
    }
    if (phase->matrix == CF_MATRIX_DOWN || phase->matrix == CF_MATRIX_DENSE)
        complete_unit(walk, block, tile, round);
}

static bool step_consumer(token_walk *walk, int32_t b, int warp)
{
    const cf_schedule *schedule = &walk->schedule;
    walk_block *block = &walk->blocks[b];
    int32_t i = block->next_tile[warp], n_layers = schedule->shape.n_layers;
    int32_t *slot = &block->ring[i % schedule->n_slots];
    if (*slot != i)
        return false;
    int32_t per_layer = schedule->shares[b].n_layer_tiles;
    int32_t token = i / count_tiles(walk, b), place = i % count_tiles(walk, b);
    int32_t layer = place / per_layer < n_layers ? place / per_layer : n_layers;
    int round = token * n_rounds(walk) + layer;
    const cf_tile *tile = &schedule->tiles[b * schedule->max_tiles + (place - layer * per_layer) +
                                           (layer == n_layers ? per_layer : 0)];
    int input = schedule->phases[tile->phase].input;
    if (block->held[input] < round)
        return false;
    assert_int_equal(block->held[input], round);
    consume(walk, block, tile, round);
    *slot = NOTHING;
    block->next_tile[warp] += schedule->n_consumers;
    return true;
}

static void rotate(const cf_shape *shape, int32_t pos, double *vector)
{
    int32_t half = shape->d_rotary / 2;
    for (int32_t i = 0; i < half; i++) {
        double angle = pos * pow((double)shape->rope_theta, -2.0 * i / shape->d_rotary);
        double a = vector[i], b = vector[i + half];
        vector[i] = a * cos(angle) - b * sin(angle);
        vector[i + half] = b * cos(angle) + a * sin(angle);
    }
}

static void attend(token_walk *walk, int layer, int32_t pos, int32_t head)
{
    const cf_shape *shape = &walk->neox->shape;
    int32_t d = shape->d_head;
    double *q = &walk->qkv.values[3 * head * d], scores[WALK_POSITIONS], sum = 0;
    size_t base = (size_t)(layer * WALK_POSITIONS * shape->d_model + head * d);
    rotate(shape, pos, q);
    rotate(shape, pos, q + d);
    memcpy(walk->keys + base + pos * shape->d_model, q + d, sizeof *q * (size_t)d);
    memcpy(walk->values + base + pos * shape->d_model, q + 2 * d, sizeof *q * (size_t)d);
    for (int32_t p = 0; p <= pos; p++) {
        scores[p] = 0;
        for (int32_t i = 0; i < d; i++)
            scores[p] += q[i] * walk->keys[base + (size_t)(p * shape->d_model + i)] / sqrt(d);
        scores[p] = exp(scores[p]);
        sum += scores[p];
    }
    for (int32_t i = 0; i < d; i++) {
        double output = 0;
        for (int32_t p = 0; p <= pos; p++)
            output += scores[p] / sum * walk->values[base + (size_t)(p * shape->d_model + i)];
        publish(&walk->attention, head * d + i, output, pos * shape->n_layers + layer + 1);
    }
}

/* The attention warps' next layer, all of the block's heads; splits are the kernel's own matter. */
static bool step_attention(token_walk *walk, int32_t b)
{
    const cf_shape *shape = &walk->neox->shape;
    walk_block *block = &walk->blocks[b];
    int epoch = block->n_attended + 1, token = block->n_attended / shape->n_layers;
    if (token == WALK_POSITIONS)
        return false;
    for (int32_t h = b; h < shape->n_heads; h += walk->schedule.n_blocks)
        if (!are_there(&walk->qkv, 3 * h * shape->d_head, 3 * shape->d_head, epoch))
            return false;
    for (int32_t h = b; h < shape->n_heads; h += walk->schedule.n_blocks)
        attend(walk, block->n_attended % shape->n_layers, token, h);
    block->n_attended++;
    return true;
}

static bool step_actor(token_walk *walk, int32_t b, int actor)
{
    if (actor == 0)
        return step_vectors(walk, &walk->blocks[b]);
    if (actor == 1)
        return step_attention(walk, b);
    if (actor < 2 + walk->schedule.n_producers)
        return step_producer(walk, b, actor - 2);
    return step_consumer(walk, b, actor - 2 - walk->schedule.n_producers);
}

bool walk_step(token_walk *walk)
{
    uint32_t n_actors =
        2 + (uint32_t)walk->schedule.n_producers + (uint32_t)walk->schedule.n_consumers;
    uint32_t n = n_actors * (uint32_t)walk->schedule.n_blocks;
    uint32_t first = random_below(walk, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t actor = (first + i) % n;
        if (step_actor(walk, (int32_t)(actor / n_actors), (int)(actor % n_actors)))
            return true;
    }
    return false;
}

void walk_begin(token_walk *walk)
{
    const cf_schedule *schedule = &walk->schedule;
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        walk_block *block = &walk->blocks[b];
        for (int p = 0; p < CF_SCHEDULE_MAX_PRODUCERS; p++)
            block->next_issued[p] = p;
        for (int s = 0; s < CF_SCHEDULE_MAX_SLOTS; s++)
            block->ring[s] = NOTHING;
        for (int v = 0; v < CF_N_VECTORS; v++)
            block->held[v] = NOTHING;
        for (int w = 0; w < schedule->n_consumers; w++)
            block->next_tile[w] = w;
    }
}

void walk_check_finished(const token_walk *walk)
{
    const cf_schedule *schedule = &walk->schedule;
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        int32_t n = WALK_POSITIONS * count_tiles(walk, b);
        for (int w = 0; w < schedule->n_consumers; w++)
            if (walk->blocks[b].next_tile[w] < n)
                fail_msg("deadlock: block %d, warp %d waits at tile %d of %d", b, w,
                         walk->blocks[b].next_tile[w], n);
    }
}

static shared_values make_values(int32_t n)
{
    return (shared_values){.values = calloc((size_t)n, sizeof(double)),
                           .epochs = calloc((size_t)n, sizeof(int)),
                           .n = n};
}

static void make_program(token_walk *walk)
{
    bool parallel = walk->neox->shape.parallel_residual;
    walk->program[walk->n_program++] = CF_VECTOR_NORM1;
    if (!parallel) {
        walk->program[walk->n_program++] = CF_VECTOR_ATTENTION;
        walk->program[walk->n_program++] = CF_VECTOR_NORM2;
    }
    for (int32_t k = 0; k < walk->schedule.n_chunks; k++)
        walk->program[walk->n_program++] = CF_VECTOR_FFN + k;
    if (parallel)
        walk->program[walk->n_program++] = CF_VECTOR_ATTENTION;
}

static void make_blocks(token_walk *walk)
{
    const cf_schedule *schedule = &walk->schedule;
    size_t n_rows = (size_t)(schedule->max_units * schedule->unit_rows);
    walk->blocks = calloc((size_t)schedule->n_blocks, sizeof *walk->blocks);
    for (int32_t b = 0; b < schedule->n_blocks; b++) {
        walk_block *block = &walk->blocks[b];
        block->memory = calloc((size_t)schedule->shared.ring / 2, sizeof(double));
        block->residual = calloc(n_rows, sizeof(double));
        block->partials = calloc(n_rows * (size_t)schedule->n_parts, sizeof(double));
        block->n_arrived = calloc((size_t)schedule->max_units, sizeof(int));
    }
}

void walk_create(token_walk *walk, const cf_neox *neox, const cf_gpu_limits *limits, uint64_t seed)
{
    const cf_shape *shape = &neox->shape;
    size_t n_cache = (size_t)(shape->n_layers * WALK_POSITIONS * shape->d_model);
    cf_error error;
    memset(walk, 0, sizeof *walk);
    walk->neox = neox;
    walk->random = seed;
    assert_ok(cf_schedule_create(shape, limits, &walk->schedule, &error), error);
    /* As larger models have it; each slot must belong to one producer. */
    if (seed % 2 == 0 && walk->schedule.n_slots % CF_SCHEDULE_MAX_PRODUCERS == 0)
        walk->schedule.n_producers = CF_SCHEDULE_MAX_PRODUCERS;
    walk->residual = make_values(shape->d_model);
    walk->qkv = make_values(3 * shape->d_model);
    walk->attention = make_values(shape->d_model);
    walk->ffn = make_values(shape->d_ffn);
    walk->logits = make_values(shape->n_vocab);
    walk->found = calloc((size_t)(WALK_POSITIONS * shape->n_vocab), sizeof(float));
    walk->embedding = calloc((size_t)shape->d_model, sizeof(double));
    walk->keys = calloc(n_cache, sizeof(double));
    walk->values = calloc(n_cache, sizeof(double));
    make_program(walk);
    make_blocks(walk);
}

void walk_free(token_walk *walk)
{
    shared_values *shared[] = {&walk->residual, &walk->qkv, &walk->attention, &walk->ffn,
                               &walk->logits};
    for (int i = 0; i < 5; i++)
        free(shared[i]->values), free(shared[i]->epochs);
    for (int32_t b = 0; b < walk->schedule.n_blocks; b++) {
        free(walk->blocks[b].memory), free(walk->blocks[b].residual);
        free(walk->blocks[b].partials), free(walk->blocks[b].n_arrived);
    }
    free(walk->blocks), free(walk->found), free(walk->embedding), free(walk->keys),
        free(walk->values);
    cf_schedule_free(&walk->schedule);
}
