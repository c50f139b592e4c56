/* Floor 0: half floats, random numbers, errors, files, JSON. */
#include "support/support.h"

#include "base/file.h"
#include "base/half.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void every_f16_survives_the_way_to_float_and_back(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float value = cf_float_from_f16((uint16_t)bits);
        uint16_t back = cf_f16_from_float(value);
        if (isnan(value))
            assert_true((back & 0x7C00) == 0x7C00 && (back & 0x3FF) != 0);
        else
            assert_int_equal(back, bits);
    }
}

/* Halfway cases, and their neighbours, against the definition: the nearest, ties to even. */
static void f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7BFF; bits++) {
        float low = cf_float_from_f16((uint16_t)bits);
        float high = cf_float_from_f16((uint16_t)(bits + 1));
        float middle = (low + high) / 2;
        uint32_t even = bits % 2 == 0 ? bits : bits + 1;
        assert_int_equal(cf_f16_from_float(middle), even);
        assert_int_equal(cf_f16_from_float(-middle), even | 0x8000);
        assert_int_equal(cf_f16_from_float(nextafterf(middle, low)), bits);
        assert_int_equal(cf_f16_from_float(nextafterf(middle, high)), bits + 1);
    }
    assert_int_equal(cf_f16_from_float(65519.99f), 0x7BFF);
    assert_int_equal(cf_f16_from_float(65520.0f), 0x7C00);
    assert_int_equal(cf_f16_from_float(INFINITY), 0x7C00);
    assert_int_equal(cf_f16_from_float(1e-10f), 0);
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7F7F; bits++) {
        uint32_t low = bits << 16;
        uint32_t even = bits % 2 == 0 ? bits : bits + 1;
        assert_int_equal(cf_bf16_from_float(cf_float_from_bits(low)), bits);
        assert_int_equal(cf_bf16_from_float(cf_float_from_bits(low + 0x8000)), even);
        assert_int_equal(cf_bf16_from_float(cf_float_from_bits(low + 0x7FFF)), bits);
        assert_int_equal(cf_bf16_from_float(cf_float_from_bits(low + 0x8001)), bits + 1);
    }
    assert_true(isnan(cf_float_from_bf16(cf_bf16_from_float(NAN))));
}

/* The known answers that the authors of Philox publish with Random123. */
static void philox_gives_the_published_words(void **state)
{
    (void)state;
    uint32_t words[4];
    cf_philox(0, (uint32_t[4]){0, 0, 0, 0}, words);
    assert_int_equal(words[0], 0x6627e8d5);
    assert_int_equal(words[1], 0xe169c58d);
    assert_int_equal(words[2], 0xbc57ac4c);
    assert_int_equal(words[3], 0x9b00dbd8);
    cf_philox(UINT64_MAX, (uint32_t[4]){~0u, ~0u, ~0u, ~0u}, words);
    assert_int_equal(words[0], 0x408f276d);
    assert_int_equal(words[1], 0x41c83b0e);
    assert_int_equal(words[2], 0xa20bc7c6);
    assert_int_equal(words[3], 0x6d5451fd);
}

static void uniform_numbers_are_uniform(void **state)
{
    (void)state;
    enum { N = 100000, BINS = 20 };
    int counts[BINS] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double u = cf_random_uniform(42, i);
        assert_true(u >= 0 && u < 1);
        counts[(int)(u * BINS)]++;
    }
    double chi2 = 0, expected = (double)N / BINS;
    for (int i = 0; i < BINS; i++)
        chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
    assert_true(chi2 < 43.8); /* 19 degrees of freedom, one in a thousand */
}

