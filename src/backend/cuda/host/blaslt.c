#include "backend/cuda/host/blaslt.h"

#include "base/memory.h"
#include "base/status.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <string.h>

/* Of the functions below, the signatures are the same in versions 12 and 13. */
#define LEAST_VERSION 120000
#define END_VERSION 140000

/* The most that it helps to know of an address. */
#define MAX_ALIGNMENT 256

#define FUNCTIONS(X)                                                                               \
    X(GetVersion)                                                                                  \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)                                                                         \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(Matmul)

struct cf_blaslt {
    void *file; /* stays open: its kernels may be anyone's */
    cublasLtHandle_t handle;
#define FIELD(name) __typeof__(&cublasLt##name) name;
    FUNCTIONS(FIELD)
#undef FIELD
};

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof((cf_product_plan *)0)->algorithm,
               "algorithm");

#define TRY(expression, what, error)                                                               \
    do {                                                                                           \
        cublasStatus_t try_status = (expression);                                                  \
        if (try_status != CUBLAS_STATUS_SUCCESS)                                                   \
            return fail(error, try_status, what);                                                  \
    } while (0)

static cf_status fail(cf_error *error, cublasStatus_t code, const char *what)
{
    cf_status status =
        code == CUBLAS_STATUS_ALLOC_FAILED ? CF_STATUS_OUT_OF_MEMORY : CF_STATUS_DEVICE;
    return cf_fail(error, status, "cuBLASLt: %s: status %d", what, (int)code);
}

/* The library as installed; or the one that the process has loaded (PyTorch brings its own). */
static void *find_file(void)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *file = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (file != NULL)
            return file;
    }
    return dlsym(RTLD_DEFAULT, "cublasLtCreate") != NULL ? dlopen(NULL, RTLD_NOW) : NULL;
}

static cf_status find_functions(cf_blaslt *library, cf_error *error)
{
    library->file = find_file();
    if (library->file == NULL)
        return cf_fail(error, CF_STATUS_NO_DEVICE, "cuBLASLt: no libcublasLt.so.13 or .12 found");
        /* POSIX's way from an object to a function pointer. */
#define FIND(name)                                                                                 \
    *(void **)&library->name = dlsym(library->file, "cublasLt" #name);                             \
    if (library->name == NULL)                                                                     \
        return cf_fail(error, CF_STATUS_NO_DEVICE, "cuBLASLt: the library has no cublasLt" #name);
    FUNCTIONS(FIND)
#undef FIND
    size_t version = library->GetVersion();
    if (version < LEAST_VERSION || version >= END_VERSION)
        return cf_fail(error, CF_STATUS_NO_DEVICE, "cuBLASLt: version %zu, expected %d to %d",
                       version, LEAST_VERSION, END_VERSION - 1);
    return CF_STATUS_OK;
}

cf_status cf_blaslt_open(cf_blaslt **library, cf_error *error)
{
    cf_blaslt *made;
    *library = NULL;
    CF_TRY(CF_ALLOC(&made, 1, "cuBLASLt", error));
    cf_status status = find_functions(made, error);
    if (status == CF_STATUS_OK && made->Create(&made->handle) != CUBLAS_STATUS_SUCCESS)
        status = cf_fail(error, CF_STATUS_NO_DEVICE, "cuBLASLt: no handle");
    if (status != CF_STATUS_OK) {
        cf_blaslt_close(made);
        return status;
    }
    *library = made;
    return CF_STATUS_OK;
}

void cf_blaslt_close(cf_blaslt *library)
{
    if (library == NULL)
        return;
    if (library->handle != NULL)
        library->Destroy(library->handle);
    cf_dealloc(library);
}

size_t cf_blaslt_version(const cf_blaslt *library)
{
    return library->GetVersion();
}

static void forget(const cf_blaslt *library, cf_product_plan *plan)
{
    if (plan->description != NULL)
        library->MatmulDescDestroy(plan->description);
    void *layouts[] = {plan->weights, plan->input, plan->output};
    for (int i = 0; i < 3; i++)
        if (layouts[i] != NULL)
            library->MatrixLayoutDestroy(layouts[i]);
    *plan = (cf_product_plan){0};
}

void cf_product_plans_free(cf_product_plans *plans)
{
    for (int32_t i = 0; i < plans->n_used; i++)
        forget(plans->library, &plans->plans[i]);
    plans->n_used = 0;
}

/* Row-major is cuBLASLt's column-major transposed: outputᵀ = weights inputᵀ. */
static cf_status describe(const cf_blaslt *library, cudaDataType format, cf_product_plan *plan,
                          cf_error *error)
{
    const cf_product *shape = &plan->shape;
    uint64_t n = (uint64_t)shape->n, n_out = (uint64_t)shape->n_out, n_in = (uint64_t)shape->n_in;
    cudaDataType to = shape->wide ? CUDA_R_32F : format;
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDesc_t made = NULL;
    TRY(library->MatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product", error);
    plan->description = made;
    TRY(library->MatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                        sizeof transposed),
        "a product", error);
    TRY(library->MatrixLayoutCreate((cublasLtMatrixLayout_t *)&plan->weights, format, n_in, n_out,
                                    (int64_t)n_in),
        "weights", error);
    TRY(library->MatrixLayoutCreate((cublasLtMatrixLayout_t *)&plan->input, format, n_in, n,
                                    (int64_t)n_in),
        "input", error);
    TRY(library->MatrixLayoutCreate((cublasLtMatrixLayout_t *)&plan->output, to, n_out, n,
                                    (int64_t)n_out),
        "output", error);
    return CF_STATUS_OK;
}

/* Weights lie where a caller has put them. */
static uint32_t alignment_of(const void *address)
{
    uintptr_t lowest = (uintptr_t)address & -(uintptr_t)address;
    return lowest == 0 || lowest > MAX_ALIGNMENT ? MAX_ALIGNMENT : (uint32_t)lowest;
}

static cublasStatus_t set_limits(const cf_blaslt *library, cublasLtMatmulPreference_t preference,
                                 size_t n_workspace, uint32_t alignment)
{
    cublasStatus_t status = library->MatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &n_workspace, sizeof n_workspace);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = library->MatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment);
    return status;
}

