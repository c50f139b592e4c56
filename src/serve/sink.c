#include "serve/sink.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 256

static bool reserve(cf_sink *sink, size_t n_more)
{
    if (n_more <= sink->capacity - sink->n)
        return true;
    size_t needed, capacity = sink->capacity > 0 ? sink->capacity : FIRST_CAPACITY;
    if (__builtin_add_overflow(sink->n, n_more, &needed) || needed > SIZE_MAX / 2)
        return false;
    while (capacity < needed)
        capacity *= 2;
    char *data = realloc(sink->data, capacity);
    if (data == NULL)
        return false;
    sink->data = data;
    sink->capacity = capacity;
    return true;
}

void cf_sink_append(cf_sink *sink, const void *data, size_t n_bytes)
{
    if (n_bytes == 0)
        return;
    if (sink->is_short || !reserve(sink, n_bytes)) {
        sink->is_short = true;
        return;
    }
    memcpy(sink->data + sink->n, data, n_bytes);
    sink->n += n_bytes;
}

void cf_sink_text(cf_sink *sink, const char *text)
{
    cf_sink_append(sink, text, strlen(text));
}

void cf_sink_format(cf_sink *sink, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= sizeof line)
        sink->is_short = true;
    else
        cf_sink_append(sink, line, (size_t)n);
}

void cf_sink_free(cf_sink *sink)
{
    free(sink->data);
    *sink = (cf_sink){0};
}

size_t cf_text_characters(const char *text, size_t n_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* Bytes of the character that begins here, 0 if it is none: RFC 3629, section 4. */
static size_t character_bytes(const unsigned char *c, size_t n_left)
{
    size_t n = c[0] < 0x80 ? 1 : c[0] < 0xC2 ? 0 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : 4;
    if (n == 0 || c[0] > 0xF4 || n > n_left)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((c[i] & 0xC0) != 0x80)
            return 0;
    }
    bool is_bad = (c[0] == 0xE0 && c[1] < 0xA0) || (c[0] == 0xED && c[1] > 0x9F) ||
                  (c[0] == 0xF0 && c[1] < 0x90) || (c[0] == 0xF4 && c[1] > 0x8F);
    return is_bad ? 0 : n;
}

bool cf_text_is_utf8(const char *text, size_t n_bytes)
{
    for (size_t i = 0, n; i < n_bytes; i += n) {
        n = character_bytes((const unsigned char *)text + i, n_bytes - i);
        if (n == 0)
            return false;
    }
    return true;
}
