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

static void embed(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    const cf_tensor *table = session->model->neox->embed;
    size_t d = (size_t)table->dims[1], row_bytes = d * cf_dtype_bytes(table->dtype);
    for (size_t t = worker.index; t < step->n; t += worker.count) {
        const char *row = (const char *)table->data + (size_t)step->ids[t] * row_bytes;
        session->kernels->widen[table->dtype](session->residual + t * d, row, d);
    }
}

/* cos and sin of position × frequency: the angle in float64, since positions have no limit. */
static void rotary_angles(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    size_t half = (size_t)session->model->neox->shape.d_rotary / 2;
    for (size_t t = worker.index; t < step->n; t += worker.count) {
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
    for (size_t t = worker.index; t < n; t += worker.count)
        if (t >= first)
            session->kernels->layer_norm(to + t * d, session->residual + t * d, weight, bias,
                                         shape->layer_norm_eps, d);
}

/* This worker's share of attention(…) of one layer: from the projected qkv to session->attended. */
static void attend(cf_backend_session *session, cf_worker worker, const cf_step *step, size_t layer)
{
    cf_cpu_attention(session, worker, layer, step->n, step->pos);
    cf_team_wait(&session->team, worker);
}

static void multiply(cf_backend_session *session, cf_worker worker, const cf_linear *linears,
                     size_t n_linears, size_t n)
{
    cf_cpu_linear(session, worker, linears, n_linears, n);
    cf_team_wait(&session->team, worker);
}

/* qkv = W input + b */
static cf_linear qkv_of(const cf_backend_session *session, size_t index, const float *input)
{
    const cf_neox_layer *tensors = &session->model->neox->layers[index];
    const cf_cpu_layer *layer = &session->model->layers[index];
    return (cf_linear){.output = session->qkv,
                       .n_terms = 1,
                       .terms = {{input, tensors->qkv_weight, layer->qkv_bias, false}}};
}

/* ffn = activation(W input + b) */
static cf_linear up_of(const cf_backend_session *session, size_t index, const float *input)
{
    const cf_neox_layer *tensors = &session->model->neox->layers[index];
    const cf_cpu_layer *layer = &session->model->layers[index];
    return (cf_linear){.output = session->ffn,
                       .n_terms = 1,
                       .terms = {{input, tensors->up_weight, layer->up_bias, false}},
                       .activated = true,
                       .output_inner = true};
}

/* W attended + b */
static cf_term dense_of(const cf_backend_session *session, size_t index)
{
    return (cf_term){session->attended, session->model->neox->layers[index].dense_weight,
                     session->model->layers[index].dense_bias, false};
}

/* W ffn + b */
static cf_term down_of(const cf_backend_session *session, size_t index)
{
    return (cf_term){session->ffn, session->model->neox->layers[index].down_weight,
                     session->model->layers[index].down_bias, true};
}

/* x + dense(attention(qkv(ln1 x))) + down(activation(up(ln2 x))): both branches read the same x. */
static void parallel_layer(cf_backend_session *session, cf_worker worker, const cf_step *step,
                           size_t index)
{
    const cf_cpu_layer *layer = &session->model->layers[index];
    norm(session, worker, session->normed, layer->ln1_weight, layer->ln1_bias, 0, step->n);
    norm(session, worker, session->normed2, layer->ln2_weight, layer->ln2_bias, 0, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear in[] = {qkv_of(session, index, session->normed),
                            up_of(session, index, session->normed2)};
    multiply(session, worker, in, 2, step->n);
    attend(session, worker, step, index);
    const cf_linear out = {.output = session->residual,
                           .n_terms = 2,
                           .terms = {dense_of(session, index), down_of(session, index)},
                           .add = true};
    multiply(session, worker, &out, 1, step->n);
}

/* x' = x + dense(attention(qkv(ln1 x))), then x' + down(activation(up(ln2 x'))). */
static void sequential_layer(cf_backend_session *session, cf_worker worker, const cf_step *step,
                             size_t index)
{
    const cf_cpu_layer *layer = &session->model->layers[index];
    norm(session, worker, session->normed, layer->ln1_weight, layer->ln1_bias, 0, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear qkv = qkv_of(session, index, session->normed);
    multiply(session, worker, &qkv, 1, step->n);
    attend(session, worker, step, index);
    cf_linear out = {.output = session->residual,
                     .n_terms = 1,
                     .terms = {dense_of(session, index)},
                     .add = true};
    multiply(session, worker, &out, 1, step->n);

    norm(session, worker, session->normed, layer->ln2_weight, layer->ln2_bias, 0, step->n);
    cf_team_wait(&session->team, worker);
    const cf_linear up = up_of(session, index, session->normed);
    multiply(session, worker, &up, 1, step->n);
    out.terms[0] = down_of(session, index);
    multiply(session, worker, &out, 1, step->n);
}

/* The caller's rows of hidden state `index`. */
static void keep_hidden(cf_backend_session *session, cf_worker worker, const cf_step *step,
                        size_t index, const float *from)
{
    if (step->hidden == NULL)
        return;
    size_t d = (size_t)session->model->neox->shape.d_model;
    float *to = step->hidden + (index * step->hidden_rows + step->hidden_row) * d;
    for (size_t t = worker.index; t < step->n; t += worker.count)
        memcpy(to + t * d, from + t * d, d * sizeof *from);
}

static void logits(cf_backend_session *session, cf_worker worker, const cf_step *step)
{
    if (step->logits == NULL || step->n_logits == 0)
        return;
    size_t d = (size_t)session->model->neox->shape.d_model;
    const float *last = session->normed + (step->n - step->n_logits) * d;
    const cf_linear head = {.output = step->logits,
                            .n_terms = 1,
                            .terms = {{last, session->model->neox->head, NULL, false}}};
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
