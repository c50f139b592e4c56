/*
 * The forward pass of a chunk, a function a line of its equations. With the parallel residual the
 * MLP runs in a stream of its own beside attention: short chunks are bound by latency and memory,
 * and the one fills the other's gaps.
 */
#include "backend/cuda/host/cuda.h"

#include "backend/cuda/kernel/prompt.h"
#include "base/status.h"

#include <string.h>

/* Up to here, latency is the longer part: dense does not wait for down to add to the residual. */
#define SHORT_ROWS 256

/* A step on its way. */
typedef struct passage {
    cf_backend_session *session;
    const cf_backend_model *model;
    cf_prompt *prompt;
    const cf_step *step;
    cudaStream_t stream; /* the session's */
    size_t n_rows;       /* tokens that are computed: those of the step, and some for nobody */
    size_t d_model;
    bool is_apart; /* dense writes to prompt->mixed, which the next LayerNorm adds */
} passage;

static cf_status send(const passage *run, cf_error *error)
{
    cf_prompt *prompt = run->prompt;
    size_t n_bytes = sizeof(cf_token) * run->step->n;
    *prompt->request[1] =
        (cf_prompt_span){.n = (int32_t)run->step->n, .pos = (int32_t)run->step->pos};
    memcpy(prompt->request[1] + 1, run->step->ids, n_bytes);
    CF_CUDA_TRY(cudaMemcpyAsync(prompt->request[0], prompt->request[1],
                                sizeof(cf_prompt_span) + n_bytes, cudaMemcpyHostToDevice,
                                run->stream),
                "tokens", error);
    return CF_STATUS_OK;
}

static cf_status embed(const passage *run, cf_error *error)
{
    cf_prompt_embed embedding = {.ids = (const cf_token *)(run->prompt->request[0] + 1),
                                 .embed = run->model->token.embed,
                                 .residual = run->prompt->residual,
                                 .n = (int32_t)run->n_rows,
                                 .d_model = run->model->neox->shape.d_model};
    CF_CUDA_TRY(cf_prompt_gather(&embedding, run->model->weights, run->stream), "embedding", error);
    return CF_STATUS_OK;
}

/* One of a layer's two LayerNorms, into its own place. */
static cf_prompt_norm_output norm_of(const passage *run, int32_t layer, int which)
{
    const cf_token_layer *weights = &run->model->token.layers[layer];
    return (cf_prompt_norm_output){.weights = which == 0 ? weights->norm1 : weights->norm2,
                                   .biases = run->model->prompt_layers[layer].shifts[which],
                                   .to = run->prompt->normed[which]};
}

/* A norm without its outputs, after what is still to be added: what dense found, if that is not yet
 * in the residual, and the biases of what is. */
static cf_prompt_norm norm_after(const passage *run, const float *added, const float *biases)
{
    return (cf_prompt_norm){.residual = run->prompt->residual,
                            .added = added,
                            .biases = biases,
                            .n = (int32_t)run->n_rows,
                            .d_model = run->model->neox->shape.d_model,
                            .eps = run->model->neox->shape.layer_norm_eps};
}

/* The norm that a layer begins with, or with `layer` n_layers the final one, without its outputs.
 */
static cf_prompt_norm norm_before(const passage *run, int32_t layer)
{
    if (layer == 0)
        return norm_after(run, NULL, NULL);
    return norm_after(run, run->is_apart ? run->prompt->mixed : NULL,
                      run->model->prompt_layers[layer - 1].biases[CF_MATRIX_DOWN]);
}

static cf_status normalise(const passage *run, const cf_prompt_norm *norm, cf_error *error)
{
    CF_CUDA_TRY(cf_prompt_normalise(norm, run->model->weights, run->stream), "LayerNorm", error);
    return CF_STATUS_OK;
}

