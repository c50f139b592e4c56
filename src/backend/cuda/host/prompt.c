/*
 * The forward pass of a chunk, a function a line of its equations. With the parallel residual the
 * MLP runs in a stream of its own beside attention: short chunks are bound by latency and memory,
 * and the one fills the other's gaps.
 */
#include "backend/cuda/host/cuda.h"

#include "backend/cuda/kernel/prompt.h"
#include "base/status.h"

#include <string.h>

/* Up to here, latency is the longer part: dense does not wait for down to add to the residual, and
 * rows that nobody asks for cost next to nothing. */
#define SHORT_ROWS 256

/* Rows of a chunk: tokens of the step, and some more for nobody. */
typedef struct rows {
    size_t first, n;
    const cf_prompt_span *span; /* the tokens, on the device */
} rows;

/* A step on its way. */
typedef struct passage {
    cf_backend_session *session;
    const cf_backend_model *model;
    cf_prompt *prompt;
    const cf_step *step;
    cudaStream_t stream; /* the session's */
    rows all;
    rows wanted; /* of the last layer's output, with those before it that make them a round number;
                    of the others, that layer makes only keys and values */
    size_t d_model;
    bool is_apart; /* dense writes to prompt->mixed, which the next LayerNorm adds */
} passage;

static bool is_trimmed(const passage *run)
{
    return run->wanted.n < run->all.n;
}

static cf_prompt_span span_from(const passage *run, size_t first)
{
    const cf_step *step = run->step;
    return (cf_prompt_span){.n = (int32_t)(step->n - first), .pos = (int32_t)(step->pos + first)};
}

static cf_status send(const passage *run, cf_error *error)
{
    cf_prompt_request *const *request = run->prompt->request;
    size_t n_bytes = sizeof(cf_token) * run->step->n;
    request[1]->all = span_from(run, 0);
    request[1]->wanted = span_from(run, run->wanted.first);
    memcpy(request[1]->ids, run->step->ids, n_bytes);
    CF_CUDA_TRY(cudaMemcpyAsync(request[0], request[1], sizeof(cf_prompt_request) + n_bytes,
                                cudaMemcpyHostToDevice, run->stream),
                "tokens", error);
    return CF_STATUS_OK;
}

