/* tokenizer.json from outside: what is refused, and how; what is accepted. */
#include "support/support.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *scratch;

static json_t *small_json(void)
{
    char *text = test_read(test_path("tests/data/tokenizer/tokenizer.json"), NULL);
    json_t *root = json_loads(text, 0, NULL);
    free(text);
    assert_non_null(root);
    return root;
}

/* Writes the value as a tokenizer.json, takes it over, and opens that. */
static cf_status open_json(json_t *root, cf_tokenizer **tokenizer, cf_error *error)
{
    char *text = json_dumps(root, JSON_ENCODE_ANY | JSON_COMPACT);
    json_decref(root);
    const char *path = test_write(scratch, "tokenizer.json", text, strlen(text));
    free(text);
    return cf_tokenizer_open(path, tokenizer, error);
}

/*
 * Changes one value of the small tokenizer's file. `path` leads to it: keys and indices with "/"
 * between; `value` is JSON, NULL to remove it.
 */
static json_t *changed(const char *path, const char *value)
{
    json_t *root = small_json(), *at = root;
    char keys[256];
    snprintf(keys, sizeof keys, "%s", path);
    char *rest = keys, *key = strtok_r(rest, "/", &rest);
    for (char *next; (next = strtok_r(rest, "/", &rest)) != NULL; key = next)
        at = json_is_array(at) ? json_array_get(at, (size_t)atol(key)) : json_object_get(at, key);
    json_t *fresh = value == NULL ? NULL : json_loads(value, JSON_DECODE_ANY, NULL);
    assert_true(value == NULL || fresh != NULL);
    int failed;
    if (json_is_array(at) && fresh != NULL)
        failed = json_array_insert_new(at, (size_t)atol(key), fresh);
    else
        failed = fresh == NULL ? json_object_del(at, key) : json_object_set_new(at, key, fresh);
    assert_int_equal(failed, 0);
    return root;
}

typedef struct bad_change {
    const char *path, *value;
    cf_status status;
    const char *message; /* part of it */
} bad_change;

#define BAD CF_STATUS_BAD_FILE
#define NOT CF_STATUS_UNSUPPORTED

