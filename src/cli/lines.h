/* Input as a whole or as JSON lines: what tokenize and detokenize share. */
#ifndef CF_CLI_LINES_H
#define CF_CLI_LINES_H

#include "base/json.h"
#include "cli/ids.h"
#include "cli/options.h"

typedef struct cf_lines_args {
    const char *text; /* given on the command line, or NULL */
    const char *file; /* NULL: stdin */
    bool jsonl;
} cf_lines_args;

/* Rows of a command's table of options; `type` has a field `input` of type cf_lines_args. */
#define CF_ROW_FILE(type)                                                                          \
    {                                                                                              \
        .name = "file", .kind = CF_OPTION_TEXT, .value = "FILE",                                   \
        .offset = offsetof(type, input.file), .help = "Read this file; - is stdin, the default."   \
    }
#define CF_ROW_JSONL(type)                                                                         \
    {                                                                                              \
        .name = "jsonl", .kind = CF_OPTION_FLAG, .offset = offsetof(type, input.jsonl),            \
        .help = "One JSON value a line, in and out."                                               \
    }

typedef cf_status (*cf_lines_whole_fn)(void *user, const cf_bytes *input, cf_error *error);
typedef cf_status (*cf_lines_value_fn)(void *user, const json_t *value, cf_error *error);

/*
 * Reads the input and gives it to `on_whole`, or each line's value to `on_value`. Empty lines at
 * the end and a byte order mark at the beginning of lines are nothing. Stops at the first failure,
 * whose message begins with the line's number.
 */
cf_status cf_lines_process(const cf_lines_args *args, cf_lines_whole_fn on_whole,
                           cf_lines_value_fn on_value, void *user, cf_error *error);

#endif