/* A matrix of a layer; where the output is the residual, it is added to that. */
static cf_status multiply(const passage *run, int32_t layer, cf_matrix matrix, const void *input,
                          void *output, cudaStream_t stream, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    cf_product product = {.weights = run->model->token.layers[layer].matrices[matrix],
                          .input = input,
                          .output = output,
                          .n = (int32_t)run->n_rows,
                          .n_out = matrix == CF_MATRIX_QKV  ? 3 * shape->d_model
                                   : matrix == CF_MATRIX_UP ? shape->d_ffn
                                                            : shape->d_model,
                          .n_in = matrix == CF_MATRIX_DOWN ? shape->d_ffn : shape->d_model,
                          .wide = matrix == CF_MATRIX_DENSE || matrix == CF_MATRIX_DOWN,
                          .accumulate = output == run->prompt->residual};
    return cf_product_launch(&run->prompt->plans, &product,
                             run->prompt->workspaces[stream == run->stream ? 0 : 1], stream, error);
}

static cudaError_t attend(const cf_prompt_attention *attention, int32_t d_head,
                          const cf_gpu_limits *limits, cudaStream_t stream)
{
    switch (d_head) {
    case 32:
        return cf_prompt_attend_32(attention, limits, stream);
    case 64:
        return cf_prompt_attend_64(attention, limits, stream);
    case 80:
        return cf_prompt_attend_80(attention, limits, stream);
    case 96:
        return cf_prompt_attend_96(attention, limits, stream);
    case 128:
        return cf_prompt_attend_128(attention, limits, stream);
    default: /* the schedule refuses all others */
        return cf_prompt_attend_256(attention, limits, stream);
    }
}

/* attention(qkv(normed[0])) in normed[0]'s place, which q takes meanwhile */
static cf_status mix(const passage *run, int32_t layer, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    const cf_token_session *cache = &run->session->args.session;
    cf_prompt *prompt = run->prompt;
    size_t place = (size_t)layer * (size_t)cache->n_context * run->d_model;
    cf_prompt_split split = {.qkv = prompt->qkv,
                             .biases = run->model->prompt_layers[layer].biases[CF_MATRIX_QKV],
                             .rotation = cache->rotation,
                             .queries = prompt->normed[0],
                             .keys = cache->keys + place,
                             .values = cache->values + place,
                             .span = prompt->request[0],
                             .n_rows = (int32_t)run->n_rows,
                             .n_heads = shape->n_heads,
                             .d_head = shape->d_head,
                             .d_rotary = shape->d_rotary,
                             .n_context = cache->n_context};
    cf_prompt_attention attention = {.mixed = prompt->normed[0],
                                     .keys = split.keys,
                                     .values = split.values,
                                     .span = prompt->request[0],
                                     .n_rows = (int32_t)run->n_rows,
                                     .n_heads = shape->n_heads,
                                     .n_context = cache->n_context,
                                     .weights = run->model->weights};
    CF_TRY(multiply(run, layer, CF_MATRIX_QKV, prompt->normed[0], prompt->qkv, run->stream, error));
    CF_CUDA_TRY(cf_prompt_append(&split, run->model->weights, run->stream), "q, k and v", error);
    CF_CUDA_TRY(attend(&attention, shape->d_head, &run->model->device.limits, run->stream),
                "attention", error);
    return CF_STATUS_OK;
}

/* residual += down(activation(up(normed[1]))) */
static cf_status feed_forward(const passage *run, int32_t layer, cudaStream_t stream,
                              cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    cf_prompt *prompt = run->prompt;
    cf_prompt_activation activation = {.ffn = prompt->ffn,
                                       .biases =
                                           run->model->prompt_layers[layer].biases[CF_MATRIX_UP],
                                       .n = (int32_t)run->n_rows,
                                       .d_ffn = shape->d_ffn,
                                       .activation = shape->activation};
    CF_TRY(multiply(run, layer, CF_MATRIX_UP, prompt->normed[1], prompt->ffn, stream, error));
    CF_CUDA_TRY(cf_prompt_activate(&activation, run->model->weights, stream), "activation", error);
    return multiply(run, layer, CF_MATRIX_DOWN, prompt->ffn, prompt->residual, stream, error);
}

