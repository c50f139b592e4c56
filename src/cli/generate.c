/* clusterfusion generate: text that goes on from a prompt. */
#include "cli/generate.h"

#include "base/status.h"
#include "cli/command.h"
#include "cli/report.h"

#define FIELD(name) offsetof(cf_generate_args, name)

static const cf_option generate_options[] = {
    CF_ROW_MODEL(cf_generate_args),
    CF_ROW_TOKENIZER(cf_generate_args),
    {.name = "prompt",
     .letter = 'p',
     .kind = CF_OPTION_TEXT,
     .value = "TEXT",
     .offset = FIELD(source.text),
     .help = "The text to go on from."},
    {.name = "prompt-file",
     .kind = CF_OPTION_TEXT,
     .value = "FILE",
     .offset = FIELD(source.file),
     .help = "Read the prompt from a file, byte for byte; - is stdin."},
    {.name = "prompt-ids",
     .kind = CF_OPTION_TEXT,
     .value = "1,2,3",
     .offset = FIELD(source.ids),
     .help = "The prompt as token ids, separated by commas; needs no tokenizer."},
    {.name = "no-prompt",
     .kind = CF_OPTION_FLAG,
     .offset = FIELD(no_prompt),
     .help = "Print the new text only, without the prompt before it."},
    {.name = "max-tokens",
     .letter = 'n',
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = FIELD(max_tokens),
     .max = INT32_MAX,
     .preset = "128",
     .help = "End after this many new tokens, or when the context is full."},
    {.name = "temperature",
     .kind = CF_OPTION_REAL,
     .value = "X",
     .offset = FIELD(temperature),
     .max = 100,
     .preset = "0",
     .help = "Divide the logits by this before sampling; 0 always takes the most probable token."},
    {.name = "top-k",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = FIELD(top_k),
     .max = INT32_MAX,
     .preset = "0",
     .help = "Sample among the N most probable tokens; 0: among all."},
    {.name = "top-p",
     .kind = CF_OPTION_REAL,
     .value = "X",
     .offset = FIELD(top_p),
     .max = 1,
     .preset = "1",
     .help = "Sample among the fewest most probable tokens whose sum reaches this; 0 or 1: among "
             "all."},
    {.name = "min-p",
     .kind = CF_OPTION_REAL,
     .value = "X",
     .offset = FIELD(min_p),
     .max = 1,
     .below_max = true,
     .preset = "0",
     .help =
         "Sample among tokens at least X times as probable as the most probable; 0: among all."},
    {.name = "repetition-penalty",
     .kind = CF_OPTION_REAL,
     .value = "X",
     .offset = FIELD(repetition_penalty),
     .min = 0.001,
     .max = 1000,
     .or_zero = true,
     .preset = "1",
     .help = "Divide positive logits of tokens that already occurred in prompt or new text by "
             "this, multiply negative ones; 0 or 1: off."},
    {.name = "presence-penalty",
     .kind = CF_OPTION_REAL,
     .value = "X",
     .offset = FIELD(presence_penalty),
     .min = -1000,
     .max = 1000,
     .preset = "0",
     .help = "Subtract this from the logits of tokens that the new text already has."},
    {.name = "frequency-penalty",
     .kind = CF_OPTION_REAL,
     .value = "X",
     .offset = FIELD(frequency_penalty),
     .min = -1000,
     .max = 1000,
     .preset = "0",
     .help = "The same, times the number of their occurrences."},
    {.name = "seed",
     .kind = CF_OPTION_SEED,
     .value = "N",
     .offset = FIELD(seed),
     .preset = "0",
     .help = "Same seed, model, prompt, options and backend: same text."},
    {.name = "stop",
     .kind = CF_OPTION_TEXTS,
     .value = "TEXT",
     .offset = FIELD(stops),
     .help = "End before this text, in UTF-8, which is not printed. May be repeated."},
    {.name = "ignore-eos",
     .kind = CF_OPTION_FLAG,
     .offset = FIELD(ignore_eos),
     .help = "Go on after the end-of-text token."},
    CF_ROW_CONTEXT(cf_generate_args, "the model's"),
    CF_ROW_THREADS(cf_generate_args),
    CF_ROW_BACKEND(cf_generate_args),
    CF_ROW_KV(cf_generate_args),
    {.name = "format",
     .kind = CF_OPTION_CHOICE,
     .value = "FORM",
     .offset = FIELD(json),
     .choices = {"text", "json"},
     .preset = "text",
     .help = "Text as it comes, or one JSON object at the end."},
    {.name = "top-logprobs",
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = FIELD(n_top),
     .max = 64,
     .preset = "0",
     .help = "JSON: add top_logprobs, the N most probable tokens at each step."},
    {0},
};

