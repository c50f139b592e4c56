/* The steps of encoding, each alone: UTF-8, the byte-level alphabet, words, normalization. */
#include "support/support.h"

#include "text/bytelevel.h"
#include "text/normalize.h"
#include "text/split.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define N_CODES 0x110000u

static bool is_surrogate(uint32_t code)
{
    return code >= 0xD800 && code <= 0xDFFF;
}

static void every_character_is_read_as_it_is_written(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < N_CODES; code++) {
        char text[CF_UTF8_MAX_BYTES + 1] = {0}, other[CF_UTF8_MAX_BYTES];
        size_t n = cf_utf8_write(text, code);
        if (is_surrogate(code)) {
            assert_int_equal(cf_utf8_valid_bytes(text, n), 0);
            continue;
        }
        assert_int_equal(utf8proc_encode_char((int32_t)code, (uint8_t *)other), n);
        assert_memory_equal(text, other, n);
        uint32_t read;
        assert_int_equal(cf_utf8_next(text, n, &read), n);
        assert_int_equal(read, code);
        const char *s = text;
        assert_int_equal(cf_utf8_take(&s), code);
        assert_ptr_equal(s, text + n);
        for (size_t cut = 1; cut < n; cut++) {
            assert_int_equal(cf_utf8_next(text, cut, &read), cut);
            assert_int_equal(read, CF_UTF8_PARTIAL);
        }
    }
}

typedef struct repair_case {
    const char *text, *repaired;
} repair_case;

#define R "\xEF\xBF\xBD"

