/* Encoding and decoding, against vectors of the reference tokenizer. */
#include "support/support.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const small_folder = "tests/data/tokenizer";

static cf_tokenizer *open_tokenizer(const char *path)
{
    cf_error error;
    cf_tokenizer *tokenizer;
    assert_ok(cf_tokenizer_open(path, &tokenizer, &error), error);
    return tokenizer;
}

static cf_tokenizer *open_small(void)
{
    return open_tokenizer(test_path(small_folder));
}

/* Encodes into memory that is just large enough by the header's bound; free() it. */
static cf_token *encode(const cf_tokenizer *tokenizer, const char *text, size_t n_bytes,
                        uint32_t flags, size_t *n_ids)
{
    cf_error error;
    cf_token *ids = malloc((3 * n_bytes + 1) * sizeof *ids);
    assert_non_null(ids);
    assert_ok(cf_tokenizer_encode(tokenizer, text, n_bytes, flags, ids, 3 * n_bytes, n_ids, &error),
              error);
    return ids;
}

static char *decode(const cf_tokenizer *tokenizer, const cf_token *ids, size_t n_ids,
                    uint32_t flags, size_t *n_bytes)
{
    cf_error error;
    cf_status status = cf_tokenizer_decode(tokenizer, ids, n_ids, flags, NULL, 0, n_bytes, &error);
    assert_true(status == CF_STATUS_OK || status == CF_STATUS_BUFFER_TOO_SMALL);
    size_t capacity = *n_bytes;
    char *text = malloc(capacity + 1);
    assert_non_null(text);
    assert_ok(cf_tokenizer_decode(tokenizer, ids, n_ids, flags, text, capacity, n_bytes, &error),
              error);
    assert_int_equal(*n_bytes, capacity);
    text[capacity] = 0;
    return text;
}

static void assert_ids(const json_t *expected, const cf_token *ids, size_t n_ids, const char *what)
{
    bool same = json_array_size(expected) == n_ids;
    for (size_t i = 0; same && i < n_ids; i++)
        same = json_integer_value(json_array_get(expected, i)) == ids[i];
    if (!same)
        fail_msg("wrong ids for the text %s", what);
}

static void check_decoding(const cf_tokenizer *tokenizer, const json_t *vector)
{
    const json_t *ids = json_object_get(vector, "ids");
    size_t n_ids = json_array_size(ids), n_bytes;
    cf_token *array = malloc((n_ids + 1) * sizeof *array);
    for (size_t i = 0; i < n_ids; i++)
        array[i] = (cf_token)json_integer_value(json_array_get(ids, i));
    char *text = decode(tokenizer, array, n_ids, 0, &n_bytes);
    const json_t *decoded = json_object_get(vector, "decoded");
    assert_int_equal(n_bytes, json_string_length(decoded));
    assert_memory_equal(text, json_string_value(decoded), n_bytes);
    free(text);
    free(array);
}

/* The text of a vector: its "hex" as bytes, or its "text"; free() it. */
static char *read_text(const json_t *vector, size_t *n_bytes)
{
    const json_t *hex = json_object_get(vector, "hex");
    const json_t *value = hex != NULL ? hex : json_object_get(vector, "text");
    assert_true(json_is_string(value));
    const char *string = json_string_value(value);
    *n_bytes = hex != NULL ? strlen(string) / 2 : json_string_length(value);
    char *text = malloc(*n_bytes + 1);
    assert_non_null(text);
    for (size_t i = 0; i < *n_bytes; i++)
        text[i] = hex == NULL
                      ? string[i]
                      : (char)strtol((char[3]){string[2 * i], string[2 * i + 1], 0}, NULL, 16);
    return text;
}

static void check_vector(const cf_tokenizer *tokenizer, const json_t *vector, const char *line)
{
    size_t n_bytes, n_ids;
    char *text = read_text(vector, &n_bytes);
    cf_token *ids = encode(tokenizer, text, n_bytes, 0, &n_ids);
    assert_ids(json_object_get(vector, "ids"), ids, n_ids, line);
    free(ids);
    const json_t *ordinary = json_object_get(vector, "ordinary");
    if (ordinary != NULL) {
        ids = encode(tokenizer, text, n_bytes, CF_ENCODE_NO_SPECIAL, &n_ids);
        assert_ids(ordinary, ids, n_ids, line);
        free(ids);
    }
    free(text);
    check_decoding(tokenizer, vector);
}