static cf_status generate(const cf_generate_args *args, cf_session *session, cf_writer *writer,
                          bool *cancelled, cf_error *error)
{
    cf_sampling sampling = {
        .size = sizeof sampling,
        .temperature = (float)args->temperature,
        .top_k = (int32_t)args->top_k,
        .top_p = (float)args->top_p,
        .min_p = (float)args->min_p,
        .repetition_penalty = (float)args->repetition_penalty,
        .presence_penalty = (float)args->presence_penalty,
        .frequency_penalty = (float)args->frequency_penalty,
        .seed = args->seed,
    };
    cf_generate_options options = {
        .size = sizeof options,
        .sampling = &sampling,
        .stops = args->stops.values,
        .n_stops = args->stops.n,
        .ignore_eos = args->ignore_eos,
        .n_top = (int32_t)args->n_top,
    };
    const cf_ids *prompt = &writer->input->ids;
    cf_generate_stats stats;
    cf_status status =
        cf_generate(session, writer->tokenizer, prompt->values, prompt->n, args->max_tokens,
                    &options, cf_writer_on_event, writer, &stats, error);
    cf_progress_clear(&writer->progress);
    if (status != CF_STATUS_OK)
        return status;
    *cancelled = stats.finish == CF_FINISH_CANCELLED;
    return cf_writer_finish(writer, &stats, error);
}

static const char *needed_for(const cf_generate_args *args)
{
    if (args->source.ids == NULL)
        return "text needs a tokenizer; give --tokenizer FILE, or --prompt-ids in place of text";
    if (args->stops.n > 0)
        return "--stop needs a tokenizer; give --tokenizer FILE";
    return NULL;
}

static cf_status open_and_generate(const cf_generate_args *args, cf_input *input, bool *cancelled,
                                   cf_error *error)
{
    cf_opened opened;
    cf_writer writer = {.args = args, .input = input};
    cf_status status =
        cf_open_all(&args->model, &args->source, needed_for(args), input, &opened, error);
    if (status == CF_STATUS_OK)
        status = cf_writer_open(&writer, error);
    if (status == CF_STATUS_OK) {
        writer.tokenizer = opened.tokenizer;
        writer.model = opened.model;
        status = generate(args, opened.session, &writer, cancelled, error);
    }
    cf_writer_close(&writer);
    cf_open_close(&opened);
    return status;
}

static int run(int argc, char **argv)
{
    cf_generate_args args = {0};
    int code = cf_options_parse(&cf_command_generate, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    args.source.text_option = "prompt";
    args.source.file_option = "prompt-file";
    args.source.ids_option = "prompt-ids";
    cf_input input = {0};
    cf_error error;
    bool cancelled = false;
    code = cf_source_check(&args.source, &input);
    if (code == CF_EXIT_OK && open_and_generate(&args, &input, &cancelled, &error) != CF_STATUS_OK)
        code = cf_report_error(&error);
    else if (cancelled)
        code = CF_EXIT_INTERRUPTED;
    cf_input_free(&input);
    return code;
}

const cf_command cf_command_generate = {
    .name = "generate",
    .summary = "write text that goes on from a prompt",
    .synopsis = "[-m DIR] (-p TEXT | --prompt-file FILE | --prompt-ids 1,2,3) [OPTION]...",
    .description =
        "Prints the prompt and, as it comes, the text that the model goes on with; then,\n"
        "to stderr, one line of statistics: tokens and speed of prompt and generation,\n"
        "why it ended, a hash of the last logits, and what computed them. The text ends\n"
        "with the end-of-text token, a stop text, after --max-tokens, or when the\n"
        "context is full. Without a tokenizer, ids are printed in place of text.\n"
        "\n"
        "--format json prints one object: prompt_ids; ids, the new tokens, an end-of-text\n"
        "token included; text, the new text, \"\" without a tokenizer; finish_reason,\n"
        "\"stop\", \"length\" or \"cancelled\"; logprobs, natural logarithms of the new\n"
        "tokens' probabilities, before any penalty or temperature; stats.\n"
        "\n"
        "Ctrl-C ends the generation: what was generated is printed whole, with statistics\n"
        "or as complete JSON, and the exit code is 130. A second Ctrl-C kills.\n"
        "\n"
        "Prompt bytes that are not UTF-8 are read as U+FFFD; a zero byte is a character\n"
        "like any other. To begin from nothing, give the end-of-text token as the prompt.\n",
    .options = generate_options,
    .examples =
        "  clusterfusion generate -p \"It was a bright morning\" -n 64\n"
        "  clusterfusion generate -m pythia-160m -p \"Dear Sir,\" --temperature 0.8 --seed 7\n"
        "  clusterfusion generate --prompt-file letter.txt --stop \"Yours\" --no-prompt\n"
        "  clusterfusion generate --prompt-ids 12,7,431 --format json\n",
    .run = run,
};
