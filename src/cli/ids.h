/* Growing arrays of bytes and of token ids, and the ways between the two. */
#ifndef CF_CLI_IDS_H
#define CF_CLI_IDS_H

#include "clusterfusion.h"

#include <stdio.h>

typedef struct cf_bytes {
    char *data;
    size_t n, capacity;
} cf_bytes;

typedef struct cf_ids {
    cf_token *values;
    size_t n, capacity;
} cf_ids;

/* Room for `n` in all; what was there stays. Errors: OUT_OF_MEMORY. */
cf_status cf_bytes_reserve(cf_bytes *bytes, size_t n, cf_error *error);
cf_status cf_ids_reserve(cf_ids *ids, size_t n, cf_error *error);

/* Take zeroed ones too. */
void cf_bytes_free(cf_bytes *bytes);
void cf_ids_free(cf_ids *ids);

/*
 * A stream that reads `text`, or, where that is NULL, the file `path`, "-" being stdin. Errors:
 * NOT_FOUND, IO. Closing leaves stdin alone.
 */
cf_status cf_stream_open(const char *text, const char *path, FILE **stream, cf_error *error);
void cf_stream_close(FILE *stream);

/* Something that never ends, such as /dev/zero, is no input. */
#define CF_MAX_INPUT_BYTES ((size_t)1 << 30)

/*
 * Replace what `bytes` held by the rest of the stream, or by its next line without the newline;
 * `path` is for messages, *ended tells that there was no further line. Errors: IO, OUT_OF_MEMORY.
 */
cf_status cf_bytes_read(FILE *stream, const char *path, cf_bytes *bytes, cf_error *error);
cf_status cf_bytes_read_line(FILE *stream, const char *path, cf_bytes *line, bool *ended,
                             cf_error *error);

/*
 * Reads ids written in decimal, separated by commas or white space. INVALID_ARGUMENT names the
 * position of what is no id.
 */
cf_status cf_ids_parse(const char *text, size_t n_bytes, cf_ids *ids, cf_error *error);

/* Replace what `ids` or `bytes` held. */
cf_status cf_ids_encode(const cf_tokenizer *tokenizer, const char *text, size_t n_bytes,
                        uint32_t flags, cf_ids *ids, cf_error *error);
cf_status cf_bytes_decode(const cf_tokenizer *tokenizer, const cf_ids *ids, uint32_t flags,
                          cf_bytes *bytes, cf_error *error);

#endif