static const bad_change bad_changes[] = {
    {"model", NULL, BAD, "model is missing"},
    {"model", "[]", BAD, "model is an array"},
    {"model/type", NULL, BAD, "without one"},
    {"model/type", "\"WordPiece\"", NOT, "\"WordPiece\""},
    {"model/dropout", "0.1", NOT, "dropout"},
    {"model/dropout", "\"x\"", NOT, "dropout"},
    {"model/byte_fallback", "true", NOT, "byte_fallback"},
    {"model/byte_fallback", "1", BAD, "byte_fallback is an integer"},
    {"model/ignore_merges", "\"\"", BAD, "ignore_merges is a string"},
    {"model/continuing_subword_prefix", "\"##\"", NOT, "continuing_subword_prefix"},
    {"model/end_of_word_suffix", "\"</w>\"", NOT, "end_of_word_suffix"},
    {"model/vocab", NULL, BAD, "model.vocab is missing"},
    {"model/vocab", "[1]", BAD, "model.vocab is an array"},
    {"model/vocab", "{}", NOT, "no token for the byte 0x00"},
    {"model/vocab/a", NULL, NOT, "no token for the byte 0x61"},
    {"model/vocab/\xC4\xA0", NULL, NOT, "no token for the byte 0x20"},
    {"model/vocab/a", "-1", BAD, "\"a\" has the id -1"},
    {"model/vocab/a", "1.5", BAD, "\"a\" has a real number"},
    {"model/vocab/a", "\"1\"", BAD, "\"a\" has a string"},
    {"model/vocab/a", "null", BAD, "\"a\" has null"},
    {"model/vocab/a", "0", BAD, "which another token has"},
    {"model/vocab/a", "2147483647", BAD, "\"a\" has the id 2147483647"},
    {"model/vocab/a", "9223372036854775807", BAD, "\"a\" has the id 9223372036854775807"},
    {"model/vocab/zz zz", "5000", BAD, "\"zz zz\" of model.vocab has a character"},
    {"model/vocab/\xE6\x97\xA5", "5000", BAD, "byte-level alphabet"},
    {"model/merges", NULL, BAD, "model.merges is missing"},
    {"model/merges", "{}", BAD, "model.merges is an object"},
    {"model/merges/7", "\"nospace\"", BAD, "model.merges[7] is another string"},
    {"model/merges/7", "\"a b c\"", BAD, "model.merges[7] is another string"},
    {"model/merges/7", "\" b\"", BAD, "model.merges[7] is another string"},
    {"model/merges/7", "\"b \"", BAD, "model.merges[7] is another string"},
    {"model/merges/7", "[\"a\"]", BAD, "model.merges[7] is another array"},
    {"model/merges/7", "[\"a\",1]", BAD, "model.merges[7] is another array"},
    {"model/merges/7", "[\"\",\"a\"]", BAD, "model.merges[7] is another array"},
    {"model/merges/7", "3", BAD, "model.merges[7] is an integer"},
    {"model/merges/7", "\"nothere a\"", BAD, "model.merges[7]: \"nothere\""},
    {"model/merges/7", "\"a nothere\"", BAD, "model.merges[7]: \"nothere\""},
    {"model/merges/7", "[\"#\",\"#\"]", BAD, "\"#\" and \"#\" joined"},
    {"added_tokens", "{}", BAD, "added_tokens is an object"},
    {"added_tokens/0", "5", BAD, "added_tokens[0] is an integer"},
    {"added_tokens/0/content", NULL, BAD, "added_tokens[0].content is missing"},
    {"added_tokens/0/content", "\"\"", BAD, "added_tokens[0].content is empty"},
    {"added_tokens/0/content", "[]", BAD, "added_tokens[0].content is an array"},
    {"added_tokens/0/content", "\"<|padding|>\"", BAD, "\"<|padding|>\""},
    {"added_tokens/0/id", NULL, BAD, "has no id"},
    {"added_tokens/0/id", "true", BAD, "a boolean as its id"},
    {"added_tokens/0/id", "-5", BAD, "the id -5"},
    {"added_tokens/0/id", "99999999", BAD, "the id 99999999"},
    {"added_tokens/0/id", "17", BAD, "in model.vocab it is 0"},
    {"added_tokens/2/id", "17", BAD, "which another token has"},
    {"added_tokens/2/id", "601", BAD, "which another token has"},
    {"added_tokens/0/special", "1", BAD, "added_tokens[0].special is an integer"},
    {"added_tokens/0/normalized", "null", BAD, "added_tokens[0].normalized is null"},
    {"added_tokens/0/lstrip", "true", NOT, "\"<|endoftext|>\" has the option lstrip"},
    {"added_tokens/0/rstrip", "true", NOT, "option rstrip"},
    {"added_tokens/0/single_word", "true", NOT, "option single_word"},
    {"normalizer", "{\"type\":\"NFKC\"}", NOT, "normalizer.type is \"NFKC\""},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}", NOT,
     "\"Lowercase\""},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[5]}", BAD,
     "normalizers[] is an integer"},
    {"normalizer", "\"NFC\"", BAD, "normalizer is a string"},
    {"pre_tokenizer", "null", NOT, "pre_tokenizer.type is \"null\""},
    {"pre_tokenizer/type", "\"Whitespace\"", NOT, "\"Whitespace\""},
    {"pre_tokenizer/add_prefix_space", "true", NOT, "add_prefix_space"},
    {"pre_tokenizer/add_prefix_space", "\"no\"", BAD, "add_prefix_space is a string"},
    {"pre_tokenizer/use_regex", "[]", BAD, "use_regex is an array"},
    {"decoder", "null", NOT, "decoder.type is \"null\""},
    {"decoder/type", "\"Metaspace\"", NOT, "\"Metaspace\""},
    {"post_processor/type", "\"BertProcessing\"", NOT, "\"BertProcessing\""},
    {"post_processor",
     "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"a\"}},"
     "{\"Sequence\":{\"id\":\"A\"}}]}",
     NOT, "adds tokens"},
};

static void every_bad_value_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_changes / sizeof *bad_changes; i++) {
        const bad_change *bad = &bad_changes[i];
        cf_error error = {0};
        cf_tokenizer *tokenizer = (cf_tokenizer *)&error;
        json_t *root = changed(bad->path, bad->value);
        cf_status status = open_json(root, &tokenizer, &error);
        if (status != bad->status)
            print_error("change %zu: %s = %s\n", i, bad->path, bad->value);
        assert_fails(status, bad->status, error, bad->message);
        assert_non_null(strstr(error.message, "tokenizer.json: "));
        assert_null(tokenizer);
    }
}

typedef struct good_change {
    const char *path, *value;
} good_change;

static const good_change good_changes[] = {
    {"model/dropout", "0.0"},
    {"model/unk_token", "\"<|endoftext|>\""},
    {"model/continuing_subword_prefix", "\"\""},
    {"model/ignore_merges", "true"},
    {"model/merges", "[]"},
    {"model/merges/0", "[\"a\",\"a\"]"},
    {"model/vocab/more", "5000"},
    {"added_tokens", "null"},
    {"added_tokens", NULL},
    {"normalizer", "null"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"},
    {"pre_tokenizer/use_regex", "false"},
    {"post_processor", "null"},
    {"post_processor",
     "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}]}"},
    {"truncation", "{\"max_length\":3}"},
};

static void harmless_values_are_accepted(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good_changes / sizeof *good_changes; i++) {
        cf_error error;
        cf_tokenizer *tokenizer;
        json_t *root = changed(good_changes[i].path, good_changes[i].value);
        if (strcmp(good_changes[i].path, "model/merges/0") == 0)
            json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), "aa",
                                json_integer(4000));
        assert_ok(open_json(root, &tokenizer, &error), error);
        cf_token ids[16];
        size_t n_ids;
        assert_ok(cf_tokenizer_encode(tokenizer, "a b", 3, 0, ids, 16, &n_ids, &error), error);
        assert_true(n_ids >= 1 && n_ids <= 3);
        cf_tokenizer_close(tokenizer);
    }
}

