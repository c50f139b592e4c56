#include "cli/lines.h"

#include "base/status.h"
#include "cli/output.h"

#include <stdio.h>
#include <string.h>

#define MARK "\xEF\xBB\xBF" /* the byte order mark that some editors put before a file's text */

/* Text from outside may hold U+0000, which cf_json_parse() refuses in the files of a checkpoint. */
static cf_status process_line(const char *text, size_t n_bytes, cf_lines_value_fn on_value,
                              void *user, cf_error *error)
{
    json_error_t fault;
    json_t *value = json_loadb(n_bytes > 0 ? text : "", n_bytes,
                               JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &fault);
    if (value == NULL)
        return cf_fail(error, CF_STATUS_BAD_FILE, "column %d: %s", fault.column, fault.text);
    cf_status status = on_value(user, value, error);
    json_decref(value);
    return status;
}

static bool is_empty(const cf_bytes *line)
{
    size_t n = 0;
    while (n < line->n && strchr(" \t\r", line->data[n]) != NULL && line->data[n] != 0)
        n++;
    return n == line->n;
}

static size_t count_mark(const cf_bytes *line)
{
    size_t n = sizeof MARK - 1;
    return line->n >= n && memcmp(line->data, MARK, n) == 0 ? n : 0;
}

/* Each line is answered before the next is read, so that another program can talk with this one. */
static cf_status process_lines(FILE *stream, const char *path, cf_lines_value_fn on_value,
                               void *user, cf_error *error)
{
    cf_bytes line = {0};
    cf_status status = CF_STATUS_OK;
    bool ended = false;
    size_t n_empty = 0; /* just before this line: at the end they are nothing */
    for (size_t number = 1; status == CF_STATUS_OK; number++) {
        status = cf_bytes_read_line(stream, path, &line, &ended, error);
        if (status != CF_STATUS_OK || ended)
            break;
        if (is_empty(&line)) {
            n_empty++;
            continue;
        }
        size_t n_mark = number == 1 ? count_mark(&line) : 0;
        status = n_empty > 0
                     ? cf_fail(error, CF_STATUS_BAD_FILE, "expected JSON, found nothing")
                     : process_line(line.data + n_mark, line.n - n_mark, on_value, user, error);
        if (status != CF_STATUS_OK) {
            char prefix[32];
            snprintf(prefix, sizeof prefix, "line %zu", number - n_empty);
            cf_fail_within(error, status, prefix);
        } else if (!cf_output_flush()) {
            break; /* which the program's end reports */
        }
    }
    cf_bytes_free(&line);
    return status;
}

static cf_status process_whole(FILE *stream, const char *path, cf_lines_whole_fn on_whole,
                               void *user, cf_error *error)
{
    cf_bytes input = {0};
    cf_status status = cf_bytes_read(stream, path, &input, error);
    if (status == CF_STATUS_OK)
        status = on_whole(user, &input, error);
    cf_bytes_free(&input);
    return status;
}

cf_status cf_lines_process(const cf_lines_args *args, cf_lines_whole_fn on_whole,
                           cf_lines_value_fn on_value, void *user, cf_error *error)
{
    const char *path = args->file != NULL ? args->file : "-";
    FILE *stream;
    CF_TRY(cf_stream_open(args->text, path, &stream, error));
    cf_status status = args->jsonl ? process_lines(stream, path, on_value, user, error)
                                   : process_whole(stream, path, on_whole, user, error);
    cf_stream_close(stream);
    return status;
}
