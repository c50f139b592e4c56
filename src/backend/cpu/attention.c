/* Rotary embedding, the KV cache, and attention: softmax(q·K / √d_head) V, head by head. */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* One head of one layer: its part of qkv and its rows of the KV cache. */
typedef struct head_view {
    float *qkv;          /* token t's q, k and v begin at t × qkv_stride */
    float *output;       /* token t's output begins at t × d_model */
    char *keys, *values; /* [n_context][d_head] */
    size_t d, d_model, row_bytes;
    cf_dtype kv_dtype;
} head_view;

static head_view head_of(cf_backend_session *session, size_t layer, size_t index)
{
    const cf_shape *shape = &session->model->neox->shape;
    size_t d = (size_t)shape->d_head, n_heads = (size_t)shape->n_heads;
    size_t row_bytes = d * cf_dtype_bytes(session->options.kv_dtype);
    size_t offset = (layer * n_heads + index) * session->options.n_context * row_bytes;
    return (head_view){
        .qkv = session->qkv + index * 3 * d,
        .output = session->attended + index * d,
        .keys = (char *)session->keys + offset,
        .values = (char *)session->values + offset,
        .d = d,
        .d_model = (size_t)shape->d_model,
        .row_bytes = row_bytes,
        .kv_dtype = session->options.kv_dtype,
    };
}

/* Turns each pair (i, i + half) by its angle (Su et al., arXiv 2104.09864, in NeoX's pairing). */
static void rotate(float *x, const float *cosines, const float *sines, size_t half)
{
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosines[i] - b * sines[i];
        x[i + half] = b * cosines[i] + a * sines[i];
    }
}

/* Rotates queries and keys, scales the queries by 1 / √d_head, stores keys and values. */
static void write_cache(const cf_backend_session *session, const head_view *head, size_t n,
                        size_t pos)
{
    size_t half = (size_t)session->model->neox->shape.d_rotary / 2;
    float scale = 1 / sqrtf((float)head->d);
    for (size_t t = 0; t < n; t++) {
        float *q = head->qkv + t * 3 * head->d_model, *k = q + head->d, *v = k + head->d;
        const float *cosines = session->cos_sin + t * 2 * half, *sines = cosines + half;
        for (size_t i = 0; i < head->d; i++)
            q[i] *= scale;
        rotate(q, cosines, sines, half);
        rotate(k, cosines, sines, half);
        size_t offset = (pos + t) * head->row_bytes;
        session->kernels->narrow[head->kv_dtype](head->keys + offset, k, head->d);
        session->kernels->narrow[head->kv_dtype](head->values + offset, v, head->d);
    }
}

/* One token's attention to the n_keys positions up to its own. */
static void attend(const cf_backend_session *session, const head_view *head, size_t t,
                   size_t n_keys, float *scores)
{
    const cf_kernels *kernels = session->kernels;
    float *output = head->output + t * head->d_model;
    memset(scores, 0, n_keys * sizeof *scores);
    kernels->rows[head->kv_dtype](scores, n_keys, head->keys, n_keys, head->d,
                                  head->qkv + t * 3 * head->d_model, head->d, 1);
    float sum = kernels->exp_sum(scores, kernels->largest(scores, n_keys), n_keys);
    memset(output, 0, head->d * sizeof *output);
    kernels->mix[head->kv_dtype](output, scores, head->values, n_keys, head->d);
    for (size_t k = 0; k < head->d; k++)
        output[k] /= sum;
}

static void attend_few(cf_backend_session *session, cf_worker worker, size_t layer, size_t n,
                       size_t pos)
{
    float *scores = session->scores + worker.index * session->score_stride;
    size_t n_heads = (size_t)session->model->neox->shape.n_heads;
    cf_team_share(&session->team, worker, n_heads);
    for (size_t index; (index = cf_team_take(&session->team, worker)) < n_heads;) {
        head_view head = head_of(session, layer, index);
        write_cache(session, &head, n, pos);
        for (size_t t = 0; t < n; t++)
            attend(session, &head, t, pos + t + 1, scores);
    }
}

/* Queries and keys of a block: its scores and its keys and values as float32 stay in the cache. */
#define BLOCK_QUERIES ((size_t)64)
#define BLOCK_KEYS ((size_t)128)

size_t cf_cpu_block_floats(const cf_shape *shape)
{
    return BLOCK_QUERIES * (BLOCK_KEYS + 2 + (size_t)shape->d_head) +
           2 * BLOCK_KEYS * (size_t)shape->d_head;
}

/* Queries first … first + count - 1 of a head, with what they have gathered so far. */
typedef struct query_block {
    size_t first, count;
    float *scores;        /* [BLOCK_QUERIES][BLOCK_KEYS] */
    float *largest;       /* [BLOCK_QUERIES]: of the scores seen */
    float *sums;          /* [BLOCK_QUERIES]: of e^(score - largest) */
    float *output;        /* [BLOCK_QUERIES][d]: values weighted by the same */
    float *keys, *values; /* [BLOCK_KEYS][d] */
} query_block;

