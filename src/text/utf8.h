/* UTF-8, character by character. */
#ifndef CF_TEXT_UTF8_H
#define CF_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CF_UTF8_REPLACEMENT 0xFFFDu /* stands for what is no character */
#define CF_UTF8_MAX_BYTES 4

/* What cf_utf8_next() finds where no character is. */
#define CF_UTF8_INVALID UINT32_MAX       /* bytes that no further bytes can make a character */
#define CF_UTF8_PARTIAL (UINT32_MAX - 1) /* the text ends within a character */

/*
 * The code point at `text`, n_bytes > 0 of which are readable, or one of the values above. Returns
 * its length; for what is no character, the length of the maximal subpart that one U+FFFD stands
 * for (The Unicode Standard, section 3.9, "Best Practices for Using U+FFFD").
 */
size_t cf_utf8_next(const char *text, size_t n_bytes, uint32_t *code);

/* Writes the character to `text`, which has room for CF_UTF8_MAX_BYTES; returns its length. */
size_t cf_utf8_write(char *text, uint32_t code);

/* The number of bytes from the beginning of `text` that are valid and whole characters. */
size_t cf_utf8_valid_bytes(const char *text, size_t n_bytes);

/*
 * Copies `text`, each maximal subpart of what is not UTF-8 replaced by U+FFFD. `repaired` has room
 * for 3 × n_bytes. Returns the bytes written.
 */
size_t cf_utf8_repair(const char *text, size_t n_bytes, char *repaired);

/* The code point at `*text` of text that is known to be valid; moves on behind it. */
static inline uint32_t cf_utf8_take(const char **text)
{
    const unsigned char *s = (const unsigned char *)*text;
    if (s[0] < 0x80) {
        *text += 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *text += 2;
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    }
    if (s[0] < 0xF0) {
        *text += 3;
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    }
    *text += 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

#endif
