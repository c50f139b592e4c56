/* Sessions: the KV cache and the work space of a step, all reserved at once. */
#include "backend/cpu/cpu.h"

#include "base/memory.h"
#include "base/status.h"

#define DEFAULT_CHUNK 512

void cf_cpu_session_defaults(const cf_backend_model *model, cf_backend_options *options)
{
    (void)model;
    if (options->n_threads == 0)
        options->n_threads = cf_cpu_count();
    if (options->n_chunk == 0)
        options->n_chunk = DEFAULT_CHUNK;
    if (options->n_chunk > options->n_context)
        options->n_chunk = options->n_context;
    if (options->kv_dtype == CF_DTYPE_DEFAULT)
        options->kv_dtype = CF_DTYPE_F16;
}

/* Elements of each of the two caches; false if that overflows. */
static bool kv_elements(const cf_shape *shape, const cf_backend_options *options, size_t *count)
{
    return !__builtin_mul_overflow((size_t)shape->n_layers * (size_t)shape->d_model,
                                   options->n_context, count) &&
           *count < SIZE_MAX / 16;
}

/* A row of scores, padded so that workers do not share a cache line. */
static size_t score_stride(const cf_backend_options *options)
{
    return (options->n_context + 31) / 16 * 16;
}

/* The work space: X(field, floats). N is n_chunk, D is d_model, F is d_ffn, T is
 * n_threads. */
#define SCRATCH(X)                                                                                 \
    X(residual, N *D)                                                                              \
    X(normed, N *D)                                                                                \
    X(normed2, N *D)                                                                               \
    X(qkv, 3 * N * D)                                                                              \
    X(attended, N *D)                                                                              \
    X(ffn, N *F)                                                                                   \
    X(cos_sin, N *(size_t)shape->d_rotary)                                                         \
    X(scores, T *score_stride(options))                                                            \
    X(transposed, N *(D + (D > F ? D : F)))                                                        \
    X(panels, T *CF_CPU_PANEL_ROWS *CF_CPU_PANEL_COLUMNS)                                          \
    X(products, T *CF_CPU_PANEL_ROWS *N)                                                           \
    X(blocks, T *cf_cpu_block_floats(shape))

cf_status cf_cpu_session_measure(const cf_backend_model *model, const cf_backend_options *options,
                                 cf_session_memory *memory, cf_error *error)
{
    const cf_shape *shape = &model->neox->shape;
    size_t N = options->n_chunk, D = (size_t)shape->d_model;
    size_t F = (size_t)shape->d_ffn, T = (size_t)options->n_threads;
    size_t count, floats = 0;
    *memory = (cf_session_memory){0};
    if (options->kv_dtype != CF_DTYPE_F16 && options->kv_dtype != CF_DTYPE_F32)
        return cf_fail(error, CF_STATUS_UNSUPPORTED, "KV cache: dtype is %s, expected F16 or F32",
                       cf_dtype_name(options->kv_dtype));
    if (!kv_elements(shape, options, &count))
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "KV cache: %zu tokens", options->n_context);
#define ADD(field, n) floats += (n);
    SCRATCH(ADD)
#undef ADD
    memory->kv_bytes = 2 * count * cf_dtype_bytes(options->kv_dtype);
    memory->scratch_bytes = floats * sizeof(float);
    return CF_STATUS_OK;
}

void cf_cpu_session_free(cf_backend_session *session)
{
    if (session == NULL)
        return;
#define FREE(field, n) cf_dealloc(session->field);
    SCRATCH(FREE)
#undef FREE
    cf_dealloc(session->keys);
    cf_dealloc(session->values);
    cf_dealloc(session);
}

static cf_status allocate(cf_backend_session *session, cf_error *error)
{
    const cf_shape *shape = &session->model->neox->shape;
    const cf_backend_options *options = &session->options;
    size_t N = options->n_chunk, D = (size_t)shape->d_model;
    size_t F = (size_t)shape->d_ffn, T = (size_t)options->n_threads;
    size_t count = 0, element = cf_dtype_bytes(options->kv_dtype);
    kv_elements(shape, options, &count);
    CF_TRY(cf_alloc(&session->keys, count, element, "KV cache", error));
    CF_TRY(cf_alloc(&session->values, count, element, "KV cache", error));
#define ALLOCATE(field, n) CF_TRY(CF_ALLOC(&session->field, n, #field, error));
    SCRATCH(ALLOCATE)
#undef ALLOCATE
    return CF_STATUS_OK;
}

cf_status cf_cpu_session_create(const cf_backend_model *model, const cf_backend_options *options,
                                cf_backend_session **session, cf_error *error)
{
    *session = NULL;
    cf_session_memory memory;
    CF_TRY(cf_cpu_session_measure(model, options, &memory, error));
    cf_backend_session *made;
    CF_TRY(CF_ALLOC(&made, 1, "session", error));
    made->model = model;
    made->kernels = model->kernels;
    made->options = *options;
    made->score_stride = score_stride(options);
    cf_status status = allocate(made, error);
    if (status != CF_STATUS_OK) {
        cf_cpu_session_free(made);
        return status;
    }
    *session = made;
    return CF_STATUS_OK;
}

void cf_cpu_force_kernels(cf_backend_session *session, const cf_kernels *kernels)
{
    session->kernels = kernels;
}
