/*
 * What a GPU can refuse or do wrong comes back as a status, and the process goes on. Each test is a
 * process of its own: a device that failed stays so for the process that it failed in. Skipped by
 * name where there is no GPU.
 */
#include "support/random_model.h"
#include "support/runner.h"
#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/cuda.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The largest context of a session: 172 GB of KV cache for the model below. */
enum { EXIT_SKIP = 77, N_TOKENS = 4, N_LARGEST = 1 << 24 };

/* In a test's process, cmocka's way back is not there. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Runs `body` in a process, which must come to its end as any other does. */
static void in_a_process(void (*body)(void))
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        cf_error error;
        if (cf_cuda_backend.check(&error) != CF_STATUS_OK)
            exit(EXIT_SKIP);
        body();
        exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == EXIT_SKIP)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A model of some 160 MB. */
static void make_model(test_model *model)
{
    cf_shape shape = test_small_shape(80, 32);
    shape.n_layers = 1;
    test_model_create(model, &shape, CF_DTYPE_F16, 12);
}

static cf_status step(cf_backend_session *session, size_t pos, float *logits, cf_error *error)
{
    static const cf_token ids[N_TOKENS] = {1, 2, 3, 5};
    cf_step one = {.ids = ids, .n = N_TOKENS, .pos = pos, .logits = logits, .n_logits = 1};
    return cf_cuda_backend.step(session, &one, error);
}

/* That the message says how much was wanted and how much there was, and that it was too much. */
static void check_both_numbers(const cf_error *error, size_t at_least)
{
    size_t needed = 0, n_free = 0, n_total = 0;
    const char *numbers = strstr(error->message, "needs ");
    fprintf(stderr, "    %s\n", error->message);
    CHECK(numbers != NULL);
    CHECK(sscanf(numbers, "needs %zu bytes, the GPU has %zu of %zu free", &needed, &n_free,
                 &n_total) == 3);
    CHECK(needed >= at_least && needed > n_free && n_free <= n_total);
}

static void try_a_session_too_large(void)
{
    cf_backend_options options = {.n_context = N_LARGEST, .kv_dtype = CF_DTYPE_F16};
    cf_session_memory memory;
    cf_backend_session *session;
    test_model model;
    test_runner gpu;
    cf_error error;
    make_model(&model);
    test_runner_start(&gpu, &cf_cuda_backend, &model.neox, N_TOKENS, CF_DTYPE_F16);
    cf_cuda_backend.session_defaults(gpu.model, &options);
    CHECK(cf_cuda_backend.session_measure(gpu.model, &options, &memory, &error) == CF_STATUS_OK);
    CHECK(cf_cuda_backend.session_create(gpu.model, &options, &session, &error) ==
          CF_STATUS_OUT_OF_MEMORY);
    CHECK(session == NULL);
    check_both_numbers(&error, memory.kv_bytes);
    float *logits = malloc(sizeof *logits * (size_t)model.neox.shape.n_vocab);
    CHECK(step(gpu.session, 0, logits, &error) == CF_STATUS_OK);
    free(logits);
    test_runner_stop(&gpu);
    test_model_free(&model);
}

/* Takes all of the GPU's memory but some; returns what was taken. */
static void *take_memory(size_t but)
{
    size_t n_free = 0, n_total = 0;
    void *memory = NULL;
    CHECK(cudaMemGetInfo(&n_free, &n_total) == cudaSuccess && n_free > but);
    CHECK(cudaMalloc(&memory, n_free - but) == cudaSuccess);
    return memory;
}

static void try_a_model_too_large(void)
{
    enum { LEFT_BYTES = 64 << 20 };
    cf_model_options options = {.size = sizeof options};
    cf_backend_model *prepared;
    const char *text;
    test_model model;
    test_runner gpu;
    cf_error error;
    make_model(&model);
    void *taken = take_memory(LEFT_BYTES);
    CHECK(cf_cuda_backend.model_create(&model.neox, &options, &prepared, &text, &error) ==
          CF_STATUS_OUT_OF_MEMORY);
    CHECK(prepared == NULL);
    check_both_numbers(&error, (size_t)100 << 20);
    CHECK(cudaFree(taken) == cudaSuccess);
    test_runner_start(&gpu, &cf_cuda_backend, &model.neox, N_TOKENS, CF_DTYPE_F16);
    CHECK(step(gpu.session, 0, NULL, &error) == CF_STATUS_OK);
    test_runner_stop(&gpu);
    test_model_free(&model);
}

/* The step in which the device fails says so, and so does every later one. */
static void check_dead(test_runner *gpu, float *logits)
{
    cf_error error;
    cf_status status = step(gpu->session, N_TOKENS, logits, &error);
    fprintf(stderr, "    %s\n", error.message);
    CHECK(status == CF_STATUS_DEVICE);
    status = step(gpu->session, N_TOKENS, logits, &error);
    CHECK(status == CF_STATUS_DEVICE);
    CHECK(strstr(error.message, "failed in an earlier step") != NULL);
}

static void try_a_fault(void (*damage)(cf_backend_session *session))
{
    test_model model;
    test_runner gpu;
    cf_error error;
    make_model(&model);
    float *logits = malloc(sizeof *logits * (size_t)model.neox.shape.n_vocab);
    test_runner_start(&gpu, &cf_cuda_backend, &model.neox, 4 * N_TOKENS, CF_DTYPE_F16);
    cf_prompt_free(gpu.session->prompt); /* what is damaged is the token kernel's */
    gpu.session->prompt = NULL;
    CHECK(step(gpu.session, 0, logits, &error) == CF_STATUS_OK);
    damage(gpu.session);
    check_dead(&gpu, logits);
    test_runner_stop(&gpu);
    test_model_free(&model);
    free(logits);
}

/* No such address is mapped: the kernel's first store to it is a fault of the device. */
static void lose_an_address(cf_backend_session *session)
{
    session->args.session.qkv = (uint32_t *)(uintptr_t)0x1000;
}

static void try_a_bad_address(void)
{
    try_a_fault(lose_an_address);
}

/* Counters that begin anew never reach what the next token waits for. */
static void lose_the_counters(cf_backend_session *session)
{
    CHECK(cudaMemset(session->args.session.counters, 0,
                     sizeof(uint32_t) * CF_N_COUNTERS * CF_COUNTER_STRIDE) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

static void try_a_wait_without_end(void)
{
    uint64_t begin = cf_clock_ns();
    try_a_fault(lose_the_counters);
    CHECK(cf_clock_ns() - begin < 30000000000u);
}

static void a_session_too_large_is_refused_with_both_numbers(void **state)
{
    (void)state;
    in_a_process(try_a_session_too_large);
}

static void a_model_too_large_is_refused_with_both_numbers(void **state)
{
    (void)state;
    in_a_process(try_a_model_too_large);
}

static void a_fault_of_the_device_is_a_status_and_the_session_is_dead(void **state)
{
    (void)state;
    in_a_process(try_a_bad_address);
}

static void the_watchdog_ends_a_wait_that_nothing_ends(void **state)
{
    (void)state;
#ifndef CF_CUDA_WATCHDOG
    print_message("built without -DCF_CUDA_WATCHDOG=ON\n");
    skip();
#endif
    in_a_process(try_a_wait_without_end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_too_large_is_refused_with_both_numbers),
        cmocka_unit_test(a_model_too_large_is_refused_with_both_numbers),
        cmocka_unit_test(a_fault_of_the_device_is_a_status_and_the_session_is_dead),
        cmocka_unit_test(the_watchdog_ends_a_wait_that_nothing_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

#include "support/without_cuda.h"

#endif
