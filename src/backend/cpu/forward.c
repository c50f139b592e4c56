/*
 * The forward pass of GPT-NeoX (Black et al., arXiv 2204.06745, section 2), one function a line of
 * its equations. All workers run it together; a barrier stands wherever one worker reads what
 * another wrote.
 */
#include "backend/cpu/cpu.h"

#include "base/status.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* This worker's tokens of n. */
#define FOR_TOKENS(t, worker, n) for (size_t t = (worker).index; t < (n); t += (worker).count)

static void embed(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    const cf_tensor *table = session->model->neox->embed;
    size_t d = (size_t)table->dims[1], row_bytes = d * cf_dtype_bytes(table->dtype);
    FOR_TOKENS(t, worker, step->n)
    {
        const char *row = (const char *)table->data + (size_t)step->ids[t] * row_bytes;
        session->kernels->widen[table->dtype](session->residual + t * d, row, d);
    }
}

/* cos and sin of position × frequency: the angle in float64, since positions have no limit. */
static void rotary_angles(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    size_t half = (size_t)session->model->neox->shape.d_rotary / 2;
    FOR_TOKENS(t, worker, step->n)
    {
        float *cosines = session->cos_sin + t * 2 * half, *sines = cosines + half;
        for (size_t i = 0; i < half; i++) {
            double angle = (double)(step->pos + t) * session->model->inverse_frequencies[i];
            cosines[i] = (float)cos(angle);
            sines[i] = (float)sin(angle);
        }
    }
}

/* to = LayerNorm(residual) for tokens first … n - 1. */
static void norm(cf_backend_session *session, cf_worker worker, float *to, const float *weight,
                 const float *bias, size_t first, size_t n)
{
    const cf_shape *shape = &session->model->neox->shape;
    size_t d = (size_t)shape->d_model;
    FOR_TOKENS(t, worker, n)
    if (t >= first)
        session->kernels->layer_norm(to + t * d, session->residual + t * d, weight, bias,
                                     shape->layer_norm_eps, d);
}

/* x + dense(attention(ln1 x)) + down(act(up(ln2 x))): both branches read the same x. */
static void parallel_layer(cf_backend_session *session, cf_worker worker, const cf_step *step,
                           size_t index)
{
    const cf_neox_layer *tensors = &session->model->neox->layers[index];
    const cf_cpu_layer *layer = &session->model->layers[index];
    norm(session, worker, session->normed, layer->ln1_weight, layer->ln1_bias, 0, step->n);
    norm(session, worker, session->normed2, layer->ln2_weight, layer->ln2_bias, 0, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear in[] = {
        {session->qkv, 1, {{session->normed, tensors->qkv_weight, layer->qkv_bias}}, false, false},
        {session->ffn, 1, {{session->normed2, tensors->up_weight, layer->up_bias}}, false, true},
    };
    cf_cpu_linear(session, worker, in, 2, step->n);
    cf_team_wait(&session->team, worker);
    cf_cpu_attention(session, worker, index, step->n, step->pos);
    cf_team_wait(&session->team, worker);
    const cf_linear out = {
        .output = session->residual,
        .n_terms = 2,
        .terms = {{session->attended, tensors->dense_weight, layer->dense_bias},
                  {session->ffn, tensors->down_weight, layer->down_bias}},
        .add = true,
    };
    cf_cpu_linear(session, worker, &out, 1, step->n);
    cf_team_wait(&session->team, worker);
}

/* x' = x + dense(attention(ln1 x)), then x' + down(act(up(ln2 x'))). */
static void sequential_layer(cf_backend_session *session, cf_worker worker, const cf_step *step,
                             size_t index)
{
    const cf_neox_layer *tensors = &session->model->neox->layers[index];
    const cf_cpu_layer *layer = &session->model->layers[index];
    norm(session, worker, session->normed, layer->ln1_weight, layer->ln1_bias, 0, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear qkv = {
        session->qkv, 1, {{session->normed, tensors->qkv_weight, layer->qkv_bias}}, false, false};
    cf_cpu_linear(session, worker, &qkv, 1, step->n);
    cf_team_wait(&session->team, worker);
    cf_cpu_attention(session, worker, index, step->n, step->pos);
    cf_team_wait(&session->team, worker);
    const cf_linear dense = {session->residual,
                             1,
                             {{session->attended, tensors->dense_weight, layer->dense_bias}},
                             true,
                             false};
    cf_cpu_linear(session, worker, &dense, 1, step->n);
    cf_team_wait(&session->team, worker);
    norm(session, worker, session->normed, layer->ln2_weight, layer->ln2_bias, 0, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear up = {
        session->ffn, 1, {{session->normed, tensors->up_weight, layer->up_bias}}, false, true};
    cf_cpu_linear(session, worker, &up, 1, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear down = {session->residual,
                            1,
                            {{session->ffn, tensors->down_weight, layer->down_bias}},
                            true,
                            false};
    cf_cpu_linear(session, worker, &down, 1, step->n);
    cf_team_wait(&session->team, worker);
}

/* The caller's rows of hidden state `index`. */
static void keep_hidden(cf_backend_session *session, cf_worker worker, const cf_step *step,
                        size_t index, const float *from)
{
    if (step->hidden == NULL)
        return;
    size_t d = (size_t)session->model->neox->shape.d_model;
    float *to = step->hidden + (index * step->hidden_rows + step->hidden_row) * d;
    FOR_TOKENS(t, worker, step->n)
    memcpy(to + t * d, from + t * d, d * sizeof *from);
}

static void logits(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    if (step->logits == NULL || step->n_logits == 0)
        return;
    size_t d = (size_t)session->model->neox->shape.d_model;
    const float *last = session->normed + (step->n - step->n_logits) * d;
    const cf_linear head = {
        step->logits, 1, {{last, session->model->neox->head, NULL}}, false, false};
    cf_cpu_linear(session, worker, &head, 1, step->n_logits);
}

static void forward(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    const cf_backend_model *model = session->model;
    const cf_shape *shape = &model->neox->shape;
    embed(session, worker, step);
    rotary_angles(session, worker, step);
    for (size_t layer = 0; layer < (size_t)shape->n_layers; layer++) {
        keep_hidden(session, worker, step, layer, session->residual);
        if (shape->parallel_residual)
            parallel_layer(session, worker, step, layer);
        else
            sequential_layer(session, worker, step, layer);
    }
    size_t first = step->hidden != NULL ? 0 : step->n - step->n_logits;
    norm(session, worker, session->normed, model->final_ln_weight, model->final_ln_bias, first,
         step->n);
    keep_hidden(session, worker, step, (size_t)shape->n_layers, session->normed);
    cf_team_wait(&session->team, worker);
    logits(session, worker, step);
}

cf_status cf_cpu_step(cf_backend_session *session, const cf_step *step, cf_error *error)
{
    session->failed = false;
#pragma omp parallel num_threads(session->options.n_threads)
    {
        cf_worker worker = {(size_t)omp_get_thread_num(), (size_t)omp_get_num_threads()};
        /* A team of one is no parallel region to the BLAS, which would start threads of its own. */
        omp_set_num_threads(1);
        forward(session, worker, step);
    }
    if (session->failed)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "matrix products of %zu tokens", step->n);
    return CF_STATUS_OK;
}