/* The tables of The Unicode Standard, section 3.9 (3-8 to 3-11), and some ends of text. */
static const repair_case repair_cases[] = {
    {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", R R R R R R R R "A"},
    {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", R R R R R R R R "A"},
    {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", R R R R R "A" R R "B"},
    {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", R R R R "A"},
    {"a\xE2\x82", "a" R},
    {"\xF0\x9F\x98", R},
    {"\xC3", R},
    {"\xC3\xA9\x80", "\xC3\xA9" R},
};

static void invalid_bytes_become_replacement_characters(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof repair_cases / sizeof *repair_cases; i++) {
        const repair_case *c = &repair_cases[i];
        char repaired[64];
        size_t n = cf_utf8_repair(c->text, strlen(c->text), repaired);
        assert_int_equal(n, strlen(c->repaired));
        assert_memory_equal(repaired, c->repaired, n);
    }
}

static void each_byte_has_one_character_of_the_alphabet(void **state)
{
    (void)state;
    int seen[256] = {0}, n_seen = 0;
    for (uint32_t code = 0; code < N_CODES; code++) {
        int byte = cf_bytelevel_byte(code);
        assert_in_range(byte + 1, 0, 256);
        if (byte < 0)
            continue;
        assert_int_equal(seen[byte]++, 0);
        n_seen++;
    }
    assert_int_equal(n_seen, 256);
    assert_int_equal(cf_bytelevel_byte(0x120), ' ');  /* Ġ */
    assert_int_equal(cf_bytelevel_byte(0x10A), '\n'); /* Ċ */
    assert_int_equal(cf_bytelevel_byte('A'), 'A');
}

/* Words with "|" between them. */
static const char *const split_cases[] = {
    "Hello|,| world|!",
    "it|'s| they|'re| I|'m| we|'ve| he|'ll| she|'d| can|'t",
    "IT|'|S| '|s|'|x| '|re",
    "a|  | b|   ",
    "a| | b",
    "a|\n\n|\n|b|\n| c",
    "x|1|y|22\xC2\xBD|z",
    "12\xC2\xBD\xD9\xA3",
    " |\xC2\xA0|x|\xE3\x80\x80|y|\xC2\x85|z",
    "\xE1\xA0\x8E\xE2\x80\x8B\xEF\xBB\xBF\x1C\x1F\x7F",
    "a|\xCC\x81|b",
    " ...'|s",
    "''|s",
    "\xE6\x97\xA5\xE6\x9C\xAC| \xE8\xAA\x9E",
    "",
};

static void words_end_where_the_rule_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof split_cases / sizeof *split_cases; i++) {
        char text[256], again[256];
        size_t n = 0, n_again = 0;
        for (const char *s = split_cases[i]; *s != 0; s++)
            if (*s != '|')
                text[n++] = *s;
        for (size_t pos = 0, length; pos < n; pos += length) {
            if (pos > 0)
                again[n_again++] = '|';
            length = cf_split_word(text + pos, n - pos);
            assert_in_range(length, 1, n - pos);
            memcpy(again + n_again, text + pos, length);
            n_again += length;
        }
        again[n_again] = 0;
        assert_string_equal(again, split_cases[i]);
    }
}

/* Between letters, numbers and signs, a character of a class joins its like. */
static void classes_are_those_of_unicode_16(void **state)
{
    (void)state;
    assert_int_equal(cf_split_word("a\xE1\xB2\x89z", 5), 5); /* U+1C89, a letter since 16 */
    assert_int_equal(cf_split_word("1\xF0\x90\xB5\x80"
                                   "2",
                                   6),
                     6);                                         /* U+10D40, a digit since 16 */
    assert_int_equal(cf_split_word("a\xF0\xAE\xAF\xB0z", 6), 6); /* U+2EBF0, since 15.1 */
    assert_int_equal(cf_split_word("a\xF0\x90\xB5\x80", 5), 1);
    assert_int_equal(cf_split_word("!\xE0\xB7\xBF!", 5), 5); /* U+0DFF, of no class */
}

static void assert_normal(cf_normalizer *normalizer, const char *text, const char *expected)
{
    cf_error error;
    const char *normal;
    size_t n;
    assert_ok(cf_normalize(normalizer, text, strlen(text), &normal, &n, &error), error);
    assert_int_equal(n, strlen(expected));
    assert_memory_equal(normal, expected, n);
}

static void normalization_keeps_reorders_and_composes(void **state)
{
    (void)state;
    cf_normalizer normalizer = {0};
    assert_normal(&normalizer, "", "");
    assert_normal(&normalizer, "plain", "plain");
    assert_normal(&normalizer, "cafe\xCC\x81!", "caf\xC3\xA9!");
    assert_normal(&normalizer, "a\xCC\x82\xCC\xA3", "\xE1\xBA\xAD");      /* two orders, one form */
    assert_normal(&normalizer, "q\xCC\x82\xCC\xA3", "q\xCC\xA3\xCC\x82"); /* reordered only */
    assert_normal(&normalizer, "\xE2\x84\xAB", "\xC3\x85");               /* a singleton */
    assert_normal(&normalizer, "\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"); /* excluded */
    assert_normal(&normalizer, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81");
    assert_normal(&normalizer, "\xEA\xB0\x80\xE1\x86\xA7", "\xEA\xB0\x80\xE1\x86\xA7"); /* U+11A7 */
    assert_normal(&normalizer, "\xCC\x81", "\xCC\x81");
    cf_normalizer_free(&normalizer);
}

/* Unicode 9 has no U+0898, so that a mark of a lower class does not pass it. */
static void marks_younger_than_unicode_9_do_not_move(void **state)
{
    (void)state;
    cf_normalizer normalizer = {0};
    assert_normal(&normalizer, "a\xE0\xA2\x98\xCC\xA3", "a\xE0\xA2\x98\xCC\xA3");
    assert_normal(&normalizer, "e\xE0\xA2\x98\xCC\x81", "e\xE0\xA2\x98\xCC\x81");
    assert_normal(&normalizer, "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0",
                  "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0");
    cf_normalizer_free(&normalizer);
}

/* utf8proc's own answer, for single characters: those that moved since Unicode 9 stay themselves.
 */
static void single_characters_agree_with_utf8proc(void **state)
{
    (void)state;
    cf_normalizer normalizer = {0};
    for (uint32_t code = 1; code < N_CODES; code++) {
        if (is_surrogate(code))
            continue;
        char text[2 * CF_UTF8_MAX_BYTES] = {'e'};
        cf_utf8_write(text + 1, code);
        uint8_t *expected = utf8proc_NFC((const uint8_t *)text + 1);
        assert_normal(&normalizer, text + 1, (const char *)expected);
        free(expected);
    }
    cf_normalizer_free(&normalizer);
}

/* 300 marks of two classes, in the worst order, come out sorted. */
static void long_runs_of_marks_are_sorted(void **state)
{
    (void)state;
    enum { N = 300 };
    char text[4 * N + 2] = "x", expected[4 * N + 2] = "x";
    for (int i = 0; i < N; i++) {
        strcat(text, "\xCC\x95\xCC\xA7");
        strcat(expected, "\xCC\xA7");
    }
    for (int i = 0; i < N; i++)
        strcat(expected, "\xCC\x95");
    cf_normalizer normalizer = {0};
    assert_normal(&normalizer, text, expected);
    cf_normalizer_free(&normalizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_character_is_read_as_it_is_written),
        cmocka_unit_test(invalid_bytes_become_replacement_characters),
        cmocka_unit_test(each_byte_has_one_character_of_the_alphabet),
        cmocka_unit_test(words_end_where_the_rule_says),
        cmocka_unit_test(classes_are_those_of_unicode_16),
        cmocka_unit_test(normalization_keeps_reorders_and_composes),
        cmocka_unit_test(marks_younger_than_unicode_9_do_not_move),
        cmocka_unit_test(single_characters_agree_with_utf8proc),
        cmocka_unit_test(long_runs_of_marks_are_sorted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
