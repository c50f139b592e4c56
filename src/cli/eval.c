/* clusterfusion eval: how well checkpoints predict a text, or answer questions. */
#include "cli/eval.h"

#include "base/memory.h"
#include "base/status.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/report.h"

#include <stdio.h>
#include <string.h>

static const cf_option eval_options[] = {
    {.name = "model",
     .letter = 'm',
     .kind = CF_OPTION_TEXTS,
     .value = "DIR",
     .offset = offsetof(cf_eval_args, models),
     .help = "A checkpoint: a Hugging Face folder with config.json and weights; may be repeated. "
             "Default: the bundled model."},
    {.name = "revisions",
     .kind = CF_OPTION_TEXT,
     .value = "DIR",
     .offset = offsetof(cf_eval_args, revisions),
     .help = "Every folder in this one that holds a config.json is a checkpoint, in the order of "
             "their names: step1, step2, step10."},
    CF_ROW_TOKENIZER(cf_eval_args),
    {.name = "file",
     .kind = CF_OPTION_TEXT,
     .value = "FILE",
     .offset = offsetof(cf_eval_args, file),
     .help = "Measure the perplexity of this file's text; - is stdin."},
    {.name = "tasks",
     .kind = CF_OPTION_TEXT,
     .value = "FILE",
     .offset = offsetof(cf_eval_args, tasks),
     .help = "Answer the questions in this file, a JSON object a line; - is stdin."},
    {.name = "delimiter",
     .kind = CF_OPTION_TEXT,
     .value = "TEXT",
     .offset = offsetof(cf_eval_args, delimiter),
     .help = "What stands between context and choice, may be empty. Default: a space."},
    {.name = "window",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = offsetof(cf_eval_args, n_window),
     .min = 1,
     .max = CF_MAX_CONTEXT,
     .help = "Tokens evaluated together, at most the context. Default: the context."},
    {.name = "stride",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = offsetof(cf_eval_args, n_stride),
     .min = 1,
     .max = CF_MAX_CONTEXT,
     .help = "Tokens of a text by which windows advance, at most the window. Default: the window."},
    {.name = "no-hash",
     .kind = CF_OPTION_FLAG,
     .offset = offsetof(cf_eval_args, no_hash),
     .help = "Leave out the hash of the weights, which reads all of them."},
    CF_ROW_CONTEXT(cf_eval_args, "the model's"),
    CF_ROW_THREADS(cf_eval_args),
    CF_ROW_BACKEND(cf_eval_args),
    CF_ROW_KV(cf_eval_args),
    {.name = "format",
     .kind = CF_OPTION_CHOICE,
     .value = "FORM",
     .offset = offsetof(cf_eval_args, format),
     .choices = {"table", "csv", "json"},
     .preset = "table",
     .help = "A table for the eye, lines for a spreadsheet as they come, or one JSON object."},
    {0},
};

/* What is read once, and the results so far. */
typedef struct evaluation {
    const cf_eval_args *args;
    cf_bytes text;
    cf_questions questions;
    cf_checkpoints checkpoints;
    cf_eval_row *rows;
    size_t n_rows, n_measured;
    int code; /* what the program will end with */
} evaluation;

/* Two checkpoints with the same weights are one that was copied, or downloaded under a wrong name.
 */
static void warn_if_seen(const evaluation *self, const cf_eval_row *row)
{
    for (size_t i = 0; i < self->n_rows && row->hash[0] != 0; i++) {
        if (strcmp(self->rows[i].hash, row->hash) == 0) {
            cf_report_note("clusterfusion eval: warning: %s has the same weights as %s (hash %s)",
                           row->model, self->rows[i].model, row->hash);
            return;
        }
    }
}

static cf_status hash_weights(const evaluation *self, const cf_model *model, cf_eval_row *row,
                              cf_error *error)
{
    if (self->args->no_hash)
        return CF_STATUS_OK;
    cf_progress progress = {0};
    cf_status status = cf_model_hash(model, cf_progress_update, &progress, row->hash, error);
    cf_progress_clear(&progress);
    if (status == CF_STATUS_OK)
        warn_if_seen(self, row);
    else
        row->hash[0] = 0;
    return status == CF_STATUS_UNSUPPORTED ? CF_STATUS_OK : status;
}

