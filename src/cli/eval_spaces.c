/* White space and words as Python has them, so that results compare with those of its programs. */
#include "cli/eval.h"

#include <string.h>

/* The white space beyond ASCII, in UTF-8: U+0085, A0, 1680, 2000-200A, 2028, 2029, 202F, 205F,
 * 3000.
 */
static const char *const wide_spaces[] = {
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
    "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
    "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
    "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80",
};

static bool is_ascii_space(unsigned char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F);
}

/* Bytes of the white space that `text` begins with: one character's, or 0. */
static size_t space_length(const char *text, size_t n_bytes)
{
    if (n_bytes > 0 && is_ascii_space((unsigned char)*text))
        return 1;
    if (n_bytes < 2 || (unsigned char)*text < 0xC2)
        return 0;
    for (size_t i = 0; i < sizeof wide_spaces / sizeof *wide_spaces; i++) {
        size_t n = strlen(wide_spaces[i]);
        if (n <= n_bytes && memcmp(text, wide_spaces[i], n) == 0)
            return n;
    }
    return 0;
}

size_t cf_trim_spaces(const char *text, size_t n_bytes)
{
    size_t end = 0;
    for (size_t i = 0; i < n_bytes;) {
        size_t n = space_length(text + i, n_bytes - i);
        i += n > 0 ? n : 1;
        if (n == 0)
            end = i;
    }
    return end;
}

size_t cf_count_words(const char *text, size_t n_bytes)
{
    size_t n_words = 1;
    bool in_space = false;
    for (size_t i = 0; i < n_bytes;) {
        size_t n = space_length(text + i, n_bytes - i);
        n_words += n > 0 && !in_space;
        in_space = n > 0;
        i += n > 0 ? n : 1;
    }
    return n_words;
}

size_t cf_count_characters(const char *text, size_t n_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}
