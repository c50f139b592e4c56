#include "cli/ids.h"

#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* realloc() of n elements rather than a zeroed allocation: pages that stay unused cost nothing. */
static cf_status grow(void **memory, size_t *capacity, size_t n, size_t n_bytes, cf_error *error)
{
    if (n <= *capacity)
        return CF_STATUS_OK;
    size_t total;
    void *grown = NULL;
    if (!__builtin_mul_overflow(n, n_bytes, &total))
        grown = realloc(*memory, total);
    if (grown == NULL)
        return cf_fail(error, CF_STATUS_OUT_OF_MEMORY, "%zu times %zu bytes", n, n_bytes);
    *memory = grown;
    *capacity = n;
    return CF_STATUS_OK;
}

cf_status cf_bytes_reserve(cf_bytes *bytes, size_t n, cf_error *error)
{
    void *memory = bytes->data;
    cf_status status = grow(&memory, &bytes->capacity, n, sizeof *bytes->data, error);
    bytes->data = memory;
    return status;
}

cf_status cf_ids_reserve(cf_ids *ids, size_t n, cf_error *error)
{
    void *memory = ids->values;
    cf_status status = grow(&memory, &ids->capacity, n, sizeof *ids->values, error);
    ids->values = memory;
    return status;
}

void cf_bytes_free(cf_bytes *bytes)
{
    free(bytes->data);
    *bytes = (cf_bytes){0};
}

void cf_ids_free(cf_ids *ids)
{
    free(ids->values);
    *ids = (cf_ids){0};
}

cf_status cf_stream_open(const char *text, const char *path, FILE **stream, cf_error *error)
{
    if (text != NULL)
        *stream = fmemopen((void *)(uintptr_t)text, strlen(text), "rb");
    else
        *stream = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (*stream != NULL)
        return CF_STATUS_OK;
    return cf_fail(error, errno == ENOENT ? CF_STATUS_NOT_FOUND : CF_STATUS_IO, "%s: %s", path,
                   strerror(errno));
}

void cf_stream_close(FILE *stream)
{
    if (stream != stdin)
        fclose(stream);
}

static cf_status check_stream(FILE *stream, const char *path, cf_error *error)
{
    if (ferror(stream))
        return cf_fail(error, CF_STATUS_IO, "%s: %s", path, strerror(errno));
    return CF_STATUS_OK;
}

cf_status cf_bytes_read(FILE *stream, const char *path, cf_bytes *bytes, cf_error *error)
{
    bytes->n = 0;
    do {
        if (bytes->n > CF_MAX_INPUT_BYTES)
            return cf_fail(error, CF_STATUS_IO, "%s: more than %zu bytes", path,
                           CF_MAX_INPUT_BYTES);
        if (bytes->capacity - bytes->n < 65536)
            CF_TRY(cf_bytes_reserve(bytes, 2 * bytes->capacity + 65536, error));
        bytes->n += fread(bytes->data + bytes->n, 1, bytes->capacity - bytes->n, stream);
    } while (!feof(stream) && !ferror(stream));
    return check_stream(stream, path, error);
}

cf_status cf_bytes_read_line(FILE *stream, const char *path, cf_bytes *line, bool *ended,
                             cf_error *error)
{
    int c;
    for (line->n = 0; (c = getc_unlocked(stream)) != EOF && c != '\n';) {
        if (line->n > CF_MAX_INPUT_BYTES)
            return cf_fail(error, CF_STATUS_IO, "%s: more than %zu bytes", path,
                           CF_MAX_INPUT_BYTES);
        if (line->n == line->capacity)
            CF_TRY(cf_bytes_reserve(line, 2 * line->capacity + 256, error));
        line->data[line->n++] = (char)c;
    }
    *ended = c == EOF && line->n == 0;
    return check_stream(stream, path, error);
}

static bool is_separator(char c)
{
    return c == ',' || c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* The number that `text` begins with, and its digits' count; -1 if it is none or too large. */
static cf_token parse_id(const char *text, size_t n_bytes, size_t *n_digits)
{
    int64_t id = 0;
    size_t n = 0;
    for (; n < n_bytes && text[n] >= '0' && text[n] <= '9' && id <= INT32_MAX; n++)
        id = 10 * id + (text[n] - '0');
    *n_digits = n;
    bool ended = n == n_bytes || is_separator(text[n]);
    return n > 0 && ended && id <= INT32_MAX ? (cf_token)id : -1;
}

static cf_status fail_at(const char *text, size_t n_bytes, size_t index, cf_error *error)
{
    size_t n = 0;
    while (n < n_bytes && n < 20 && !is_separator(text[n]))
        n++;
    return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                   "id %zu: expected an integer from 0 to %d, found \"%.*s\"", index, INT32_MAX,
                   (int)n, text);
}

cf_status cf_ids_parse(const char *text, size_t n_bytes, cf_ids *ids, cf_error *error)
{
    ids->n = 0;
    const char *end = text + n_bytes;
    bool after_comma = false;
    for (;;) {
        while (text < end && is_separator(*text) && *text != ',')
            text++;
        if (text == end && !after_comma)
            return CF_STATUS_OK;
        if (ids->n == ids->capacity)
            CF_TRY(cf_ids_reserve(ids, 2 * ids->capacity + 64, error));
        size_t n_digits;
        cf_token id = parse_id(text, (size_t)(end - text), &n_digits);
        if (id < 0)
            return fail_at(text, (size_t)(end - text), ids->n, error);
        ids->values[ids->n++] = id;
        text += n_digits;
        while (text < end && is_separator(*text) && *text != ',')
            text++;
        after_comma = text < end && *text == ',';
        if (after_comma)
            text++;
    }
}

cf_status cf_ids_encode(const cf_tokenizer *tokenizer, const char *text, size_t n_bytes,
                        uint32_t flags, cf_ids *ids, cf_error *error)
{
    /* A token is a byte or more, save where U+FFFD takes the place of what is not UTF-8. */
    CF_TRY(cf_ids_reserve(ids, n_bytes + 1, error));
    cf_status status = cf_tokenizer_encode(tokenizer, text, n_bytes, flags, ids->values,
                                           ids->capacity, &ids->n, error);
    if (status != CF_STATUS_BUFFER_TOO_SMALL)
        return status;
    CF_TRY(cf_ids_reserve(ids, ids->n, error));
    return cf_tokenizer_encode(tokenizer, text, n_bytes, flags, ids->values, ids->capacity, &ids->n,
                               error);
}

cf_status cf_bytes_decode(const cf_tokenizer *tokenizer, const cf_ids *ids, uint32_t flags,
                          cf_bytes *bytes, cf_error *error)
{
    CF_TRY(cf_bytes_reserve(bytes, 8 * ids->n + 64, error));
    cf_status status = cf_tokenizer_decode(tokenizer, ids->values, ids->n, flags, bytes->data,
                                           bytes->capacity, &bytes->n, error);
    if (status != CF_STATUS_BUFFER_TOO_SMALL)
        return status;
    CF_TRY(cf_bytes_reserve(bytes, bytes->n, error));
    return cf_tokenizer_decode(tokenizer, ids->values, ids->n, flags, bytes->data, bytes->capacity,
                               &bytes->n, error);
}
