#include "cli/lines.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

/* Text from outside may hold U+0000, which cf_json_parse() refuses in the files of a checkpoint. */
static cf_status process_line(const char *line, size_t n_bytes, cf_lines_value_fn on_value,
                              void *user, cf_error *error)
{
    json_error_t fault;
    json_t *value = json_loadb(line, n_bytes,
                               JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &fault);
    if (value == NULL)
        return cf_fail(error, CF_STATUS_BAD_FILE, "column %d: %s", fault.column, fault.text);
    cf_status status = on_value(user, value, error);
    json_decref(value);
    return status;
}

static cf_status process_lines(const cf_bytes *input, cf_lines_value_fn on_value, void *user,
                               cf_error *error)
{
    size_t number = 0;
    for (size_t begin = 0; begin < input->n;) {
        const char *line = input->data + begin;
        const char *newline = memchr(line, '\n', input->n - begin);
        size_t n_bytes = newline != NULL ? (size_t)(newline - line) : input->n - begin;
        number++;
        cf_status status = process_line(line, n_bytes, on_value, user, error);
        if (status != CF_STATUS_OK) {
            char prefix[32];
            snprintf(prefix, sizeof prefix, "line %zu", number);
            return cf_fail_within(error, status, prefix);
        }
        begin += n_bytes + 1;
    }
    return CF_STATUS_OK;
}

cf_status cf_lines_process(const cf_lines_args *args, cf_lines_whole_fn on_whole,
                           cf_lines_value_fn on_value, void *user, cf_error *error)
{
    cf_bytes input = {0};
    cf_status status;
    if (args->text == NULL) {
        status = cf_bytes_read(args->file != NULL ? args->file : "-", &input, error);
    } else {
        size_t n = strlen(args->text);
        status = cf_bytes_reserve(&input, n + 1, error);
        if (status == CF_STATUS_OK)
            memcpy(input.data, args->text, n);
        input.n = n;
    }
    if (status == CF_STATUS_OK)
        status = args->jsonl ? process_lines(&input, on_value, user, error)
                             : on_whole(user, &input, error);
    cf_bytes_free(&input);
    return status;
}
