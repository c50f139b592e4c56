/* How workers share out items: each is taken once, whoever is slow or late. */
#include "backend/cpu/team.h"
#include "support/support.h"

#include <omp.h>
#include <string.h>

#define MAX_WORKERS 5
#define MAX_ITEMS 1000
#define ROUNDS 200

typedef struct count {
    atomic_int taken[MAX_ITEMS];
} count;

/* Worker 0 dawdles, so that the others take what is its. */
static void take_all(cf_team *team, cf_worker worker, size_t n_items, count *counts)
{
    cf_team_share(team, worker, n_items);
    for (size_t item; (item = cf_team_take(team, worker)) < n_items;) {
        atomic_fetch_add(&counts->taken[item], 1);
        for (int i = 0; i < 50 && worker.index == 0; i++)
            cf_team_pause();
    }
    cf_team_wait(team, worker);
}

static void check_rounds(int n_workers, size_t n_items)
{
    static count counts[ROUNDS];
    cf_share shares[MAX_WORKERS] = {0};
    cf_team team = {.shares = shares};
    memset(counts, 0, sizeof counts);
#pragma omp parallel num_threads(n_workers)
    {
        cf_worker worker = {(size_t)omp_get_thread_num(), (size_t)omp_get_num_threads()};
        for (int round = 0; round < ROUNDS; round++)
            take_all(&team, worker, n_items, &counts[round]);
    }
    for (int round = 0; round < ROUNDS; round++)
        for (size_t item = 0; item < n_items; item++)
            assert_int_equal(atomic_load(&counts[round].taken[item]), 1);
}

static void test_every_item_is_taken_once(void **state)
{
    (void)state;
    for (int n_workers = 1; n_workers <= MAX_WORKERS; n_workers++)
        for (size_t n_items = 0; n_items <= MAX_ITEMS; n_items = n_items * 3 + 1)
            check_rounds(n_workers, n_items);
}

static void test_a_worker_alone_takes_items_in_order(void **state)
{
    (void)state;
    cf_share share = {0};
    cf_team team = {.shares = &share};
    cf_worker worker = {0, 1};
    cf_team_share(&team, worker, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(cf_team_take(&team, worker), i);
    assert_int_equal(cf_team_take(&team, worker), SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_is_taken_once),
        cmocka_unit_test(test_a_worker_alone_takes_items_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