/* The caller's rows of hidden state `index`. */
static cf_status keep_hidden(const passage *run, int32_t index, const float *from, cf_error *error)
{
    const cf_step *step = run->step;
    if (step->hidden == NULL)
        return CF_STATUS_OK;
    size_t row = (size_t)index * step->hidden_rows + step->hidden_row;
    CF_CUDA_TRY(cudaMemcpyAsync(step->hidden + row * run->d_model, from,
                                sizeof(float) * step->n * run->d_model, cudaMemcpyDeviceToHost,
                                run->stream),
                "hidden states", error);
    return CF_STATUS_OK;
}

/* x + dense(attention(qkv(ln1 x))) + down(activation(up(ln2 x))) */
static cf_status parallel_layer(const passage *run, int32_t layer, cf_error *error)
{
    cf_prompt *prompt = run->prompt;
    cf_prompt_norm norm = norm_before(run, layer);
    norm.outputs[0] = norm_of(run, layer, 0);
    norm.outputs[1] = norm_of(run, layer, 1);
    CF_TRY(normalise(run, &norm, error));
    CF_TRY(keep_hidden(run, layer, prompt->residual, error));
    CF_CUDA_TRY(cudaEventRecord(prompt->fork, run->stream), "the MLP's stream", error);
    CF_CUDA_TRY(cudaStreamWaitEvent(prompt->side, prompt->fork, 0), "the MLP's stream", error);
    CF_TRY(feed_forward(run, layer, prompt->side, error));
    CF_CUDA_TRY(cudaEventRecord(prompt->join, prompt->side), "the MLP's stream", error);
    CF_TRY(mix(run, layer, error));
    if (run->is_apart)
        CF_TRY(multiply(run, layer, CF_MATRIX_DENSE, prompt->normed[0], prompt->mixed, run->stream,
                        error));
    CF_CUDA_TRY(cudaStreamWaitEvent(run->stream, prompt->join, 0), "the MLP's stream", error);
    if (!run->is_apart)
        CF_TRY(multiply(run, layer, CF_MATRIX_DENSE, prompt->normed[0], prompt->residual,
                        run->stream, error));
    return CF_STATUS_OK;
}

/* x' = x + dense(attention(qkv(ln1 x))), then x' + down(activation(up(ln2 x'))) */
static cf_status sequential_layer(const passage *run, int32_t layer, cf_error *error)
{
    cf_prompt *prompt = run->prompt;
    cf_prompt_norm first = norm_before(run, layer);
    cf_prompt_norm second =
        norm_after(run, NULL, run->model->prompt_layers[layer].biases[CF_MATRIX_DENSE]);
    first.outputs[0] = norm_of(run, layer, 0);
    second.outputs[0] = norm_of(run, layer, 1);
    CF_TRY(normalise(run, &first, error));
    CF_TRY(keep_hidden(run, layer, prompt->residual, error));
    CF_TRY(mix(run, layer, error));
    CF_TRY(multiply(run, layer, CF_MATRIX_DENSE, prompt->normed[0], prompt->residual, run->stream,
                    error));
    CF_TRY(normalise(run, &second, error));
    return feed_forward(run, layer, run->stream, error);
}

/* The final LayerNorm: of all rows where hidden states are asked for, of the last for the logits.
 */
static cf_status normalise_last(const passage *run, size_t n_logits, cf_error *error)
{
    int32_t n_layers = run->model->neox->shape.n_layers;
    size_t first = (run->step->n - n_logits) * run->d_model;
    cf_prompt_norm norm = norm_before(run, n_layers);
    norm.outputs[0].weights = run->model->token.final_norm;
    norm.outputs[0].biases = run->model->token.final_shift;
    if (run->step->hidden != NULL) {
        norm.hidden = run->prompt->mixed; /* each element is read before it is written */
        CF_TRY(normalise(run, &norm, error));
        CF_TRY(keep_hidden(run, n_layers, norm.hidden, error));
        norm.hidden = NULL;
        norm.added = norm.biases = NULL; /* it is in the residual now */
    }
    if (n_logits == 0)
        return CF_STATUS_OK;
    norm.residual += first;
    norm.added = norm.added != NULL ? norm.added + first : NULL;
    norm.outputs[0].to = run->prompt->normed[0];
    norm.n = (int32_t)n_logits;
    return normalise(run, &norm, error);
}