/* Asks for the way that the library holds to be the fastest. */
static cf_status choose(const cf_blaslt *library, cf_product_plan *plan, size_t n_workspace,
                        cf_error *error)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found = {0};
    int n_found = 0;
    TRY(library->MatmulPreferenceCreate(&preference), "a preference", error);
    cublasStatus_t status =
        set_limits(library, preference, n_workspace, alignment_of(plan->shape.weights));
    if (status == CUBLAS_STATUS_SUCCESS)
        status = library->MatmulAlgoGetHeuristic(library->handle, plan->description, plan->weights,
                                                 plan->input, plan->output, plan->output,
                                                 preference, 1, &found, &n_found);
    library->MatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS && n_found == 0)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    memcpy(plan->algorithm, &found.algo, sizeof plan->algorithm);
    if (status == CUBLAS_STATUS_SUCCESS)
        return CF_STATUS_OK;
    return cf_fail(error, CF_STATUS_DEVICE,
                   "cuBLASLt: no way to multiply %d x %d weights by %d inputs: status %d",
                   plan->shape.n_out, plan->shape.n_in, plan->shape.n, (int)status);
}

static bool is_alike(const cf_product *a, const cf_product *b)
{
    return a->n == b->n && a->n_out == b->n_out && a->n_in == b->n_in && a->wide == b->wide &&
           a->accumulate == b->accumulate && alignment_of(a->weights) == alignment_of(b->weights);
}

static cf_status find_plan(cf_product_plans *plans, const cf_product *product, size_t n_workspace,
                           cf_product_plan **plan, cf_error *error)
{
    cudaDataType format = plans->format == CF_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
    for (int32_t i = 0; i < plans->n_used; i++)
        if (is_alike(&plans->plans[i].shape, product)) {
            *plan = &plans->plans[i];
            return CF_STATUS_OK;
        }
    *plan = &plans->plans[plans->next];
    forget(plans->library, *plan);
    plans->next = (plans->next + 1) % CF_PRODUCT_N_PLANS;
    if (plans->n_used < CF_PRODUCT_N_PLANS)
        plans->n_used++;
    cf_product_plan made = {.shape = *product};
    cf_status status = describe(plans->library, format, &made, error);
    if (status == CF_STATUS_OK)
        status = choose(plans->library, &made, n_workspace, error);
    if (status == CF_STATUS_OK)
        **plan = made;
    else
        forget(plans->library, &made); /* the place stays empty: no product has 0 rows */
    return status;
}

cf_status cf_product_launch(cf_product_plans *plans, const cf_product *product,
                            cf_workspace workspace, cudaStream_t stream, cf_error *error)
{
    const cf_blaslt *library = plans->library;
    const float one = 1, kept = product->accumulate ? 1 : 0;
    cf_product_plan *plan;
    CF_TRY(find_plan(plans, product, workspace.n_bytes, &plan, error));
    TRY(library->Matmul(library->handle, plan->description, &one, product->weights, plan->weights,
                        product->input, plan->input, &kept, product->output, plan->output,
                        product->output, plan->output,
                        (const cublasLtMatmulAlgo_t *)(const void *)plan->algorithm,
                        workspace.memory, workspace.n_bytes, stream),
        "a product", error);
    return CF_STATUS_OK;
}
