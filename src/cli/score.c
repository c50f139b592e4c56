/* clusterfusion score: the log-probability of given text. */
#include "base/memory.h"
#include "base/status.h"
#include "cli/command.h"
#include "cli/open.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/source.h"

#include <math.h>
#include <stdio.h>

typedef struct score_args {
    cf_model_args model;
    cf_source source;
    size_t n_window, n_stride;
    size_t json;
} score_args;

static const cf_option score_options[] = {
    CF_ROW_MODEL(score_args),
    CF_ROW_TOKENIZER(score_args),
    {.name = "prompt",
     .letter = 'p',
     .kind = CF_OPTION_TEXT,
     .value = "TEXT",
     .offset = offsetof(score_args, source.text),
     .help = "The text to score."},
    {.name = "file",
     .kind = CF_OPTION_TEXT,
     .value = "FILE",
     .offset = offsetof(score_args, source.file),
     .help = "Score this file's text; - is stdin."},
    {.name = "ids",
     .kind = CF_OPTION_TEXT,
     .value = "1,2,3",
     .offset = offsetof(score_args, source.ids),
     .help = "Score these ids, separated by commas; needs no tokenizer."},
    {.name = "window",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = offsetof(score_args, n_window),
     .min = 1,
     .max = CF_MAX_CONTEXT,
     .help = "Tokens evaluated together, at most the context. Default: the context."},
    {.name = "stride",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = offsetof(score_args, n_stride),
     .min = 1,
     .max = CF_MAX_CONTEXT,
     .help = "Tokens by which windows advance, at most the window. Default: half the window."},
    CF_ROW_CONTEXT(score_args, "the model's"),
    CF_ROW_THREADS(score_args),
    CF_ROW_BACKEND(score_args),
    CF_ROW_KV(score_args),
    {.name = "format",
     .kind = CF_OPTION_CHOICE,
     .value = "FORM",
     .offset = offsetof(score_args, json),
     .choices = {"text", "json"},
     .preset = "text",
     .help = "A summary, or one JSON object with every token's log-probability."},
    {0},
};

/* The sum over the tokens that have a log-probability: all but the first. */
static double sum_logprobs(const float *logprobs, size_t n)
{
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        sum += (double)logprobs[i];
    return sum;
}

static json_t *make_json(const cf_ids *ids, const float *logprobs)
{
    json_t *values = json_array();
    for (size_t i = 0; i < ids->n; i++) {
        if (json_array_append_new(values, cf_json_real((double)logprobs[i])) != 0) {
            json_decref(values);
            return NULL;
        }
    }
    double sum = sum_logprobs(logprobs, ids->n);
    size_t n_scored = ids->n - 1;
    double perplexity = n_scored > 0 ? exp(-sum / (double)n_scored) : (double)NAN;
    return json_pack("{s:o, s:o, s:o, s:o, s:I}", "ids", cf_json_ids(ids->values, ids->n),
                     "token_logprobs", values, "sum_logprob", cf_json_real(sum), "perplexity",
                     cf_json_real(perplexity), "n_scored", (json_int_t)n_scored);
}

/* Bytes of the scored tokens' text: all but the first's. */
static size_t count_bytes(const cf_tokenizer *tokenizer, const cf_ids *ids)
{
    size_t total = 0;
    for (size_t i = 1; tokenizer != NULL && i < ids->n; i++) {
        size_t n;
        cf_tokenizer_bytes(tokenizer, ids->values[i], &n);
        total += n;
    }
    return total;
}

static void print_summary(const cf_tokenizer *tokenizer, const cf_ids *ids, const float *logprobs)
{
    double sum = sum_logprobs(logprobs, ids->n);
    size_t n_scored = ids->n - 1, n_bytes = count_bytes(tokenizer, ids);
    printf("tokens       %zu\nscored       %zu\nlog-prob     %.9g nats\n", ids->n, n_scored, sum);
    if (n_scored == 0)
        return;
    printf("mean         %.9g nats a token\n", sum / (double)n_scored);
    printf("perplexity   %.9g\n", exp(-sum / (double)n_scored));
    if (n_bytes > 0)
        printf("bits a byte  %.9g\n", -sum / log(2) / (double)n_bytes);
}

