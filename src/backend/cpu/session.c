/* Sessions: the KV cache and the work space of a step, all reserved at once. */
#include "backend/cpu/cpu.h"

#include "base/memory.h"
#include "base/status.h"

#include <sys/mman.h>

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
    X(ffn, cf_cpu_stride(N) * F)                                                                   \
    X(cos_sin, N *(size_t)shape->d_rotary)                                                         \
    X(scores, T *score_stride(options))                                                            \
    X(transposed, 2 * cf_cpu_stride(N) * D)                                                        \
    X(parts, model->has_tiles ? cf_cpu_parts_per_column(N) * (D + (D > F ? D : F)) / 2 : 0)        \
    X(panels, T *CF_CPU_PANEL_ROWS *CF_CPU_PANEL_COLUMNS)                                          \
    X(products, T *CF_CPU_PANEL_ROWS *cf_cpu_stride(N))                                            \
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

/* The cache in huge pages where there are any: decoding reads it from end to end. */
static cf_status map_zeros(void **memory, size_t n_bytes, cf_error *error)
{
    *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*memory == MAP_FAILED) {
        *memory = NULL;
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "KV cache: 2 times %zu bytes", n_bytes);
    }
    madvise(*memory, n_bytes, MADV_HUGEPAGE);
    return CF_STATUS_OK;
}

static void unmap(void *memory, size_t n_bytes)
{
    if (memory != NULL)
        munmap(memory, n_bytes);
}

/* Memory is granted when it is touched, and a process that touches too much is killed: ask first.
 */
static cf_status check_available(const cf_session_memory *memory, size_t n_context, cf_error *error)
{
    uint64_t needed = memory->kv_bytes + memory->scratch_bytes,
             available = cf_cpu_available_bytes();
    if (needed <= available)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_OUT_OF_MEMORY,
                   "session of %zu tokens: takes %llu bytes, %llu are available", n_context,
                   (unsigned long long)needed, (unsigned long long)available);
}

void cf_cpu_session_free(cf_backend_session *session)
{
    if (session == NULL)
        return;
#define FREE(field, n) cf_dealloc(session->field);
    SCRATCH(FREE)
#undef FREE
    cf_dealloc(session->team.shares);
    unmap(session->keys, session->kv_bytes);
    unmap(session->values, session->kv_bytes);
    cf_dealloc(session);
}

static cf_status allocate(cf_backend_session *session, cf_error *error)
{
    const cf_backend_model *model = session->model;
    const cf_shape *shape = &model->neox->shape;
    const cf_backend_options *options = &session->options;
    size_t N = options->n_chunk, D = (size_t)shape->d_model;
    size_t F = (size_t)shape->d_ffn, T = (size_t)options->n_threads;
    size_t count = 0, element = cf_dtype_bytes(options->kv_dtype);
    kv_elements(shape, options, &count);
    session->kv_bytes = count * element;
    CF_TRY(map_zeros(&session->keys, session->kv_bytes, error));
    CF_TRY(map_zeros(&session->values, session->kv_bytes, error));
    CF_TRY(CF_ALLOC(&session->team.shares, T, "shares", error));
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
    CF_TRY(check_available(&memory, options->n_context, error));
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
