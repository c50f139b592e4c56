#include "text/utf8.h"

#include <string.h>

/* What may follow a lead byte: how many bytes in all, and the bounds of the second one. */
typedef struct lead {
    uint8_t n_bytes; /* 0: no lead byte */
    uint8_t second_min, second_max;
} lead;

/* The Unicode Standard, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
static lead lead_of(uint8_t byte)
{
    if (byte < 0xC2 || byte > 0xF4)
        return (lead){0, 0, 0};
    if (byte < 0xE0)
        return (lead){2, 0x80, 0xBF};
    if (byte < 0xF0)
        return (lead){3, byte == 0xE0 ? 0xA0 : 0x80, byte == 0xED ? 0x9F : 0xBF};
    return (lead){4, byte == 0xF0 ? 0x90 : 0x80, byte == 0xF4 ? 0x8F : 0xBF};
}

size_t cf_utf8_next(const char *text, size_t n_bytes, uint32_t *code)
{
    const uint8_t *s = (const uint8_t *)text;
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
    lead first = lead_of(s[0]);
    *code = CF_UTF8_INVALID;
    if (first.n_bytes == 0)
        return 1;
    uint32_t value = s[0] & (0x7Fu >> first.n_bytes);
    for (size_t i = 1; i < first.n_bytes; i++) {
        if (i == n_bytes) {
            *code = CF_UTF8_PARTIAL;
            return i;
        }
        uint8_t min = i == 1 ? first.second_min : 0x80, max = i == 1 ? first.second_max : 0xBF;
        if (s[i] < min || s[i] > max)
            return i;
        value = value << 6 | (s[i] & 0x3Fu);
    }
    *code = value;
    return first.n_bytes;
}

size_t cf_utf8_write(char *text, uint32_t code)
{
    if (code < 0x80) {
        text[0] = (char)code;
        return 1;
    }
    size_t n_bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n_bytes - 1; i > 0; i--, code >>= 6)
        text[i] = (char)(0x80u | (code & 0x3Fu));
    text[0] = (char)((0xF00u >> n_bytes & 0xFFu) | code);
    return n_bytes;
}

size_t cf_utf8_valid_bytes(const char *text, size_t n_bytes)
{
    size_t pos = 0;
    while (pos < n_bytes) {
        if ((unsigned char)text[pos] < 0x80) {
            pos++;
            continue;
        }
        uint32_t code;
        size_t length = cf_utf8_next(text + pos, n_bytes - pos, &code);
        if (code >= CF_UTF8_PARTIAL)
            break;
        pos += length;
    }
    return pos;
}

size_t cf_utf8_repair(const char *text, size_t n_bytes, char *repaired)
{
    size_t n_written = 0;
    for (size_t pos = 0; pos < n_bytes;) {
        size_t n_valid = cf_utf8_valid_bytes(text + pos, n_bytes - pos);
        memcpy(repaired + n_written, text + pos, n_valid);
        pos += n_valid;
        n_written += n_valid;
        if (pos == n_bytes)
            break;
        uint32_t code;
        pos += cf_utf8_next(text + pos, n_bytes - pos, &code);
        n_written += cf_utf8_write(repaired + n_written, CF_UTF8_REPLACEMENT);
    }
    return n_written;
}