/* The bounds that only an open session tells. */
static int check_window(const score_args *args, const cf_session *session)
{
    size_t n_context = cf_session_n_context(session);
    size_t n_window = args->n_window != 0 ? args->n_window : n_context;
    if (n_window > n_context)
        return cf_report_usage("--window: expected at most the context of %zu tokens, found %zu",
                               n_context, n_window);
    if (args->n_stride > n_window)
        return cf_report_usage("--stride: expected at most the window of %zu tokens, found %zu",
                               n_window, args->n_stride);
    return CF_EXIT_OK;
}

static cf_status score_ids(const score_args *args, cf_session *session, const cf_ids *ids,
                           const cf_tokenizer *tokenizer, cf_error *error)
{
    float *logprobs;
    cf_progress progress = {0};
    CF_TRY(CF_ALLOC(&logprobs, ids->n, "log-probabilities", error));
    cf_score_options options = {
        .size = sizeof options,
        .n_window = args->n_window,
        .n_stride = args->n_stride,
        .progress = cf_progress_update,
        .progress_user = &progress,
    };
    cf_status status = cf_score(session, ids->values, ids->n, &options, logprobs, NULL, error);
    cf_progress_clear(&progress);
    if (status == CF_STATUS_OK) {
        if (args->json)
            status = cf_json_print(make_json(ids, logprobs), error);
        else
            print_summary(tokenizer, ids, logprobs);
    }
    cf_dealloc(logprobs);
    return status;
}

static int open_and_score(const score_args *args, cf_input *input)
{
    cf_error error;
    const char *needed_for = NULL;
    if (args->source.ids == NULL)
        needed_for = "text needs a tokenizer; give --tokenizer FILE, or --ids in place of text";
    cf_opened opened;
    cf_status status = cf_open_all(&args->model, &args->source, needed_for, input, &opened, &error);
    int code = status == CF_STATUS_OK ? check_window(args, opened.session) : CF_EXIT_OK;
    if (status == CF_STATUS_OK && code == CF_EXIT_OK)
        status = score_ids(args, opened.session, &input->ids, opened.tokenizer, &error);
    cf_open_close(&opened);
    return status == CF_STATUS_OK ? code : cf_report_error(&error);
}

static int run(int argc, char **argv)
{
    score_args args = {0};
    int code = cf_options_parse(&cf_command_score, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    if (args.n_window != 0 && args.n_stride > args.n_window)
        return cf_report_usage("--stride: expected at most the window of %zu, found %zu",
                               args.n_window, args.n_stride);
    args.source.text_option = "prompt";
    args.source.file_option = "file";
    args.source.ids_option = "ids";
    cf_input input = {0};
    code = cf_source_check(&args.source, &input);
    if (code == CF_EXIT_OK)
        code = open_and_score(&args, &input);
    cf_input_free(&input);
    return code;
}

const cf_command cf_command_score = {
    .name = "score",
    .summary = "measure how probable a text is",
    .synopsis = "[-m DIR] (-p TEXT | --file FILE | --ids 1,2,3) [OPTION]...",
    .description =
        "Computes the log-probability of each token given those before it, and prints\n"
        "their number, sum and mean, the perplexity exp(-mean), and, where the text is\n"
        "known, bits a byte. The first token has nothing before it and is not scored.\n"
        "\n"
        "Text longer than the window is read in overlapping windows that advance by the\n"
        "stride; each token is scored once, in the first window that holds the token\n"
        "before it. Smaller strides give tokens more context and take longer.\n"
        "\n"
        "--format json prints one object: ids; token_logprobs, null for the first;\n"
        "sum_logprob; perplexity, null if nothing was scored; n_scored. Logarithms are\n"
        "natural. Text from a file is taken byte for byte, its last newline included.\n",
    .options = score_options,
    .examples = "  clusterfusion score -p \"It is a truth universally acknowledged\"\n"
                "  clusterfusion score -m pythia-160m --file book.txt --window 2048 --stride 512\n"
                "  clusterfusion score --ids 12,7,431 --format json\n",
    .run = run,
};