static cf_status embed(const passage *run, cf_error *error)
{
    cf_prompt_embed embedding = {.ids = run->prompt->request[0]->ids,
                                 .embed = run->model->token.embed,
                                 .residual = run->prompt->residual,
                                 .n = (int32_t)run->all.n,
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

static float *residual_of(const passage *run, const rows *of)
{
    return run->prompt->residual + of->first * run->d_model;
}

static void *normed_of(const passage *run, int which, const rows *of)
{
    return (char *)run->prompt->normed[which] + 2 * of->first * run->d_model;
}

/* A norm without its outputs, after what is still to be added: what dense found, if that is not yet
 * in the residual, and the biases of all before, which never are. */
static cf_prompt_norm norm_after(const passage *run, const rows *of, const float *added,
                                 const float *biases)
{
    return (cf_prompt_norm){.residual = residual_of(run, of),
                            .added = added,
                            .biases = biases,
                            .n = (int32_t)of->n,
                            .d_model = run->model->neox->shape.d_model,
                            .eps = run->model->neox->shape.layer_norm_eps};
}

/* The norm that a layer begins with, or with `layer` n_layers the final one, without its outputs.
 */
static cf_prompt_norm norm_before(const passage *run, int32_t layer)
{
    return norm_after(run, &run->all, run->is_apart && layer > 0 ? run->prompt->mixed : NULL,
                      run->model->prompt_layers[layer].before[0]);
}

static cf_status normalise(const passage *run, const cf_prompt_norm *norm, cf_error *error)
{
    CF_CUDA_TRY(cf_prompt_normalise(norm, run->model->weights, run->stream), "LayerNorm", error);
    return CF_STATUS_OK;
}

/* A matrix of a layer times `n` rows; where the output is the residual, it is added to that. */
static cf_status multiply(const passage *run, int32_t layer, cf_matrix matrix, size_t n,
                          const void *input, void *output, cudaStream_t stream, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    bool is_wide = matrix == CF_MATRIX_DENSE || matrix == CF_MATRIX_DOWN;
    cf_product product = {.weights = run->model->token.layers[layer].matrices[matrix],
                          .input = input,
                          .output = output,
                          .n = (int32_t)n,
                          .n_out = matrix == CF_MATRIX_QKV  ? 3 * shape->d_model
                                   : matrix == CF_MATRIX_UP ? shape->d_ffn
                                                            : shape->d_model,
                          .n_in = matrix == CF_MATRIX_DOWN ? shape->d_ffn : shape->d_model,
                          .wide = is_wide,
                          .accumulate = is_wide && output != run->prompt->mixed};
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

/* A layer's keys or values. */
static uint16_t *cache_of(const passage *run, uint16_t *cache, int32_t layer)
{
    return cache + (size_t)layer * (size_t)run->session->args.session.n_context * run->d_model;
}

/* q, k and v of normed[0], k and v in the cache, q in normed[0]'s place. */
static cf_status split(const passage *run, int32_t layer, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    const cf_token_session *cache = &run->session->args.session;
    cf_prompt *prompt = run->prompt;
    cf_prompt_split split = {.qkv = prompt->qkv,
                             .biases = run->model->prompt_layers[layer].qkv,
                             .rotation = cache->rotation,
                             .queries = prompt->normed[0],
                             .keys = cache_of(run, cache->keys, layer),
                             .values = cache_of(run, cache->values, layer),
                             .span = run->all.span,
                             .n_rows = (int32_t)run->all.n,
                             .n_heads = shape->n_heads,
                             .d_head = shape->d_head,
                             .d_rotary = shape->d_rotary,
                             .n_context = cache->n_context};
    CF_TRY(multiply(run, layer, CF_MATRIX_QKV, run->all.n, prompt->normed[0], prompt->qkv,
                    run->stream, error));
    CF_CUDA_TRY(cf_prompt_append(&split, run->model->weights, run->stream), "q, k and v", error);
    return CF_STATUS_OK;
}

/* What q finds in keys and values, in its place. */
static cf_status mix(const passage *run, int32_t layer, const rows *of, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    const cf_token_session *cache = &run->session->args.session;
    cf_prompt_attention attention = {.mixed = normed_of(run, 0, of),
                                     .keys = cache_of(run, cache->keys, layer),
                                     .values = cache_of(run, cache->values, layer),
                                     .span = of->span,
                                     .n_rows = (int32_t)of->n,
                                     .n_heads = shape->n_heads,
                                     .n_context = cache->n_context,
                                     .weights = run->model->weights};
    CF_CUDA_TRY(attend(&attention, shape->d_head, &run->model->device.limits, run->stream),
                "attention", error);
    return CF_STATUS_OK;
}

/* residual += down(activation(up(normed[1]))) */
static cf_status feed_forward(const passage *run, int32_t layer, const rows *of,
                              cudaStream_t stream, cf_error *error)
{
    const cf_shape *shape = &run->model->neox->shape;
    void *ffn = run->prompt->ffn;
    cf_prompt_activation activation = {.ffn = ffn,
                                       .biases = run->model->prompt_layers[layer].up,
                                       .n = (int32_t)of->n,
                                       .d_ffn = shape->d_ffn,
                                       .activation = shape->activation};
    CF_TRY(multiply(run, layer, CF_MATRIX_UP, of->n, normed_of(run, 1, of), ffn, stream, error));
    CF_CUDA_TRY(cf_prompt_activate(&activation, run->model->weights, stream), "activation", error);
    return multiply(run, layer, CF_MATRIX_DOWN, of->n, ffn, residual_of(run, of), stream, error);
}

/* The caller's rows of hidden state `index`, which lie in prompt->mixed. */
static cf_status keep_hidden(const passage *run, int32_t index, cf_error *error)
{
    const cf_step *step = run->step;
    size_t row = (size_t)index * step->hidden_rows + step->hidden_row;
    CF_CUDA_TRY(cudaMemcpyAsync(step->hidden + row * run->d_model, run->prompt->mixed,
                                sizeof(float) * step->n * run->d_model, cudaMemcpyDeviceToHost,
                                run->stream),
                "hidden states", error);
    return CF_STATUS_OK;
}

/* The norms that a layer begins with; the hidden state before it, for those who ask. */
static cf_status begin_layer(const passage *run, int32_t layer, cf_prompt_norm *norm,
                             cf_error *error)
{
    bool wants_hidden = run->step->hidden != NULL;
    norm->settled =
        wants_hidden ? run->prompt->mixed : NULL; /* read, if so, before it is written */
    norm->outputs[0] = norm_of(run, layer, 0);
    CF_TRY(normalise(run, norm, error));
    return wants_hidden ? keep_hidden(run, layer, error) : CF_STATUS_OK;
}

/* x + dense(attention(qkv(ln1 x))) + down(activation(up(ln2 x))), of these rows */
static cf_status parallel_layer(const passage *run, int32_t layer, const rows *of, cf_error *error)
{
    cf_prompt *prompt = run->prompt;
    cf_prompt_norm norm = norm_before(run, layer);
    norm.outputs[1] = norm_of(run, layer, 1);
    CF_TRY(begin_layer(run, layer, &norm, error));
    if (of->n == 0)
        return split(run, layer, error);
    CF_CUDA_TRY(cudaEventRecord(prompt->fork, run->stream), "the MLP's stream", error);
    CF_CUDA_TRY(cudaStreamWaitEvent(prompt->side, prompt->fork, 0), "the MLP's stream", error);
    CF_TRY(feed_forward(run, layer, of, prompt->side, error));
    CF_CUDA_TRY(cudaEventRecord(prompt->join, prompt->side), "the MLP's stream", error);
    CF_TRY(split(run, layer, error));
    CF_TRY(mix(run, layer, of, error));
    if (run->is_apart)
        CF_TRY(multiply(run, layer, CF_MATRIX_DENSE, of->n, normed_of(run, 0, of), prompt->mixed,
                        run->stream, error));
    CF_CUDA_TRY(cudaStreamWaitEvent(run->stream, prompt->join, 0), "the MLP's stream", error);
    if (!run->is_apart)
        CF_TRY(multiply(run, layer, CF_MATRIX_DENSE, of->n, normed_of(run, 0, of),
                        residual_of(run, of), run->stream, error));
    return CF_STATUS_OK;
}

/* x' = x + dense(attention(qkv(ln1 x))), then x' + down(activation(up(ln2 x'))), of these rows */
static cf_status sequential_layer(const passage *run, int32_t layer, const rows *of,
                                  cf_error *error)
{
    cf_prompt_norm first = norm_before(run, layer);
    cf_prompt_norm second = norm_after(run, of, NULL, run->model->prompt_layers[layer].before[1]);
    CF_TRY(begin_layer(run, layer, &first, error));
    CF_TRY(split(run, layer, error));
    if (of->n == 0)
        return CF_STATUS_OK;
    CF_TRY(mix(run, layer, of, error));
    CF_TRY(multiply(run, layer, CF_MATRIX_DENSE, of->n, normed_of(run, 0, of), residual_of(run, of),
                    run->stream, error));
    second.outputs[0] = norm_of(run, layer, 1);
    second.outputs[0].to = normed_of(run, 1, of);
    CF_TRY(normalise(run, &second, error));
    return feed_forward(run, layer, of, run->stream, error);
}

static cf_status launch_layer(const passage *run, int32_t layer, const rows *of, cf_error *error)
{
    return run->model->neox->shape.parallel_residual ? parallel_layer(run, layer, of, error)
                                                     : sequential_layer(run, layer, of, error);
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
        CF_TRY(keep_hidden(run, n_layers, error));
        norm.hidden = NULL;
        norm.added = NULL; /* it is in the residual now */
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
    int32_t n_layers = run->model->neox->shape.n_layers - (is_trimmed(run) ? 1 : 0);
    CF_TRY(embed(run, error));
    for (int32_t layer = 0; layer < n_layers; layer++)
        CF_TRY(launch_layer(run, layer, &run->all, error));
    return CF_STATUS_OK;
}

/* A chunk's rows, and which of them somebody wants of the last layer. */
static void choose_rows(passage *run)
{
    const cf_step *step = run->step;
    const cf_prompt_request *request = run->prompt->request[0];
    size_t n_wanted = step->hidden != NULL ? step->n : step->logits != NULL ? step->n_logits : 0;
    size_t n = cf_prompt_rows(step->n), n_last = cf_prompt_rows(n_wanted);
    run->all = run->wanted = (rows){.n = n, .span = &request->all};
    if (n <= SHORT_ROWS || n_last > n / 2)
        return;
    size_t first = step->n - n_wanted, most = n - n_last;
    run->wanted =
        (rows){.first = first < most ? first : most, .n = n_last, .span = &request->wanted};
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
                   .d_model = (size_t)shape->d_model};
    choose_rows(&run);
    run.is_apart = shape->parallel_residual && run.all.n <= SHORT_ROWS;
    CF_TRY(send(&run, error));
    if (step->hidden == NULL)
        CF_TRY(cf_prompt_replay(run.prompt, run.all.n, is_trimmed(&run), launch_layers, &run,
                                run.stream, error));
    else
        CF_TRY(launch_layers(&run, error));
    if (is_trimmed(&run))
        CF_TRY(launch_layer(&run, shape->n_layers - 1, &run.wanted, error));
    CF_TRY(normalise_last(&run, n_logits, error));
    CF_TRY(fetch_logits(&run, n_logits, error));
    CF_CUDA_TRY(cudaStreamSynchronize(session->stream), "a prompt", error);
    return CF_STATUS_OK;
}