/* One JSON object a line; returns how many. */
static int check_vectors(const cf_tokenizer *tokenizer, const char *path)
{
    int n_vectors = 0;
    char *lines = test_read(path, NULL);
    for (char *rest = lines, *line; (line = strtok_r(rest, "\n", &rest)) != NULL; n_vectors++) {
        json_t *vector = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(vector);
        check_vector(tokenizer, vector, line);
        json_decref(vector);
    }
    free(lines);
    return n_vectors;
}

static void the_small_tokenizer_agrees_with_the_reference(void **state)
{
    (void)state;
    cf_tokenizer *tokenizer = open_small();
    char path[4096];
    snprintf(path, sizeof path, "%s/vectors.jsonl", test_path(small_folder));
    assert_true(check_vectors(tokenizer, path) > 200);
    cf_tokenizer_close(tokenizer);
}

static void the_bundled_tokenizer_agrees_with_the_reference(void **state)
{
    (void)state;
    if (access(test_path("models/classics/tokenizer.json"), R_OK) != 0)
        skip();
    cf_tokenizer *tokenizer = open_tokenizer(test_path("models/classics"));
    const char *vectors = test_path("tests/data/classics_golden/tokenizer_vectors.jsonl");
    assert_true(check_vectors(tokenizer, vectors) > 0);
    cf_tokenizer_close(tokenizer);
}

static void the_pythia_tokenizer_agrees_with_the_reference(void **state)
{
    (void)state;
    const char *path = test_shared_path("20B_tokenizer.json");
    const char *vectors = test_shared_path("tokenizer_vectors.jsonl");
    if (path == NULL || vectors == NULL)
        skip();
    cf_tokenizer *tokenizer = open_tokenizer(path);
    assert_int_equal(cf_tokenizer_n_vocab(tokenizer), 50277);
    assert_int_equal(check_vectors(tokenizer, vectors), 192);
    cf_tokenizer_close(tokenizer);
}

static void tokens_are_found_by_their_text(void **state)
{
    (void)state;
    cf_tokenizer *tokenizer = open_small();
    size_t n_bytes;
    cf_token end = cf_tokenizer_find(tokenizer, "<|endoftext|>");
    assert_int_equal(end, 0);
    assert_true(cf_tokenizer_is_special(tokenizer, end));
    assert_string_equal(cf_tokenizer_bytes(tokenizer, end, &n_bytes), "<|endoftext|>");
    cf_token the = cf_tokenizer_find(tokenizer, " the");
    assert_true(the > 0 && !cf_tokenizer_is_special(tokenizer, the));
    assert_memory_equal(cf_tokenizer_bytes(tokenizer, the, &n_bytes), " the", 4);
    assert_int_equal(n_bytes, 4);
    assert_int_equal(cf_tokenizer_find(tokenizer, "no such token"), -1);
    assert_int_equal(cf_tokenizer_find(tokenizer, ""), -1);
    for (cf_token id = -1; id <= (cf_token)cf_tokenizer_n_vocab(tokenizer); id++)
        cf_tokenizer_bytes(tokenizer, id, &n_bytes);
    assert_int_equal(n_bytes, 0);
    assert_false(cf_tokenizer_is_special(tokenizer, -1));
    assert_false(cf_tokenizer_is_special(tokenizer, INT32_MAX));
    cf_tokenizer_close(tokenizer);
}

static void every_id_is_found_again_by_its_text(void **state)
{
    (void)state;
    cf_tokenizer *tokenizer = open_small();
    size_t n_vocab = cf_tokenizer_n_vocab(tokenizer), n_bytes;
    for (cf_token id = 0; id < (cf_token)n_vocab; id++) {
        char text[512] = {0};
        const char *bytes = cf_tokenizer_bytes(tokenizer, id, &n_bytes);
        memcpy(text, bytes, n_bytes);
        if (n_bytes > 0 && strlen(text) == n_bytes) {
            cf_token found = cf_tokenizer_find(tokenizer, text);
            /* A run of spaces is an added token too, and that one is found. */
            assert_true(found == id || (found > id && strspn(text, " ") == n_bytes));
        }
    }
    cf_tokenizer_close(tokenizer);
}