/* The bounds that only an open session tells; 0 becomes the default. */
static cf_status choose_window(const cf_eval_args *args, const cf_session *session,
                               size_t *n_window, size_t *n_stride, cf_error *error)
{
    size_t n_context = cf_session_n_context(session);
    *n_window = args->n_window != 0 ? args->n_window : n_context;
    *n_stride = args->n_stride != 0 ? args->n_stride : *n_window;
    if (*n_window > n_context)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "--window: expected at most the context of %zu tokens, found %zu", n_context,
                       *n_window);
    if (*n_stride > *n_window)
        return cf_fail(error, CF_STATUS_INVALID_ARGUMENT,
                       "--stride: expected at most the window of %zu tokens, found %zu", *n_window,
                       *n_stride);
    return CF_STATUS_OK;
}

static cf_status measure(const evaluation *self, const cf_opened *opened, cf_eval_row *row,
                         cf_error *error)
{
    const cf_eval_args *args = self->args;
    size_t n_window, n_stride;
    CF_TRY(choose_window(args, opened->session, &n_window, &n_stride, error));
    if (args->file != NULL)
        return cf_eval_text(&self->text, n_window, n_stride, opened, &row->text, error);
    const char *delimiter = args->delimiter != NULL ? args->delimiter : " ";
    cf_status status =
        cf_eval_tasks(&self->questions, delimiter, n_window, opened, &row->tasks, error);
    if (status != CF_STATUS_OK)
        return cf_fail_within(error, status, args->tasks);
    if (row->tasks.n_truncated > 0)
        cf_report_note("clusterfusion eval: %s: %zu of %zu questions are longer than the window of "
                       "%zu tokens: the beginnings of their contexts were cut off",
                       row->model, row->tasks.n_truncated, row->tasks.n_questions, n_window);
    return CF_STATUS_OK;
}

static cf_status open_and_measure(const evaluation *self, const char *path, cf_eval_row *row,
                                  cf_error *error)
{
    cf_model_args args = self->args->model;
    args.model = path;
    cf_session_options options = cf_open_session_options(&args);
    cf_progress progress = {0};
    cf_opened opened = {0};
    cf_status status = cf_open_model(&args, &progress, &opened.model, error);
    if (status == CF_STATUS_OK)
        status = cf_open_tokenizer(&args, "text needs a tokenizer; give --tokenizer FILE",
                                   &opened.tokenizer, error);
    if (status == CF_STATUS_OK)
        status = hash_weights(self, opened.model, row, error);
    if (status == CF_STATUS_OK)
        status = cf_session_create(opened.model, &options, &opened.session, error);
    if (status == CF_STATUS_OK)
        status = measure(self, &opened, row, error);
    cf_open_close(&opened);
    return status;
}

/* A checkpoint that fails is reported and has no results; false if the others must not be tried. */
static bool report_failure(evaluation *self, cf_eval_row *row)
{
    cf_error error = row->error;
    bool is_cancelled = error.status == CF_STATUS_CANCELLED;
    row->hash[0] = 0;
    self->n_rows += !is_cancelled;
    if (!is_cancelled && self->checkpoints.n > 1)
        cf_fail_within(&error, error.status, row->model);
    self->code = cf_report_error(&error);
    return !is_cancelled;
}

static bool evaluate_one(evaluation *self, size_t index)
{
    cf_eval_row *row = &self->rows[self->n_rows];
    *row = (cf_eval_row){.model = self->checkpoints.items[index].name};
    if (open_and_measure(self, self->checkpoints.items[index].path, row, &row->error) !=
        CF_STATUS_OK)
        return report_failure(self, row);
    row->error.status = CF_STATUS_OK;
    self->n_rows++;
    self->n_measured++;
    if (self->args->format != CF_EVAL_CSV)
        return true;
    cf_eval_print_csv_row(self->args, row, self->n_measured == 1);
    return cf_output_flush();
}