static void ids_without_text_decode_to_nothing(void **state)
{
    (void)state;
    cf_error error;
    cf_tokenizer *tokenizer;
    assert_ok(open_json(changed("model/vocab/more", "5000"), &tokenizer, &error), error);
    assert_int_equal(cf_tokenizer_n_vocab(tokenizer), 5001);
    cf_token ids[] = {4999, 5000, 5001, INT32_MAX};
    char text[8];
    size_t n_bytes;
    assert_ok(cf_tokenizer_decode(tokenizer, ids, 4, 0, text, 8, &n_bytes, &error), error);
    assert_int_equal(n_bytes, 4);
    assert_memory_equal(text, "more", 4);
    cf_tokenizer_close(tokenizer);
}

static void a_word_that_is_a_token_needs_no_merges(void **state)
{
    (void)state;
    cf_error error;
    cf_tokenizer *tokenizer;
    json_t *root = changed("model/vocab/zebra", "5000");
    json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_true());
    assert_ok(open_json(root, &tokenizer, &error), error);
    cf_token ids[16];
    size_t n_ids;
    assert_ok(cf_tokenizer_encode(tokenizer, "zebra", 5, 0, ids, 16, &n_ids, &error), error);
    assert_int_equal(n_ids, 1);
    assert_int_equal(ids[0], 5000);
    cf_tokenizer_close(tokenizer);
}

/* "ab" then "abc" by rank; a second merge of the same pair, later in the list, is the one that
 * holds. */
static void merges_go_by_rank(void **state)
{
    (void)state;
    cf_error error;
    cf_tokenizer *tokenizer;
    json_t *root = changed("model/merges", "[\"q x\",\"x j\",[\"qx\",\"j\"]]");
    json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    json_object_set_new(vocab, "qx", json_integer(4000));
    json_object_set_new(vocab, "xj", json_integer(4001));
    json_object_set_new(vocab, "qxj", json_integer(4002));
    assert_ok(open_json(root, &tokenizer, &error), error);
    cf_token ids[16];
    size_t n_ids;
    assert_ok(cf_tokenizer_encode(tokenizer, "qxjxjqx", 7, 0, ids, 16, &n_ids, &error), error);
    assert_int_equal(n_ids, 3);
    assert_int_equal(ids[0], 4002);
    assert_int_equal(ids[1], 4001);
    assert_int_equal(ids[2], 4000);
    cf_tokenizer_close(tokenizer);
}

static void what_is_no_json_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "", "{", "[]", "5", "null", "{\"a\":1,\"a\":2}", "{}garbage", "{\"model\":\"\xFF\"}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cf_error error;
        cf_tokenizer *tokenizer;
        const char *path = test_write(scratch, "tokenizer.json", texts[i], strlen(texts[i]));
        assert_fails(cf_tokenizer_open(path, &tokenizer, &error), CF_STATUS_BAD_FILE, error,
                     "tokenizer.json: ");
        assert_null(tokenizer);
    }
}

static void a_missing_file_is_not_found(void **state)
{
    (void)state;
    cf_error error;
    cf_tokenizer *tokenizer;
    assert_fails(cf_tokenizer_open("/no/such/folder", &tokenizer, &error), CF_STATUS_NOT_FOUND,
                 error, "/no/such/folder");
    remove(test_write(scratch, "tokenizer.json", "", 0));
    assert_fails(cf_tokenizer_open(scratch, &tokenizer, &error), CF_STATUS_NOT_FOUND, error,
                 "tokenizer.json");
}

/* Cut off anywhere, the file is refused, and nothing worse. */
static void no_truncated_file_opens(void **state)
{
    (void)state;
    size_t n_bytes;
    char *text = test_read(test_path("tests/data/tokenizer/tokenizer.json"), &n_bytes);
    for (size_t n = 0; n + 2 < n_bytes; n += 97) {
        cf_error error;
        cf_tokenizer *tokenizer;
        const char *path = test_write(scratch, "tokenizer.json", text, n);
        assert_fails(cf_tokenizer_open(path, &tokenizer, &error), CF_STATUS_BAD_FILE, error,
                     "line");
    }
    free(text);
}

static int make_scratch(void **state)
{
    (void)state;
    scratch = test_scratch_create();
    return 0;
}

static int remove_scratch(void **state)
{
    (void)state;
    test_scratch_remove(scratch);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_bad_value_is_named),
        cmocka_unit_test(harmless_values_are_accepted),
        cmocka_unit_test(ids_without_text_decode_to_nothing),
        cmocka_unit_test(a_word_that_is_a_token_needs_no_merges),
        cmocka_unit_test(merges_go_by_rank),
        cmocka_unit_test(what_is_no_json_is_refused),
        cmocka_unit_test(a_missing_file_is_not_found),
        cmocka_unit_test(no_truncated_file_opens),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