static query_block block_of(const cf_backend_session *session, cf_worker worker,
                            const head_view *head, size_t first, size_t n)
{
    float *space =
        session->blocks + worker.index * cf_cpu_block_floats(&session->model->neox->shape);
    query_block block = {.first = first,
                         .count = n - first < BLOCK_QUERIES ? n - first : BLOCK_QUERIES};
    block.scores = space;
    block.largest = block.scores + BLOCK_QUERIES * BLOCK_KEYS;
    block.sums = block.largest + BLOCK_QUERIES;
    block.output = block.sums + BLOCK_QUERIES;
    block.keys = block.output + BLOCK_QUERIES * head->d;
    block.values = block.keys + BLOCK_KEYS * head->d;
    return block;
}

/* Scores → weights relative to the largest score so far; what was gathered before is scaled to it.
 */
static void reweigh(const cf_kernels *kernels, query_block *block, size_t i, size_t n_keys,
                    size_t width, size_t d)
{
    float *scores = block->scores + i * BLOCK_KEYS, *output = block->output + i * d;
    if (n_keys > 0) {
        float before = block->largest[i], now = kernels->largest(scores, n_keys);
        now = now > before ? now : before;
        float scale = expf(before - now);
        block->largest[i] = now;
        block->sums[i] = block->sums[i] * scale + kernels->exp_sum(scores, now, n_keys);
        for (size_t k = 0; k < d; k++)
            output[k] *= scale;
    }
    memset(scores + n_keys, 0, (width - n_keys) * sizeof *scores);
}

/* Takes `width` keys from position `from` on into account: those up to each query's own. */
static bool gather(cf_backend_session *session, const head_view *head, query_block *block,
                   size_t from, size_t width, size_t pos)
{
    const cf_kernels *kernels = session->kernels;
    size_t d = head->d, offset = from * head->row_bytes, stride = 3 * head->d_model;
    kernels->widen[head->kv_dtype](block->keys, head->keys + offset, width * d);
    kernels->widen[head->kv_dtype](block->values, head->values + offset, width * d);
    if (!cf_blas_multiply(block->count, width, d,
                          (cf_matrix){head->qkv + block->first * stride, stride},
                          (cf_matrix){block->keys, d}, true, false, block->scores, BLOCK_KEYS))
        return false;
    for (size_t i = 0; i < block->count; i++) {
        size_t seen = pos + block->first + i + 1;
        size_t n_keys = seen <= from ? 0 : seen - from;
        reweigh(kernels, block, i, n_keys < width ? n_keys : width, width, d);
    }
    return cf_blas_multiply(block->count, d, width, (cf_matrix){block->scores, BLOCK_KEYS},
                            (cf_matrix){block->values, d}, false, true, block->output, d);
}

/*
 * A block of queries against all keys up to them, a block of keys at a time, with a running maximum
 * and sum (Milakov and Gimelshein, arXiv 1805.02867).
 */
static bool attend_block(cf_backend_session *session, cf_worker worker, const head_view *head,
                         size_t first, size_t n, size_t pos)
{
    query_block block = block_of(session, worker, head, first, n);
    size_t n_keys = pos + first + block.count, d = head->d;
    memset(block.output, 0, block.count * d * sizeof(float));
    for (size_t i = 0; i < block.count; i++) {
        block.largest[i] = -INFINITY;
        block.sums[i] = 0;
    }
    for (size_t from = 0; from < n_keys; from += BLOCK_KEYS)
        if (!gather(session, head, &block, from,
                    n_keys - from < BLOCK_KEYS ? n_keys - from : BLOCK_KEYS, pos))
            return false;
    for (size_t i = 0; i < block.count; i++)
        for (size_t k = 0; k < d; k++)
            head->output[(first + i) * head->d_model + k] = block.output[i * d + k] / block.sums[i];
    return true;
}

static void attend_many(cf_backend_session *session, cf_worker worker, size_t layer, size_t n,
                        size_t pos)
{
    size_t n_heads = (size_t)session->model->neox->shape.n_heads;
    size_t n_blocks = (n + BLOCK_QUERIES - 1) / BLOCK_QUERIES;
    for (size_t index = worker.index; index < n_heads; index += worker.count) {
        head_view head = head_of(session, layer, index);
        write_cache(session, &head, n, pos);
    }
    cf_team_deal(&session->team, worker); /* publishes the cache's new rows to all blocks */
    for (size_t item; (item = cf_team_claim(&session->team)) < n_heads * n_blocks;) {
        head_view head = head_of(session, layer, item % n_heads);
        /* The last blocks have the most keys: first. */
        size_t first = (n_blocks - 1 - item / n_heads) * BLOCK_QUERIES;
        if (!attend_block(session, worker, &head, first, n, pos))
            atomic_store_explicit(&session->failed, true, memory_order_relaxed);
    }
}

void cf_cpu_attention(cf_backend_session *session, cf_worker worker, size_t layer, size_t n,
                      size_t pos)
{
    if (n < CF_CPU_MANY_TOKENS)
        attend_few(session, worker, layer, n, pos);
    else
        attend_many(session, worker, layer, n, pos);
}
