/*
 * The same bits a thousand times: alone, beside copies on another stream of the process, and beside
 * another process that keeps the same GPU busy. Skipped by name where there is no GPU.
 */
#include "support/random_model.h"
#include "support/runner.h"
#include "support/support.h"

#ifdef CF_HAVE_CUDA

#include "backend/cuda/host/cuda.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_TOKENS = 80, N_RUNS = 1000, N_STEP = 16 };

/* Tokens are evaluated again from a position that differs each time: a rewind to it. */
static void repeat(const char *beside)
{
    cf_shape shape = test_small_shape(64, 8);
    size_t n_vocab = (size_t)shape.n_vocab;
    cf_token ids[N_TOKENS];
    test_model model;
    test_runner gpu;
    float *first = malloc(n_vocab * sizeof *first), *again = malloc(n_vocab * sizeof *again);
    test_model_create(&model, &shape, CF_DTYPE_F16, 13);
    test_make_ids(ids, N_TOKENS, shape.n_vocab);
    test_runner_start(&gpu, &cf_cuda_backend, &model.neox, N_TOKENS, CF_DTYPE_F16);
    test_runner_advance(&gpu, ids, N_TOKENS, 1, first);
    for (size_t run = 0; run < N_RUNS; run++) {
        memset(again, 0xFF, n_vocab * sizeof *again);
        gpu.pos = N_TOKENS - 1 - run % (N_TOKENS / 4);
        test_runner_advance(&gpu, ids, N_TOKENS, 1, again);
        assert_memory_equal(first, again, n_vocab * sizeof *first);
    }
    print_message("    %d runs %s: the same bits\n", N_RUNS, beside);
    test_runner_stop(&gpu);
    test_model_free(&model);
    free(first), free(again);
}

/* What loads the GPU's memory until it is told to stop. */
typedef struct hammer {
    pthread_t thread;
    atomic_bool stop;
    atomic_uint n_rounds;
} hammer;

#define HAMMER_BYTES ((size_t)64 << 20)

/* Copies from the host by the copy engine, and within the device. */
static void *copy_memory(void *argument)
{
    hammer *self = argument;
    char *device = NULL, *host = NULL;
    cudaStream_t stream = NULL;
    if (cudaMalloc((void **)&device, 2 * HAMMER_BYTES) != cudaSuccess ||
        cudaMallocHost((void **)&host, HAMMER_BYTES) != cudaSuccess ||
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
        return NULL;
    while (!atomic_load(&self->stop)) {
        cudaMemcpyAsync(device, host, HAMMER_BYTES, cudaMemcpyHostToDevice, stream);
        cudaMemcpyAsync(device + HAMMER_BYTES, device, HAMMER_BYTES, cudaMemcpyDeviceToDevice,
                        stream);
        if (cudaStreamSynchronize(stream) == cudaSuccess)
            atomic_fetch_add(&self->n_rounds, 1);
    }
    cudaStreamDestroy(stream);
    cudaFreeHost(host);
    cudaFree(device);
    return self;
}

static void tokens_give_the_same_bits_alone(void **state)
{
    (void)state;
    test_skip_without(&cf_cuda_backend);
    repeat("alone");
}

static void tokens_give_the_same_bits_beside_copies(void **state)
{
    hammer copies = {0};
    void *came_up = NULL;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    assert_int_equal(pthread_create(&copies.thread, NULL, copy_memory, &copies), 0);
    repeat("beside copies");
    atomic_store(&copies.stop, true);
    assert_int_equal(pthread_join(copies.thread, &came_up), 0);
    print_message("    %u rounds of copies meanwhile\n", atomic_load(&copies.n_rounds));
    assert_non_null(came_up);
    assert_true(atomic_load(&copies.n_rounds) > 0);
}

/* A process that reads as fast as the GPU can; it says so through the pipe, and is killed. */
static void read_forever(int ready)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, 8 * HAMMER_BYTES) != cudaSuccess ||
        cudaMemset(memory, 1, 8 * HAMMER_BYTES) != cudaSuccess)
        _exit(1);
    for (size_t n = 0;; n++) {
        if (cf_read_memory(memory, 8 * HAMMER_BYTES, 64, NULL) != cudaSuccess ||
            cudaDeviceSynchronize() != cudaSuccess)
            _exit(1);
        if (n == 10 && write(ready, "r", 1) != 1)
            _exit(1);
    }
}

/* Begins before this process has met the GPU: what CUDA has set up does not survive a fork. */
static pid_t other_process;
static int other_is_ready[2];

static int begin_other_process(void **state)
{
    (void)state;
    if (pipe(other_is_ready) != 0)
        return -1;
    other_process = fork();
    if (other_process == 0) {
        close(other_is_ready[0]);
        raise(SIGSTOP); /* until its test comes */
        read_forever(other_is_ready[1]);
    }
    close(other_is_ready[1]);
    return other_process > 0 ? 0 : -1;
}

static int end_other_process(void **state)
{
    (void)state;
    kill(other_process, SIGKILL);
    waitpid(other_process, NULL, 0);
    return 0;
}

static void tokens_give_the_same_bits_beside_another_process(void **state)
{
    char ready = 0;
    (void)state;
    test_skip_without(&cf_cuda_backend);
    kill(other_process, SIGCONT);
    assert_int_equal(read(other_is_ready[0], &ready, 1), 1);
    repeat("beside another process");
    assert_int_equal(waitpid(other_process, NULL, WNOHANG), 0); /* it still runs */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_give_the_same_bits_alone),
        cmocka_unit_test(tokens_give_the_same_bits_beside_copies),
        cmocka_unit_test(tokens_give_the_same_bits_beside_another_process),
    };
    return cmocka_run_group_tests(tests, begin_other_process, end_other_process);
}

#else

#include "support/without_cuda.h"

#endif