/* Computes `n` rows of logits from row `first` on, and sends them to their staging place. */
static cf_status send_logits(const passage *run, size_t first, size_t n, int slot, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    cf_prompt *prompt = run->prompt;
    cf_product product = {.weights = run->model->token.head,
                          .input = (const char *)prompt->normed[0] + 2 * first * run->d_model,
                          .output = prompt->logits[slot],
                          .n = (int32_t)cf_prompt_rows(n),
                          .n_out = shape->n_vocab,
                          .n_in = shape->d_model,
                          .wide = true};
    CF_TRY(cf_product_launch(&prompt->plans, &product, prompt->workspaces[0], run->stream, error));
    CF_CUDA_TRY(cudaEventRecord(prompt->fork, run->stream), "logits", error);
    CF_CUDA_TRY(cudaStreamWaitEvent(prompt->side, prompt->fork, 0), "logits", error);
    CF_CUDA_TRY(cudaMemcpyAsync(prompt->staging[slot], prompt->logits[slot],
                                sizeof(float) * n * (size_t)shape->n_vocab, cudaMemcpyDeviceToHost,
                                prompt->side),
                "logits", error);
    CF_CUDA_TRY(cudaEventRecord(prompt->copied[slot], prompt->side), "logits", error);
    return CF_STATUS_OK;
}

static cf_status receive_logits(const passage *run, size_t first, size_t n, int slot,
                                cf_error *error)
{
    size_t n_vocab = (size_t)run->model->neox->shape.n_vocab;
    CF_CUDA_TRY(cudaEventSynchronize(run->prompt->copied[slot]), "a prompt", error);
    memcpy(run->step->logits + first * n_vocab, run->prompt->staging[slot],
           sizeof(float) * n * n_vocab);
    return CF_STATUS_OK;
}

/* While some logits are on their way and are copied, the next are computed in the other place. */
static cf_status fetch_logits(const passage *run, size_t n_logits, cf_error *error)
{
    size_t n_before = 0;
    int slot = 0;
    for (size_t first = 0; first < n_logits; slot = 1 - slot) {
        size_t left = n_logits - first;
        size_t n = left < CF_PROMPT_LOGITS_ROWS ? left : CF_PROMPT_LOGITS_ROWS;
        CF_TRY(send_logits(run, first, n, slot, error));
        if (first > 0)
            CF_TRY(receive_logits(run, first - n_before, n_before, 1 - slot, error));
        n_before = n;
        first += n;
    }
    return n_logits > 0 ? receive_logits(run, n_logits - n_before, n_before, 1 - slot, error)
                        : CF_STATUS_OK;
}

/* All that depends on the number of rows only, and may be recorded. */
static cf_status launch_layers(const void *user, cf_error *error)
{
    const passage *run = user;
    const cf_shape *shape = &run->model->neox->shape;
    CF_TRY(embed(run, error));
    for (int32_t layer = 0; layer < shape->n_layers; layer++)
        CF_TRY(shape->parallel_residual ? parallel_layer(run, layer, error)
                                        : sequential_layer(run, layer, error));
    return CF_STATUS_OK;
}

cf_status cf_prompt_step(cf_backend_session *session, const cf_step *step, cf_error *error)
{
    const cf_shape *shape = &session->model->neox->shape;
    size_t n_logits = step->logits == NULL ? 0 : step->n_logits;
    passage run = {.session = session,
                   .model = session->model,
                   .prompt = session->prompt,
                   .step = step,
                   .stream = session->stream,
                   .n_rows = cf_prompt_rows(step->n),
                   .d_model = (size_t)shape->d_model};
    run.is_apart = shape->parallel_residual && run.n_rows <= SHORT_ROWS;
    CF_TRY(send(&run, error));
    if (step->hidden == NULL)
        CF_TRY(cf_prompt_replay(run.prompt, run.n_rows, launch_layers, &run, run.stream, error));
    else
        CF_TRY(launch_layers(&run, error));
    CF_TRY(normalise_last(&run, n_logits, error));
    CF_TRY(fetch_logits(&run, n_logits, error));
    CF_CUDA_TRY(cudaStreamSynchronize(session->stream), "a prompt", error);
    return CF_STATUS_OK;
}
