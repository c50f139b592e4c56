/* What bench makes of the GPU's clock: sums over blocks and layers, and a file of Trace Events. */
#include "support/support.h"

#include "cli/bench.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_LAYERS = 6, N_BLOCKS = 3 };

/* Times are written to a nanosecond. */
static void assert_near(double found, double expected)
{
    assert_true(fabs(found - expected) <= 0.501e-3);
}

/* In layer l of block b, two stages of 1 + l + b and 10 µs; the first layers' are far too long. */
static void make(cf_stages *stages)
{
    *stages = (cf_stages){.n_layers = N_LAYERS, .pos = 7};
    stages->spans = calloc((size_t)N_BLOCKS * (N_LAYERS + 1) * 2, sizeof *stages->spans);
    for (int32_t block = 0; block < N_BLOCKS; block++)
        for (int32_t layer = 0; layer <= N_LAYERS; layer++) {
            double begin = 100.0 * layer + 0.25 * block, us = 1 + layer + block;
            cf_span norm = {"LayerNorm", "vectors", block, layer, begin, begin + us};
            cf_span products = {layer == N_LAYERS ? "LM head" : "products",
                                "consumers",
                                block,
                                layer,
                                begin + us,
                                begin + us + 10};
            if (layer < 2)
                norm.end_us += 50;
            stages->spans[stages->n_spans++] = norm;
            stages->spans[stages->n_spans++] = products;
        }
}

static void times_are_over_blocks_and_on_average_over_layers(void **state)
{
    cf_stages stages;
    cf_stage_times times[CF_MAX_STAGES];
    (void)state;
    make(&stages);
    assert_int_equal(cf_stages_sum_up(&stages, times), 3);
    assert_string_equal(times[0].stage, "LayerNorm");
    assert_string_equal(times[0].role, "vectors");
    /* Layers 2 to 5, 3.5 on average, blocks 0 to 2; the LM head's LayerNorm is not among them. */
    assert_near(times[0].mean_us, 1 + 3.5 + 1);
    assert_near(times[0].min_us, 1 + 3.5);
    assert_near(times[0].max_us, 1 + 3.5 + 2);
    assert_string_equal(times[1].stage, "products");
    assert_near(times[1].mean_us, 10);
    assert_string_equal(times[2].stage, "LM head");
    assert_near(times[2].max_us, 10);
    cf_stages_free(&stages);
}

/* A complete event's numbers, against the span that it is of. */
static void check_event(const json_t *event, const cf_span *span)
{
    assert_string_equal(json_string_value(json_object_get(event, "name")), span->stage);
    assert_int_equal(json_integer_value(json_object_get(event, "pid")), span->block);
    assert_near(json_number_value(json_object_get(event, "ts")), span->begin_us);
    assert_near(json_number_value(json_object_get(event, "dur")), span->end_us - span->begin_us);
    const json_t *args = json_object_get(event, "args");
    assert_int_equal(json_integer_value(json_object_get(args, "layer")), span->layer);
}

static void a_trace_is_json_with_an_event_a_span_and_names(void **state)
{
    const char *title = "a \"model\", \\ of é";
    const char *folder = test_scratch_create();
    char path[512];
    cf_stages stages;
    cf_error error;
    size_t n_names = 0, n_bytes, i;
    json_t *event;
    (void)state;
    make(&stages);
    snprintf(path, sizeof path, "%s/trace.json", folder);
    assert_ok(cf_stages_write(&stages, path, title, &error), error);
    char *text = test_read(path, &n_bytes);
    json_t *trace = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(trace);
    const json_t *other = json_object_get(trace, "otherData");
    assert_string_equal(json_string_value(json_object_get(other, "title")), title);
    json_array_foreach(json_object_get(trace, "traceEvents"), i, event)
    {
        const char *phase = json_string_value(json_object_get(event, "ph"));
        if (i < stages.n_spans) {
            assert_string_equal(phase, "X");
            check_event(event, &stages.spans[i]);
        } else {
            assert_string_equal(phase, "M");
            n_names++;
        }
    }
    assert_int_equal(n_names, N_BLOCKS * 3); /* of a process and its two tracks */
    json_decref(trace);
    free(text);
    cf_stages_free(&stages);
    test_scratch_remove(folder);
}

/* The largest there may be: 64 layers, 160 blocks, a dozen stages, times of seconds. */
static void a_trace_stays_below_20_megabytes(void **state)
{
    const char *folder = test_scratch_create();
    char path[512];
    cf_stages stages = {.n_layers = 64};
    cf_error error;
    size_t n_bytes;
    (void)state;
    stages.spans = calloc((size_t)160 * 65 * 12, sizeof *stages.spans);
    for (size_t i = 0; i < (size_t)160 * 65 * 12; i++)
        stages.spans[stages.n_spans++] = (cf_span){
            "gather attention", "consumers", (int32_t)(i % 160), (int32_t)(i / 160 % 65), 1e5, 2e5};
    snprintf(path, sizeof path, "%s/trace.json", folder);
    assert_ok(cf_stages_write(&stages, path, "", &error), error);
    free(test_read(path, &n_bytes));
    assert_true(n_bytes < 20000000);
    cf_stages_free(&stages);
    test_scratch_remove(folder);
}

static void a_trace_that_cannot_be_written_is_an_error(void **state)
{
    cf_stages stages;
    cf_error error;
    (void)state;
    make(&stages);
    assert_fails(cf_stages_write(&stages, "/nowhere/at/all.json", "", &error), CF_STATUS_IO, error,
                 "/nowhere/at/all.json: cannot be written");
    assert_fails(cf_stages_write(&stages, "/dev/full", "", &error), CF_STATUS_IO, error,
                 "/dev/full: cannot be written");
    cf_stages_free(&stages);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_over_blocks_and_on_average_over_layers),
        cmocka_unit_test(a_trace_is_json_with_an_event_a_span_and_names),
        cmocka_unit_test(a_trace_stays_below_20_megabytes),
        cmocka_unit_test(a_trace_that_cannot_be_written_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