static void a_long_message_is_cut_at_a_character(void **state)
{
    (void)state;
    char text[3000];
    for (size_t i = 0; i < sizeof text - 1; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    text[2998] = 0;
    cf_error error;
    cf_fail(&error, CF_STATUS_IO, "%s", text);
    size_t n = strlen(error.message);
    assert_int_equal(n, sizeof error.message - 2);
    assert_int_equal((unsigned char)error.message[n - 1], 0xa9);
    cf_fail(&error, CF_STATUS_IO, "x%s", text);
    assert_int_equal((unsigned char)error.message[strlen(error.message) - 1], 0xa9);
    assert_int_equal(cf_fail(NULL, CF_STATUS_IO, "nobody listens"), CF_STATUS_IO);
}

static void each_status_has_text_and_mappings(void **state)
{
    (void)state;
    assert_string_equal(cf_status_text(CF_STATUS_CONTEXT_FULL),
                        "more tokens than the context holds");
    assert_int_equal(cf_status_http(CF_STATUS_OUT_OF_MEMORY), 503);
    assert_string_equal(cf_status_python(CF_STATUS_NOT_FOUND), "FileNotFoundError");
    assert_string_equal(cf_status_text((cf_status)99), "unknown status");
    assert_int_equal(cf_status_http((cf_status)99), 500);
    assert_string_equal(cf_version(), "0.1.0");
}

static void files_that_cannot_be_mapped_are_named(void **state)
{
    (void)state;
    cf_error error;
    cf_file file;
    assert_fails(cf_file_map("/nowhere/at/all", &file, &error), CF_STATUS_NOT_FOUND, error,
                 "/nowhere/at/all");
    assert_fails(cf_file_map("/tmp", &file, &error), CF_STATUS_IO, error, "not a regular file");
    assert_fails(cf_file_map("/dev/null", &file, &error), CF_STATUS_IO, error, "/dev/null");
    const char *folder = test_scratch_create();
    assert_ok(cf_file_map(test_write(folder, "empty", "", 0), &file, &error), error);
    assert_int_equal(file.n_bytes, 0);
    assert_non_null(file.data);
    cf_file_unmap(&file);
    assert_ok(cf_file_map(test_write(folder, "three", "abc", 3), &file, &error), error);
    assert_memory_equal(file.data, "abc", 3);
    cf_file_unmap(&file);
    cf_file_unmap(&file);
    test_scratch_remove(folder);
}

static void json_is_parsed_strictly(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "{", "[01]", "[1e400]", "{} x", "[\"\xff\"]", "{\"a\":1,\"a\":2}", "[1,]", "nul"};
    cf_error error;
    json_t *value;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(cf_json_parse(bad[i], strlen(bad[i]), "name", &value, &error),
                     CF_STATUS_BAD_FILE, error, "name: line");
    char deep[10000];
    memset(deep, '[', sizeof deep);
    assert_fails(cf_json_parse(deep, sizeof deep, "deep", &value, &error), CF_STATUS_BAD_FILE,
                 error, "deep");
    assert_ok(cf_json_parse("{\"a\":[1,2]}", 11, "name", &value, &error), error);
    assert_string_equal(cf_json_kind(json_object_get(value, "a")), "an array");
    json_decref(value);
}

static void allocations_are_aligned_zeroed_and_checked(void **state)
{
    (void)state;
    cf_error error;
    float *values;
    assert_ok(CF_ALLOC(&values, 3, "values", &error), error);
    assert_int_equal((uintptr_t)values % CF_ALIGNMENT, 0);
    assert_true(values[0] == 0 && values[2] == 0);
    cf_dealloc(values);
    assert_fails(cf_alloc((void **)&values, SIZE_MAX / 2, 4, "too many", &error),
                 CF_STATUS_OUT_OF_MEMORY, error, "too many");
    assert_null(values);
    assert_fails(cf_alloc((void **)&values, (size_t)1 << 60, 1, "a lot", &error),
                 CF_STATUS_OUT_OF_MEMORY, error, "1152921504606846976 bytes");
    cf_dealloc(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_survives_the_way_to_float_and_back),
        cmocka_unit_test(f16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(philox_gives_the_published_words),
        cmocka_unit_test(uniform_numbers_are_uniform),
        cmocka_unit_test(a_long_message_is_cut_at_a_character),
        cmocka_unit_test(each_status_has_text_and_mappings),
        cmocka_unit_test(files_that_cannot_be_mapped_are_named),
        cmocka_unit_test(json_is_parsed_strictly),
        cmocka_unit_test(allocations_are_aligned_zeroed_and_checked),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
