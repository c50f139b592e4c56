/* Sessions: the KV cache and what launches leave to each other, all reserved at once. */
#include "backend/cuda/host/cuda.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <string.h>

/* Of prompts by matrix products, whose work space grows with it, and token by token. */
#define DEFAULT_CHUNK 2048
#define DEFAULT_CHUNK_OF_TOKENS 512

void cf_cuda_session_defaults(const cf_backend_model *model, cf_backend_options *options)
{
    if (options->n_threads == 0)
        options->n_threads = 1;
    if (options->n_chunk == 0)
        options->n_chunk = model->blaslt != NULL ? DEFAULT_CHUNK : DEFAULT_CHUNK_OF_TOKENS;
    if (options->n_chunk > options->n_context)
        options->n_chunk = options->n_context;
    if (options->kv_dtype == CF_DTYPE_DEFAULT)
        options->kv_dtype = CF_DTYPE_F16;
}

/* Bytes of each of the two caches. n_context is at most 2^24: no overflow. */
static size_t cache_bytes(const cf_backend_model *model, size_t n_context)
{
    const cf_shape *shape = &model->neox->shape;
    return 2 * (size_t)shape->n_layers * (size_t)shape->d_model * n_context;
}

/* Lays out everything but the caches, or counts it. */
static void take_scratch(cf_backend_session *made, cf_cuda_arena *arena)
{
    const cf_backend_model *model = made->model;
    cf_token_session *session = &made->args.session;
    const cf_shape *shape = &model->neox->shape;
    size_t d_model = (size_t)shape->d_model, d_ffn = (size_t)shape->d_ffn;
    size_t n_blocks = (size_t)model->schedule.n_blocks;
    size_t n_splits = (size_t)shape->n_heads * (size_t)model->schedule.max_splits;
    session->residual = cf_cuda_arena_take(arena, sizeof(uint32_t) * d_model);
    session->qkv = cf_cuda_arena_take(arena, sizeof(uint32_t) * 3 * d_model);
    session->attention = cf_cuda_arena_take(arena, sizeof(uint32_t) * d_model);
    session->ffn = cf_cuda_arena_take(arena, sizeof(uint32_t) * d_ffn);
    session->partials =
        cf_cuda_arena_take(arena, sizeof(uint64_t) * n_splits * (size_t)(shape->d_head + 2));
    session->counters =
        cf_cuda_arena_take(arena, sizeof(uint32_t) * CF_N_COUNTERS * CF_COUNTER_STRIDE);
    session->logits = cf_cuda_arena_take(arena, sizeof(float) * (size_t)shape->n_vocab);
    session->hidden =
        cf_cuda_arena_take(arena, sizeof(float) * (size_t)(shape->n_layers + 1) * d_model);
    session->rotation = cf_cuda_arena_take(arena, sizeof(float) * made->options.n_context *
                                                      (size_t)shape->d_rotary);
    session->choices = cf_cuda_arena_take(arena, sizeof(uint64_t) * CF_CHOICE_PACKETS * n_blocks);
    session->draw = cf_cuda_arena_take(arena, sizeof *session->draw);
    session->news =
        cf_cuda_arena_take(arena, sizeof(uint64_t) * 2 * CF_DRAW_NEWS_PACKETS * n_blocks);
    session->members = cf_cuda_arena_take(arena, sizeof(uint64_t) * 2 * CF_DRAW_OWN_MEMBERS *
                                                     CF_DRAW_MEMBER_PACKETS * n_blocks);
    made->tokens = cf_cuda_arena_take(arena, sizeof(cf_token) * CF_MAX_LAUNCH);
    made->seen = cf_cuda_arena_take(arena, sizeof(uint32_t) * (size_t)shape->n_vocab);
    made->args.choice.adjusted = cf_cuda_arena_take(arena, sizeof(float) * (size_t)shape->n_vocab);
}

static bool has_prompts(const cf_backend_model *model, const cf_backend_options *options)
{
    return model->blaslt != NULL && options->n_chunk >= cf_prompt_least(model);
}

cf_status cf_cuda_session_measure(const cf_backend_model *model, const cf_backend_options *options,
                                  cf_session_memory *memory, cf_error *error)
{
    cf_cuda_arena scratch = {0};
    cf_backend_session measured = {.model = model, .options = *options};
    *memory = (cf_session_memory){0};
    if (options->kv_dtype != CF_DTYPE_F16)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "CUDA: KV cache is %s, expected F16",
                       cf_dtype_name(options->kv_dtype));
    take_scratch(&measured, &scratch);
    memory->kv_bytes = 2 * (uint64_t)cache_bytes(model, options->n_context);
    memory->scratch_bytes = scratch.n_bytes;
    if (has_prompts(model, options))
        memory->scratch_bytes += cf_prompt_measure(model, options->n_chunk);
    return CF_STATUS_OK;
}

