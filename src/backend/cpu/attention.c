/* Rotary embedding, the KV cache, and attention: softmax(q·K / √d_head) V, head by head. */
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

void cf_cpu_attention(cf_backend_session *session, cf_worker worker, size_t layer, size_t n,
                      size_t pos)
{
    float *scores = session->scores + worker.index * session->score_stride;
    size_t n_heads = (size_t)session->model->neox->shape.n_heads;
    for (size_t index = worker.index; index < n_heads; index += worker.count) {
        head_view head = head_of(session, layer, index);
        write_cache(session, &head, n, pos);
        for (size_t t = 0; t < n; t++)
            attend(session, &head, t, pos + t + 1, scores);
    }
}
