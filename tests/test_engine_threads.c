/* One model shared by threads, each with sessions of its own, on the CPU backend. */
#include "support/support.h"
#include "support/tiny_model.h"

#include <pthread.h>
#include <string.h>

enum { N_THREADS = 4, N_ROUNDS = 6, N_TOKENS = 30 };

typedef struct worker {
    const cf_model *model;
    uint64_t seed;
    cf_token ids[N_TOKENS];
    float logprobs[N_TOKENS];
    size_t n;
    uint64_t logits_hash;
    char hash[33];
    cf_status status;
    cf_error error;
} worker;

static bool write_down(void *user, const cf_event *event)
{
    worker *to = user;
    if (event->kind == CF_EVENT_TOKEN)
        to->ids[to->n++] = event->token;
    return true;
}

static cf_status work(worker *to)
{
    static const cf_token prompt[] = {5, 17, 80, 3, 44};
    cf_session *session;
    cf_session_options options = {.size = sizeof options, .n_threads = 1};
    cf_status status = cf_session_create(to->model, &options, &session, &to->error);
    if (status != CF_STATUS_OK)
        return status;
    cf_sampling sampling = {.size = sizeof sampling, .temperature = 1, .seed = to->seed};
    cf_generate_options generate = {
        .size = sizeof generate, .sampling = &sampling, .ignore_eos = true};
    cf_generate_stats stats;
    status = cf_generate(session, NULL, prompt, 5, N_TOKENS, &generate, write_down, to, &stats,
                         &to->error);
    to->logits_hash = stats.logits_hash;
    if (status == CF_STATUS_OK)
        status = cf_score(session, to->ids, N_TOKENS, NULL, to->logprobs, NULL, &to->error);
    if (status == CF_STATUS_OK)
        status = cf_model_hash(to->model, NULL, NULL, to->hash, &to->error);
    cf_session_free(session);
    return status;
}

static void *run(void *user)
{
    worker *to = user;
    to->status = work(to);
    return NULL;
}

static void threads_get_what_one_alone_gets(void **state)
{
    (void)state;
    tiny_model tiny;
    cf_shape shape = tiny_shape();
    tiny_model_create(&tiny, &shape, 3, NULL);
    for (uint64_t round = 0; round < N_ROUNDS; round++) {
        worker alone[N_THREADS], together[N_THREADS];
        pthread_t threads[N_THREADS];
        for (uint64_t i = 0; i < N_THREADS; i++) {
            alone[i] = (worker){.model = tiny.model, .seed = round * N_THREADS + i};
            together[i] = alone[i];
            assert_int_equal(pthread_create(&threads[i], NULL, run, &together[i]), 0);
        }
        for (size_t i = 0; i < N_THREADS; i++)
            assert_int_equal(pthread_join(threads[i], NULL), 0);
        for (size_t i = 0; i < N_THREADS; i++) {
            run(&alone[i]);
            assert_ok(alone[i].status, alone[i].error);
            assert_ok(together[i].status, together[i].error);
            assert_int_equal(together[i].n, N_TOKENS);
            assert_memory_equal(alone[i].ids, together[i].ids, sizeof alone[i].ids);
            assert_memory_equal(alone[i].logprobs + 1, together[i].logprobs + 1,
                                (N_TOKENS - 1) * sizeof(float));
            assert_true(alone[i].logits_hash == together[i].logits_hash);
            assert_string_equal(alone[i].hash, together[i].hash);
        }
    }
    tiny_model_free(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_get_what_one_alone_gets),
    };
    return cmocka_run_group_tests_name("engine_threads", tests, NULL, NULL);
}