static cf_status read_input(evaluation *self, cf_error *error)
{
    const cf_eval_args *args = self->args;
    if (args->tasks != NULL)
        return cf_questions_read(args->tasks, &self->questions, error);
    FILE *stream;
    CF_TRY(cf_stream_open(NULL, args->file, &stream, error));
    cf_status status = cf_bytes_read(stream, args->file, &self->text, error);
    cf_stream_close(stream);
    return status;
}

static cf_status evaluate_all(evaluation *self, cf_error *error)
{
    const cf_eval_args *args = self->args;
    CF_TRY(read_input(self, error));
    cf_interrupt_catch();
    CF_TRY(cf_checkpoints_list(args, &self->checkpoints, error));
    CF_TRY(CF_ALLOC(&self->rows, self->checkpoints.n, "results", error));
    for (size_t i = 0; i < self->checkpoints.n; i++) {
        if (!evaluate_one(self, i))
            break;
    }
    if (args->format == CF_EVAL_TABLE && self->n_measured == 0)
        return CF_STATUS_OK;
    return cf_eval_print(args, self->rows, self->n_rows, error);
}

static int check_usage(const cf_eval_args *args)
{
    if ((args->file != NULL) == (args->tasks != NULL))
        return cf_report_usage("expected one of --file and --tasks, found %s",
                               args->file != NULL ? "both" : "none");
    if (args->tasks != NULL && args->n_stride != 0)
        return cf_report_usage("--stride: is for the text of --file, found with --tasks");
    if (args->file != NULL && args->delimiter != NULL)
        return cf_report_usage("--delimiter: is for the questions of --tasks, found with --file");
    if (args->n_window != 0 && args->n_stride > args->n_window)
        return cf_report_usage("--stride: expected at most the window of %zu, found %zu",
                               args->n_window, args->n_stride);
    return CF_EXIT_OK;
}

static int run(int argc, char **argv)
{
    cf_eval_args args = {0};
    int code = cf_options_parse(&cf_command_eval, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    code = check_usage(&args);
    if (code != CF_EXIT_OK)
        return code;
    evaluation self = {.args = &args};
    cf_error error;
    if (evaluate_all(&self, &error) != CF_STATUS_OK)
        self.code = cf_report_error(&error);
    cf_dealloc(self.rows);
    cf_checkpoints_free(&self.checkpoints);
    cf_questions_free(&self.questions);
    cf_bytes_free(&self.text);
    return self.code;
}

const cf_command cf_command_eval = {
    .name = "eval",
    .summary = "compare checkpoints on a text or on questions",
    .synopsis = "[-m DIR]... [--revisions DIR] (--file FILE | --tasks FILE) [OPTION]...",
    .description =
        "Measures one or more checkpoints and prints one table. What is computed, and how\n"
        "text is cut into tokens, is what EleutherAI's lm-evaluation-harness does, so\n"
        "that results compare.\n"
        "\n"
        "--file: the text's loss in nats a token, perplexity, bits a byte and perplexity\n"
        "a word (white space divides words). An end-of-text token stands before the\n"
        "text. The first window scores as many tokens as it holds, each further one as\n"
        "many as the stride, with the window's other tokens before them.\n"
        "\n"
        "--tasks: each line is {\"context\": TEXT, \"choices\": [TEXT, ...], \"answer\": INDEX};\n"
        "other keys are ignored. The choice with the largest log-probability after the\n"
        "context and the delimiter is the model's answer: acc is the part of right ones;\n"
        "acc_norm and acc_bytes the same by log-probability a character and a byte of\n"
        "the choice. A context too long for the window loses its beginning.\n"
        "\n"
        "After ± stands the standard error of the mean, over tokens or questions, as if\n"
        "they were independent. A checkpoint that fails is reported, left out of the\n"
        "table and listed as failed in JSON, and the exit code is 1. Two checkpoints with the same "
        "weights are warned of.\n",
    .options = eval_options,
    .examples = "  clusterfusion eval --file book.txt\n"
                "  clusterfusion eval -m pythia-70m -m pythia-160m --tasks questions.jsonl\n"
                "  clusterfusion eval --revisions pythia-70m-steps --file book.txt --format csv\n",
    .run = run,
};