/* Each position's cosines and sines; the angle in float64, since positions have no limit. */
static cf_status fill_rotation(cf_backend_session *session, cf_error *error)
{
    const cf_backend_model *model = session->model;
    size_t half = (size_t)model->neox->shape.d_rotary / 2;
    size_t n = session->options.n_context * 2 * half;
    float *rotation;
    CF_TRY(CF_ALLOC(&rotation, n, "rotation", error));
    for (size_t i = 0; i < n / 2; i++) {
        double angle = (double)(i / half) * model->frequencies[i % half];
        rotation[2 * i] = (float)cos(angle);
        rotation[2 * i + 1] = (float)sin(angle);
    }
    cudaError_t code = cudaMemcpy((void *)(uintptr_t)session->args.session.rotation, rotation,
                                  n * sizeof *rotation, cudaMemcpyHostToDevice);
    cf_dealloc(rotation);
    CF_CUDA_TRY(code, "rotation", error);
    return CF_STATUS_OK;
}

static cf_status build(cf_backend_session *session, cf_error *error)
{
    const cf_backend_model *model = session->model;
    cf_token_session *token = &session->args.session;
    size_t n_bytes = cache_bytes(model, session->options.n_context);
    size_t n_staging = sizeof(float) * (size_t)model->neox->shape.n_vocab;
    cf_cuda_arena *arena = &session->arena;
    CF_CUDA_TRY(cudaSetDevice(model->device.index), "session", error);
    cf_cuda_arena_take(arena, n_bytes);
    cf_cuda_arena_take(arena, n_bytes);
    take_scratch(session, arena);
    size_t n_total = arena->n_bytes;
    CF_TRY(cf_cuda_arena_allocate(arena, "the session's KV cache", error));
    token->keys = cf_cuda_arena_take(arena, n_bytes);
    token->values = cf_cuda_arena_take(arena, n_bytes);
    take_scratch(session, arena);
    token->n_context = (int32_t)session->options.n_context;
    /* Counters and epochs begin at 0. */
    CF_CUDA_TRY(cudaMemset(arena->memory + 2 * n_bytes, 0, n_total - 2 * n_bytes), "session",
                error);
    CF_TRY(fill_rotation(session, error));
    CF_CUDA_TRY(cudaStreamCreateWithFlags(&session->stream, cudaStreamNonBlocking), "session",
                error);
    CF_CUDA_TRY(cudaMallocHost((void **)&session->staging, n_staging), "session", error);
    CF_CUDA_TRY(cudaMallocHost((void **)&session->seen_staging, n_staging), "session", error);
    CF_CUDA_TRY(cudaMallocHost((void **)&session->mailbox, sizeof *session->mailbox), "session",
                error);
    if (has_prompts(model, &session->options))
        CF_TRY(cf_prompt_create(model, session->options.n_chunk, &session->prompt, error));
    CF_CUDA_TRY(cudaDeviceSynchronize(), "session", error);
    return CF_STATUS_OK;
}

cf_status cf_cuda_session_create(const cf_backend_model *model, const cf_backend_options *options,
                                 cf_backend_session **session, cf_error *error)
{
    cf_backend_session *made;
    cf_session_memory memory;
    *session = NULL;
    CF_TRY(cf_cuda_session_measure(model, options, &memory, error));
    CF_TRY(CF_ALLOC(&made, 1, "session", error));
    made->model = model;
    made->options = *options;
    made->args.model = model->token;
    cf_status status = build(made, error);
    if (status != CF_STATUS_OK) {
        cf_cuda_session_free(made);
        return status;
    }
    *session = made;
    return CF_STATUS_OK;
}

void cf_cuda_session_free(cf_backend_session *session)
{
    if (session == NULL)
        return;
    if (session->stream != NULL)
        cudaStreamDestroy(session->stream);
    cf_prompt_free(session->prompt);
    cudaFreeHost(session->staging);
    cudaFreeHost(session->seen_staging);
    cudaFreeHost(session->mailbox);
    cf_cuda_arena_free(&session->arena);
    cf_dealloc(session);
}
