/* clusterfusion detokenize: ids in, text out. */
#include "base/status.h"
#include "cli/command.h"
#include "cli/ids.h"
#include "cli/lines.h"
#include "cli/open.h"
#include "cli/output.h"
#include "cli/report.h"

#include <stdio.h>
#include <string.h>

typedef struct detokenize_args {
    cf_model_args model;
    cf_lines_args input;
    bool skip_special;
} detokenize_args;

static const cf_option detokenize_options[] = {
    CF_ROW_MODEL(detokenize_args),
    CF_ROW_TOKENIZER(detokenize_args),
    {.name = "ids",
     .kind = CF_OPTION_TEXT,
     .value = "1,2,3",
     .offset = offsetof(detokenize_args, input.text),
     .help = "The ids, separated by commas or spaces. Default: stdin."},
    CF_ROW_FILE(detokenize_args),
    CF_ROW_JSONL(detokenize_args),
    {.name = "skip-special",
     .kind = CF_OPTION_FLAG,
     .offset = offsetof(detokenize_args, skip_special),
     .help = "Special tokens, such as <|endoftext|>, give no text."},
    {0},
};

typedef struct decoder {
    const cf_tokenizer *tokenizer;
    uint32_t flags;
    cf_ids ids;
    cf_bytes text;
} decoder;

static cf_status decode_all(void *user, const cf_bytes *input, cf_error *error)
{
    decoder *self = user;
    CF_TRY(cf_ids_parse(input->data, input->n, &self->ids, error));
    CF_TRY(cf_bytes_decode(self->tokenizer, &self->ids, self->flags, &self->text, error));
    fwrite(self->text.data, 1, self->text.n, stdout);
    return CF_STATUS_OK;
}

static cf_status read_ids(const json_t *array, cf_ids *ids, cf_error *error)
{
    if (!json_is_array(array))
        return cf_fail(error, CF_STATUS_BAD_FILE, "expected an array, found %s",
                       cf_json_kind(array));
    size_t n = json_array_size(array);
    CF_TRY(cf_ids_reserve(ids, n, error));
    for (ids->n = 0; ids->n < n; ids->n++) {
        const json_t *item = json_array_get(array, ids->n);
        if (!json_is_integer(item))
            return cf_fail(error, CF_STATUS_BAD_FILE, "id %zu: expected an integer, found %s",
                           ids->n, cf_json_kind(item));
        json_int_t id = json_integer_value(item);
        if (id < 0 || id > INT32_MAX)
            return cf_fail(error, CF_STATUS_BAD_FILE,
                           "id %zu: expected an integer from 0 to %d, found %lld", ids->n,
                           INT32_MAX, (long long)id);
        ids->values[ids->n] = (cf_token)id;
    }
    return CF_STATUS_OK;
}

static cf_status decode_value(void *user, const json_t *value, cf_error *error)
{
    decoder *self = user;
    CF_TRY(read_ids(value, &self->ids, error));
    CF_TRY(cf_bytes_decode(self->tokenizer, &self->ids, self->flags, &self->text, error));
    return cf_json_print(json_stringn(self->text.data, self->text.n), error);
}

static int run(int argc, char **argv)
{
    detokenize_args args = {0};
    int code = cf_options_parse(&cf_command_detokenize, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    if (args.input.text != NULL && args.input.file != NULL)
        return cf_report_usage("expected one of --ids and --file, found both");
    cf_error error;
    cf_ids given = {0};
    bool is_right =
        args.input.text == NULL || args.input.jsonl ||
        cf_ids_parse(args.input.text, strlen(args.input.text), &given, &error) == CF_STATUS_OK;
    cf_ids_free(&given);
    if (!is_right)
        return cf_report_usage("--ids: %s", error.message);
    cf_tokenizer *tokenizer;
    cf_status status = cf_open_tokenizer(&args.model, "there is no other; give --tokenizer FILE",
                                         &tokenizer, &error);
    if (status == CF_STATUS_OK) {
        decoder self = {.tokenizer = tokenizer,
                        .flags = args.skip_special ? CF_DECODE_SKIP_SPECIAL : 0};
        status = cf_lines_process(&args.input, decode_all, decode_value, &self, &error);
        cf_ids_free(&self.ids);
        cf_bytes_free(&self.text);
    }
    cf_tokenizer_close(tokenizer);
    return status == CF_STATUS_OK ? CF_EXIT_OK : cf_report_error(&error);
}

const cf_command cf_command_detokenize = {
    .name = "detokenize",
    .summary = "turn token ids into text",
    .synopsis = "[-m DIR | --tokenizer FILE] [--ids 1,2,3 | --file FILE] [--jsonl]",
    .description = "Reads ids, from stdin unless told otherwise, separated by commas, spaces or\n"
                   "newlines, and prints their text and nothing else: what tokenize printed for a\n"
                   "text gives that text again, in Unicode's composed form (NFC). Bytes that are\n"
                   "not UTF-8 become U+FFFD; ids without text give none.\n"
                   "\n"
                   "With --jsonl each input line is an array of ids and each output line a JSON\n"
                   "string. A line that is not ends the work with exit code 1 and a message that\n"
                   "names it; the lines before it have been printed.\n",
    .options = detokenize_options,
    .examples = "  clusterfusion detokenize --ids 464,1893,318\n"
                "  clusterfusion tokenize -p Hello | clusterfusion detokenize\n"
                "  clusterfusion detokenize --jsonl < ids.jsonl\n",
    .run = run,
};
