/* The work space of prompts, reserved when a session is created. */
#include "backend/cuda/host/cuda.h"

#include "base/memory.h"
#include "base/status.h"

/* Of each stream's products; the library asks for 4 MB at most for the shapes of the family. */
#define WORKSPACE_BYTES ((size_t)16 << 20)

static size_t round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

size_t cf_prompt_rows(size_t n)
{
    return round_up(n, n <= 128 ? 16 : n <= 1024 ? 64 : 128);
}

/*
 * Measured: from 1.4B on, two tokens' launches take longer than a prompt of two; of smaller models,
 * whose prompts are a chain of short launches, four tokens' do.
 */
size_t cf_prompt_least(const cf_backend_model *model)
{
    return model->neox->shape.d_model >= 2048 ? 2 : 4;
}

static size_t logits_bytes(const cf_backend_model *model)
{
    return sizeof(float) * CF_PROMPT_LOGITS_ROWS * (size_t)model->neox->shape.n_vocab;
}

static size_t request_bytes(size_t n_chunk)
{
    return sizeof(cf_prompt_request) + sizeof(cf_token) * cf_prompt_rows(n_chunk);
}

/* Lays everything out, or counts it. */
static void take_all(const cf_backend_model *model, size_t n_chunk, cf_prompt *prompt)
{
    const cf_shape *shape = &model->neox->shape;
    cf_cuda_arena *arena = &prompt->arena;
    size_t n = cf_prompt_rows(n_chunk), d_model = (size_t)shape->d_model;
    for (int i = 0; i < 2; i++) {
        prompt->workspaces[i].memory = cf_cuda_arena_take(arena, WORKSPACE_BYTES);
        prompt->workspaces[i].n_bytes = WORKSPACE_BYTES;
        prompt->normed[i] = cf_cuda_arena_take(arena, 2 * n * d_model);
        prompt->logits[i] = cf_cuda_arena_take(arena, logits_bytes(model));
    }
    prompt->request[0] = cf_cuda_arena_take(arena, request_bytes(n_chunk));
    prompt->residual = cf_cuda_arena_take(arena, sizeof(float) * n * d_model);
    prompt->qkv = cf_cuda_arena_take(arena, 2 * n * 3 * d_model);
    prompt->mixed = prompt->qkv; /* q, k and v have been taken out when it is written */
    prompt->ffn = cf_cuda_arena_take(arena, 2 * n * (size_t)shape->d_ffn);
}

size_t cf_prompt_measure(const cf_backend_model *model, size_t n_chunk)
{
    cf_prompt prompt = {0};
    take_all(model, n_chunk, &prompt);
    return prompt.arena.n_bytes;
}

static cf_status build(const cf_backend_model *model, size_t n_chunk, cf_prompt *prompt,
                       cf_error *error)
{
    static const char what[] = "the session's work space for prompts";
    cudaEvent_t *events[] = {&prompt->fork, &prompt->join, &prompt->copied[0], &prompt->copied[1]};
    prompt->plans.library = model->blaslt;
    prompt->plans.format = model->weights;
    take_all(model, n_chunk, prompt);
    size_t n_bytes = prompt->arena.n_bytes;
    CF_TRY(cf_cuda_arena_allocate(&prompt->arena, what, error));
    take_all(model, n_chunk, prompt);
    CF_CUDA_TRY(cudaMemset(prompt->arena.memory, 0, n_bytes), what, error);
    CF_CUDA_TRY(cudaStreamCreateWithFlags(&prompt->side, cudaStreamNonBlocking), what, error);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        CF_CUDA_TRY(cudaEventCreateWithFlags(events[i], cudaEventDisableTiming), what, error);
    CF_CUDA_TRY(cudaMallocHost((void **)&prompt->request[1], request_bytes(n_chunk)), what, error);
    for (int i = 0; i < 2; i++)
        CF_CUDA_TRY(cudaMallocHost((void **)&prompt->staging[i], logits_bytes(model)), what, error);
    return CF_STATUS_OK;
}

cf_status cf_prompt_create(const cf_backend_model *model, size_t n_chunk, cf_prompt **prompt,
                           cf_error *error)
{
    cf_prompt *made;
    *prompt = NULL;
    CF_TRY(CF_ALLOC(&made, 1, "prompts", error));
    cf_status status = build(model, n_chunk, made, error);
    if (status != CF_STATUS_OK) {
        cf_prompt_free(made);
        return status;
    }
    *prompt = made;
    return CF_STATUS_OK;
}

void cf_prompt_free(cf_prompt *prompt)
{
    if (prompt == NULL)
        return;
    cudaEvent_t events[] = {prompt->fork, prompt->join, prompt->copied[0], prompt->copied[1]};
    if (prompt->side != NULL)
        cudaStreamDestroy(prompt->side);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i] != NULL)
            cudaEventDestroy(events[i]);
    for (int i = 0; i < 2; i++)
        cudaFreeHost(prompt->staging[i]);
    cudaFreeHost(prompt->request[1]);
    cf_prompt_forget(prompt);
    cf_cuda_arena_free(&prompt->arena);
    cf_product_plans_free(&prompt->plans);
    cf_dealloc(prompt);
}