static void a_short_buffer_gets_the_beginning_and_the_full_number(void **state)
{
    (void)state;
    cf_error error;
    cf_tokenizer *tokenizer = open_small();
    const char *text = "the end of the story";
    cf_token *all, some[3] = {-7, -7, -7};
    size_t n_all, n;
    all = encode(tokenizer, text, strlen(text), 0, &n_all);
    assert_true(n_all > 3);
    cf_status status = cf_tokenizer_encode(tokenizer, text, strlen(text), 0, some, 2, &n, &error);
    assert_fails(status, CF_STATUS_BUFFER_TOO_SMALL, error, "tokens");
    assert_int_equal(n, n_all);
    assert_memory_equal(some, all, 2 * sizeof *some);
    assert_int_equal(some[2], -7);
    char begin[5] = "?????";
    status = cf_tokenizer_decode(tokenizer, all, n_all, 0, begin, 4, &n, &error);
    assert_fails(status, CF_STATUS_BUFFER_TOO_SMALL, error, "bytes");
    assert_int_equal(n, strlen(text));
    assert_memory_equal(begin, "the ?", 5);
    free(all);
    cf_tokenizer_close(tokenizer);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    cf_error error;
    size_t n = 1;
    cf_token id = -1;
    cf_decoder *decoder;
    cf_tokenizer *tokenizer = open_small();
    assert_fails(cf_tokenizer_encode(NULL, "a", 1, 0, NULL, 0, &n, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "tokenizer");
    assert_fails(cf_tokenizer_encode(tokenizer, NULL, 1, 0, NULL, 0, &n, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "text");
    assert_fails(cf_tokenizer_encode(tokenizer, "a", 1, 0, NULL, 1, &n, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "ids");
    assert_fails(cf_tokenizer_encode(tokenizer, "a", 1, 8, NULL, 0, &n, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "flags");
    assert_fails(cf_tokenizer_decode(tokenizer, &id, 1, 0, NULL, 0, &n, &error),
                 CF_STATUS_INVALID_ARGUMENT, error, "-1");
    assert_int_equal(n, 0);
    assert_fails(cf_decoder_create(tokenizer, 8, &decoder, &error), CF_STATUS_INVALID_ARGUMENT,
                 error, "flags");
    assert_null(decoder);
    cf_tokenizer_close(tokenizer);
    assert_fails(cf_tokenizer_open(NULL, &tokenizer, &error), CF_STATUS_INVALID_ARGUMENT, error,
                 "path");
    assert_null(tokenizer);
    cf_tokenizer_close(NULL);
    cf_decoder_free(NULL);
}

/* Joins what a decoder gives for the ids one by one; every piece must be whole characters. */
static char *stream(cf_decoder *decoder, const cf_token *ids, size_t n_ids, size_t *n_bytes)
{
    cf_error error;
    char *joined = malloc(n_ids * 256 + 8);
    *n_bytes = 0;
    for (size_t i = 0; i <= n_ids; i++) {
        const char *text;
        size_t n;
        if (i < n_ids)
            assert_ok(cf_decoder_push(decoder, ids[i], &text, &n, &error), error);
        else
            cf_decoder_finish(decoder, &text, &n);
        json_t *whole = json_stringn(text, n); /* NULL unless it is valid UTF-8 */
        assert_non_null(whole);
        json_decref(whole);
        memcpy(joined + *n_bytes, text, n);
        *n_bytes += n;
    }
    return joined;
}

static void streaming_gives_the_text_of_the_whole(void **state)
{
    (void)state;
    cf_error error;
    cf_tokenizer *tokenizer = open_small();
    size_t n_vocab = cf_tokenizer_n_vocab(tokenizer);
    for (uint32_t flags = 0; flags <= CF_DECODE_SKIP_SPECIAL; flags++) {
        cf_decoder *decoder;
        assert_ok(cf_decoder_create(tokenizer, flags, &decoder, &error), error);
        for (uint64_t round = 0; round < 2000; round++) {
            cf_token ids[32];
            size_t n_ids = round % 32, n_whole, n_streamed;
            /* The first 258 ids are single bytes for the most part: broken characters abound. */
            for (size_t i = 0; i < n_ids; i++)
                ids[i] = (cf_token)(cf_random_uniform(round, i) *
                                    (round % 3 == 0 ? (double)n_vocab + 5 : 258));
            char *whole = decode(tokenizer, ids, n_ids, flags, &n_whole);
            char *streamed = stream(decoder, ids, n_ids, &n_streamed);
            assert_int_equal(n_streamed, n_whole);
            assert_memory_equal(streamed, whole, n_whole);
            free(whole);
            free(streamed);
        }
        cf_decoder_free(decoder);
    }
    cf_tokenizer_close(tokenizer);
}

static void special_tokens_can_be_left_out(void **state)
{
    (void)state;
    cf_tokenizer *tokenizer = open_small();
    const char *text = "one<|endoftext|>two<tag>";
    size_t n_ids, n_bytes;
    cf_token *ids = encode(tokenizer, text, strlen(text), 0, &n_ids);
    char *shown = decode(tokenizer, ids, n_ids, 0, &n_bytes);
    assert_string_equal(shown, text);
    char *skipped = decode(tokenizer, ids, n_ids, CF_DECODE_SKIP_SPECIAL, &n_bytes);
    assert_string_equal(skipped, "onetwo<tag>");
    free(shown);
    free(skipped);
    free(ids);
    cf_tokenizer_close(tokenizer);
}

/* Text in Normalization Form C comes back as it was. */
static void a_long_text_survives_the_way_to_ids_and_back(void **state)
{
    (void)state;
    const char *path = test_shared_path("classics.txt");
    if (path == NULL)
        skip();
    cf_tokenizer *tokenizer = open_small();
    size_t n_text, n_ids, n_bytes;
    char *text = test_read(path, &n_text);
    cf_token *ids = encode(tokenizer, text, n_text, 0, &n_ids);
    char *back = decode(tokenizer, ids, n_ids, 0, &n_bytes);
    assert_int_equal(n_bytes, n_text);
    assert_memory_equal(back, text, n_text);
    free(back);
    free(ids);
    free(text);
    cf_tokenizer_close(tokenizer);
}

static double encode_seconds(const cf_tokenizer *tokenizer, const char *unit, size_t n_bytes)
{
    size_t n_unit = strlen(unit), n_ids;
    char *text = malloc(n_bytes + n_unit);
    for (size_t i = 0; i < n_bytes; i += n_unit)
        memcpy(text + i, unit, n_unit);
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        uint64_t start = cf_clock_ns();
        free(encode(tokenizer, text, n_bytes, 0, &n_ids));
        double seconds = (double)(cf_clock_ns() - start) * 1e-9;
        best = seconds < best ? seconds : best;
    }
    free(text);
    return best;
}

/*
 * Sixteen times the text takes sixteen times as long, times a logarithm and what caches do;
 * quadratic cost would be 256 times. The bound stands between, with room for a busy machine.
 */
static void no_text_makes_encoding_quadratic(void **state)
{
    (void)state;
    static const char *const units[] = {
        " ",
        "a",
        "the",
        "qzjxkv",
        "'",
        "\n",
        "\t ",
        "\xCC\x81",
        "\xCC\x81\xCC\xA7",
        "a\xCC\x81",
        "\xFF",
        "\xE2\x82",
        "\xEF\xBF\xBD",
        "<|endoftext|",
        "\xE1\x84\x80\xE1\x85\xA1",
        "1",
        "\xE3\x80\x80",
    };
    cf_tokenizer *tokenizer = open_small();
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        double little = encode_seconds(tokenizer, units[i], 16 << 10);
        double much = encode_seconds(tokenizer, units[i], 256 << 10);
        if (much > 90 * little + 0.02)
            fail_msg("unit %zu: %.6f s for 16 KiB, %.6f s for 256 KiB", i, little, much);
    }
    cf_tokenizer_close(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_small_tokenizer_agrees_with_the_reference),
        cmocka_unit_test(the_bundled_tokenizer_agrees_with_the_reference),
        cmocka_unit_test(the_pythia_tokenizer_agrees_with_the_reference),
        cmocka_unit_test(tokens_are_found_by_their_text),
        cmocka_unit_test(every_id_is_found_again_by_its_text),
        cmocka_unit_test(a_short_buffer_gets_the_beginning_and_the_full_number),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(streaming_gives_the_text_of_the_whole),
        cmocka_unit_test(special_tokens_can_be_left_out),
        cmocka_unit_test(a_long_text_survives_the_way_to_ids_and_back),
        cmocka_unit_test(no_text_makes_encoding_quadratic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
