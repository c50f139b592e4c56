/* clusterfusion tokenize: text in, ids out. */
#include "base/status.h"
#include "cli/command.h"
#include "cli/ids.h"
#include "cli/lines.h"
#include "cli/open.h"
#include "cli/output.h"
#include "cli/report.h"

#include <stdio.h>

typedef struct tokenize_args {
    cf_model_args model;
    cf_lines_args input;
    bool no_special;
} tokenize_args;

static const cf_option tokenize_options[] = {
    CF_ROW_MODEL(tokenize_args),
    CF_ROW_TOKENIZER(tokenize_args),
    {.name = "prompt",
     .letter = 'p',
     .kind = CF_OPTION_TEXT,
     .value = "TEXT",
     .offset = offsetof(tokenize_args, input.text),
     .help = "The text. Default: stdin."},
    CF_ROW_FILE(tokenize_args),
    CF_ROW_JSONL(tokenize_args),
    {.name = "no-special",
     .kind = CF_OPTION_FLAG,
     .offset = offsetof(tokenize_args, no_special),
     .help = "Read text that spells a special token, such as <|endoftext|>, as ordinary text."},
    {0},
};

typedef struct encoder {
    const cf_tokenizer *tokenizer;
    uint32_t flags;
    cf_ids ids;
} encoder;

static cf_status encode_all(void *user, const cf_bytes *text, cf_error *error)
{
    encoder *self = user;
    CF_TRY(cf_ids_encode(self->tokenizer, text->data, text->n, self->flags, &self->ids, error));
    for (size_t i = 0; i < self->ids.n; i++)
        printf(i == 0 ? "%d" : " %d", self->ids.values[i]);
    putchar('\n');
    return CF_STATUS_OK;
}

static cf_status encode_value(void *user, const json_t *value, cf_error *error)
{
    encoder *self = user;
    if (!json_is_string(value))
        return cf_fail(error, CF_STATUS_BAD_FILE, "expected a string, found %s",
                       cf_json_kind(value));
    CF_TRY(cf_ids_encode(self->tokenizer, json_string_value(value), json_string_length(value),
                         self->flags, &self->ids, error));
    return cf_json_print(cf_json_ids(self->ids.values, self->ids.n), error);
}

static int run(int argc, char **argv)
{
    tokenize_args args = {0};
    int code = cf_options_parse(&cf_command_tokenize, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    if (args.input.text != NULL && args.input.file != NULL)
        return cf_report_usage("expected one of --prompt and --file, found both");
    cf_error error;
    cf_tokenizer *tokenizer;
    cf_status status = cf_open_tokenizer(&args.model, "there is no other; give --tokenizer FILE",
                                         &tokenizer, &error);
    if (status == CF_STATUS_OK) {
        encoder self = {.tokenizer = tokenizer,
                        .flags = args.no_special ? CF_ENCODE_NO_SPECIAL : 0};
        status = cf_lines_process(&args.input, encode_all, encode_value, &self, &error);
        cf_ids_free(&self.ids);
    }
    cf_tokenizer_close(tokenizer);
    return status == CF_STATUS_OK ? CF_EXIT_OK : cf_report_error(&error);
}

const cf_command cf_command_tokenize = {
    .name = "tokenize",
    .summary = "turn text into token ids",
    .synopsis = "[-m DIR | --tokenizer FILE] [-p TEXT | --file FILE] [--jsonl]",
    .description =
        "Reads text, from stdin unless told otherwise, and prints its ids on one line,\n"
        "separated by spaces. The text is taken byte for byte: a newline at its end is\n"
        "part of it. Bytes that are not UTF-8 are read as U+FFFD.\n"
        "\n"
        "With --jsonl each input line is a JSON string and each output line an array of\n"
        "ids. A line that is not ends the work with exit code 1 and a message that\n"
        "names it; the lines before it have been printed.\n",
    .options = tokenize_options,
    .examples = "  clusterfusion tokenize -p \"Once upon a time\"\n"
                "  clusterfusion tokenize --tokenizer 20B_tokenizer.json < book.txt > ids.txt\n"
                "  clusterfusion tokenize --jsonl < lines.jsonl\n",
    .run = run,
};
