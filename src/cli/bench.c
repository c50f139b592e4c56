/* clusterfusion bench: how fast a model runs here, and how fast it could. */
#include "cli/bench.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/status.h"
#include "cli/command.h"
#include "cli/open.h"
#include "cli/report.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

#define MAX_REPEATS 1000

/* The prompts' ids: any will do, as long as they are the same each time. */
#define SEED 1

typedef struct bench_args {
    cf_model_args model;
    cf_counts prompts, generations, depths;
    size_t n_repeats;
    bool stages;
    const char *trace;
    size_t format;
} bench_args;

static const cf_option bench_options[] = {
    CF_ROW_MODEL(bench_args),
    {.name = "prompt-tokens",
     .letter = 'p',
     .kind = CF_OPTION_COUNTS,
     .value = "N,N",
     .offset = offsetof(bench_args, prompts),
     .max = CF_MAX_CONTEXT,
     .preset = "128,512",
     .help = "Lengths of prompts to time; 0: none."},
    {.name = "tokens",
     .letter = 'n',
     .kind = CF_OPTION_COUNTS,
     .value = "N,N",
     .offset = offsetof(bench_args, generations),
     .max = CF_MAX_CONTEXT - 1,
     .preset = "64,128",
     .help = "Lengths of generations to time; 0: none."},
    {.name = "depth",
     .letter = 'd',
     .kind = CF_OPTION_COUNTS,
     .value = "N,N",
     .offset = offsetof(bench_args, depths),
     .max = CF_MAX_CONTEXT - 1,
     .preset = "0",
     .help = "Tokens of context before each generation."},
    {.name = "repeats",
     .letter = 'r',
     .kind = CF_OPTION_COUNT,
     .value = "N",
     .offset = offsetof(bench_args, n_repeats),
     .min = 1,
     .max = MAX_REPEATS,
     .preset = "5",
     .help = "Timed runs of each, after one that is not timed."},
    CF_ROW_CONTEXT(bench_args, "the longest that is timed"),
    CF_ROW_THREADS(bench_args),
    CF_ROW_BACKEND(bench_args),
    CF_ROW_KV(bench_args),
    {.name = "stages",
     .kind = CF_OPTION_FLAG,
     .offset = offsetof(bench_args, stages),
     .help = "Also how long each stage of a layer takes, by a clock in the kernel (GPU)."},
    {.name = "trace",
     .kind = CF_OPTION_TEXT,
     .value = "FILE",
     .offset = offsetof(bench_args, trace),
     .help = "Write the stages of one token, in all layers and blocks, to FILE in the Trace "
             "Event format, which ui.perfetto.dev opens (GPU)."},
    {.name = "format",
     .kind = CF_OPTION_CHOICE,
     .value = "FORM",
     .offset = offsetof(bench_args, format),
     .choices = {"table", "csv", "json"},
     .preset = "table",
     .help = "A table for the eye, lines for a spreadsheet, or one JSON object."},
    {0},
};

/* Everything that a run needs. */
typedef struct bench {
    cf_model *model;
    cf_session *session;
    cf_token *ids;   /* as many as the longest prompt and the largest depth, and one more */
    float *logits;   /* [n_vocab] */
    double *seconds; /* [n_repeats] */
    size_t n_repeats, n_threads;
    size_t kv_bytes_per_token;
    cf_progress progress;
    size_t n_done, n_total; /* runs */
} bench;

static cf_spread measure_spread(const double *values, size_t n)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    return (cf_spread){mean, n > 1 ? sqrt(squares / (double)(n - 1)) : 0};
}

static cf_status time_prompt(bench *self, size_t n, double *seconds, cf_error *error)
{
    cf_outputs outputs = {.size = sizeof outputs, .logits = self->logits, .n_logits = 1};
    CF_TRY(cf_session_rewind(self->session, 0, error));
    uint64_t begin = cf_clock_ns();
    CF_TRY(cf_session_eval(self->session, self->ids, n, &outputs, error));
    *seconds = (double)(cf_clock_ns() - begin) * 1e-9;
    return CF_STATUS_OK;
}

static bool go_on(void *user, const cf_event *event)
{
    (void)user, (void)event;
    return !cf_interrupt_seen();
}

/* Leaves the session with the first `depth` of the ids, evaluating what it lacks of them. */
static cf_status go_to_depth(bench *self, size_t depth, cf_error *error)
{
    size_t n = cf_session_reuse(self->session, self->ids, depth);
    if (n == depth)
        return CF_STATUS_OK;
    return cf_session_eval(self->session, self->ids + n, depth - n, NULL, error);
}

/*
 * The first of n + 1 tokens comes of the prompt, of which the session holds all but the last token;
 * the clock runs for the n after it. The row then tells the depth that there was.
 */
static cf_status time_generation(bench *self, cf_bench_row *row, double *seconds, cf_error *error)
{
    cf_generate_options options = {.size = sizeof options, .ignore_eos = true};
    cf_generate_stats stats;
    CF_TRY(go_to_depth(self, row->depth, error));
    CF_TRY(cf_generate(self->session, NULL, self->ids, row->depth + 1, row->n_tokens + 1, &options,
                       go_on, NULL, &stats, error));
    if (stats.finish == CF_FINISH_CANCELLED)
        return cf_fail(error, CF_STATUS_CANCELLED, "interrupted");
    row->depth = stats.n_reused;
    *seconds = (double)stats.decode_ns * 1e-9;
    return CF_STATUS_OK;
}

static cf_status time_runs(bench *self, cf_bench_row *row, cf_error *error)
{
    double n = (double)row->n_tokens;
    for (size_t i = 0; i <= self->n_repeats; i++) {
        if (!cf_progress_update(&self->progress, "bench", self->n_done++, self->n_total))
            return cf_fail(error, CF_STATUS_CANCELLED, "interrupted");
        double *seconds = &self->seconds[i == 0 ? 0 : i - 1]; /* the first run warms up */
        if (row->is_prompt)
            CF_TRY(time_prompt(self, row->n_tokens, seconds, error));
        else
            CF_TRY(time_generation(self, row, seconds, error));
    }
    for (size_t i = 0; i < self->n_repeats; i++)
        self->seconds[i] *= 1e3 / n;
    row->ms_per_token = measure_spread(self->seconds, self->n_repeats);
    for (size_t i = 0; i < self->n_repeats; i++)
        self->seconds[i] = 1e3 / self->seconds[i];
    row->tokens_per_s = measure_spread(self->seconds, self->n_repeats);
    return CF_STATUS_OK;
}

/*
 * Raises the ceilings to what is measured now: other work on the machine can only make them look
 * too low. A backend that cannot measure them can be timed all the same: they stay 0 then.
 */
static cf_status raise_ceilings(const bench *self, size_t n_tokens, cf_ceilings *ceilings,
                                cf_error *error)
{
    cf_ceilings now;
    cf_error reason;
    cf_status status =
        cf_model_measure(self->model, (int32_t)self->n_threads, n_tokens, &now, &reason);
    if (status == CF_STATUS_UNSUPPORTED)
        return CF_STATUS_OK;
    if (status != CF_STATUS_OK)
        return cf_fail(error, status, "%s", reason.message);
    if (now.read_bytes_per_s > ceilings->read_bytes_per_s)
        ceilings->read_bytes_per_s = now.read_bytes_per_s;
    if (now.matmul_flop_per_s > ceilings->matmul_flop_per_s) {
        ceilings->matmul_flop_per_s = now.matmul_flop_per_s;
        ceilings->matmul_s = now.matmul_s;
    }
    return CF_STATUS_OK;
}

static cf_status run_prompt(bench *self, cf_bench_row *row, cf_ceilings *reading, cf_error *error)
{
    cf_ceilings ceilings = {.read_bytes_per_s = reading->read_bytes_per_s};
    CF_TRY(raise_ceilings(self, row->n_tokens, &ceilings, error));
    CF_TRY(time_runs(self, row, error));
    CF_TRY(raise_ceilings(self, row->n_tokens, &ceilings, error));
    double seconds = (double)row->n_tokens * row->ms_per_token.mean * 1e-3;
    row->reached = ceilings.matmul_flop_per_s * ceilings.matmul_s / seconds;
    row->ceiling = ceilings.matmul_flop_per_s;
    reading->read_bytes_per_s = ceilings.read_bytes_per_s;
    return CF_STATUS_OK;
}

static cf_status run_generation(bench *self, cf_bench_row *row, cf_error *error)
{
    CF_TRY(time_runs(self, row, error));
    /* Positions depth + 1 … depth + n: the token at position p reads p + 1 rows of the KV cache. */
    double n_rows = (double)row->depth + ((double)row->n_tokens + 3) / 2;
    row->bytes_per_token = (double)cf_model_info_get(self->model)->token_bytes +
                           (double)self->kv_bytes_per_token * n_rows;
    row->reached = row->bytes_per_token / (row->ms_per_token.mean * 1e-3);
    return CF_STATUS_OK;
}

static cf_bench_row *add_row(cf_bench_report *report, bool is_prompt, size_t depth, size_t n_tokens)
{
    cf_bench_row *row = &report->rows[report->n_rows++];
    *row = (cf_bench_row){.is_prompt = is_prompt, .depth = depth, .n_tokens = n_tokens};
    return row;
}

static cf_status run_prompts(const bench_args *args, bench *self, cf_bench_report *report,
                             cf_ceilings *reading, cf_error *error)
{
    for (size_t i = 0; i < args->prompts.n; i++) {
        size_t n = args->prompts.values[i];
        if (n > 0)
            CF_TRY(run_prompt(self, add_row(report, true, 0, n), reading, error));
    }
    return CF_STATUS_OK;
}

static cf_status run_generations(const bench_args *args, bench *self, cf_bench_report *report,
                                 cf_error *error)
{
    for (size_t d = 0; d < args->depths.n; d++)
        for (size_t i = 0; i < args->generations.n; i++) {
            size_t depth = args->depths.values[d], n = args->generations.values[i];
            if (n > 0)
                CF_TRY(run_generation(self, add_row(report, false, depth, n), error));
        }
    return CF_STATUS_OK;
}

static cf_status run_all(const bench_args *args, bench *self, cf_bench_report *report,
                         cf_error *error)
{
    cf_ceilings reading = {0};
    CF_TRY(raise_ceilings(self, 0, &reading, error));
    CF_TRY(run_prompts(args, self, report, &reading, error));
    CF_TRY(run_generations(args, self, report, error));
    CF_TRY(raise_ceilings(self, 0, &reading, error));
    report->read_bytes_per_s = reading.read_bytes_per_s;
    for (size_t i = 0; i < report->n_rows; i++) {
        if (!report->rows[i].is_prompt)
            report->rows[i].ceiling = reading.read_bytes_per_s;
    }
    return CF_STATUS_OK;
}

static size_t largest(const cf_counts *counts)
{
    size_t n = 0;
    for (size_t i = 0; i < counts->n; i++)
        n = counts->values[i] > n ? counts->values[i] : n;
    return n;
}

static size_t count_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return (size_t)CPU_COUNT(&set);
}

static cf_status prepare(const bench_args *args, bench *self, cf_error *error)
{
    const cf_shape *shape = cf_model_shape(self->model);
    size_t n_prompt = largest(&args->prompts), n_depth = largest(&args->depths);
    size_t n_ids = 1 + (n_prompt > n_depth ? n_prompt : n_depth);
    self->n_repeats = args->n_repeats;
    self->n_threads = args->model.n_threads;
    self->n_total =
        (args->prompts.n + args->generations.n * args->depths.n) * (args->n_repeats + 1);
    self->kv_bytes_per_token =
        2 * (size_t)shape->n_layers * (size_t)shape->d_model * (args->model.kv == 1 ? 4 : 2);
    CF_TRY(CF_ALLOC(&self->ids, n_ids, "prompt", error));
    CF_TRY(CF_ALLOC(&self->logits, (size_t)shape->n_vocab, "logits", error));
    CF_TRY(CF_ALLOC(&self->seconds, args->n_repeats, "times", error));
    for (size_t i = 0; i < n_ids; i++)
        self->ids[i] = (cf_token)(cf_random_uniform(SEED, i) * shape->n_vocab);
    cf_session_options options = cf_open_session_options(&args->model);
    return cf_session_create(self->model, &options, &self->session, error);
}

static void describe(const bench_args *args, const cf_model *model, cf_bench_report *report)
{
    const cf_model_info *info = cf_model_info_get(model);
    time_t now = time(NULL);
    struct tm parts;
    strftime(report->date, sizeof report->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    report->model = info->path;
    report->backend = cf_backend_name(info->backend);
    report->backend_text = info->backend_text;
    report->kv = args->model.kv == 1 ? "F32" : "F16";
    report->n_threads = args->model.n_threads;
    report->n_repeats = args->n_repeats;
}

/* The stages of the token at the largest depth. */
static cf_status trace(const bench_args *args, bench *self, cf_stages *stages, cf_error *error)
{
    size_t depth = largest(&args->depths);
    char title[512];
    CF_TRY(go_to_depth(self, depth, error));
    stages->pos = depth;
    CF_TRY(cf_stages_trace(self->session, self->model, self->ids[depth], stages, error));
    if (args->trace == NULL)
        return CF_STATUS_OK;
    const cf_model_info *info = cf_model_info_get(self->model);
    snprintf(title, sizeof title, "%s, position %zu: %s", info->path, depth, info->backend_text);
    return cf_stages_write(stages, args->trace, title, error);
}

static cf_status measure(const bench_args *args, bench *self, cf_bench_report *report,
                         cf_stages *stages, cf_error *error)
{
    uint64_t begin = cf_clock_ns();
    cf_model *model;
    CF_TRY(cf_open_model(&args->model, &self->progress, &model, error));
    self->model = model;
    describe(args, model, report);
    CF_TRY(prepare(args, self, error));
    report->open_s = (double)(cf_clock_ns() - begin) * 1e-9;
    if (args->stages || args->trace != NULL)
        CF_TRY(trace(args, self, stages, error));
    CF_TRY(run_all(args, self, report, error));
    cf_progress_clear(&self->progress);
    report->stages = args->stages ? stages : NULL;
    return cf_bench_print(report, (cf_bench_format)args->format, error);
}

static cf_status open_and_measure(const bench_args *args, cf_error *error)
{
    bench self = {0};
    cf_bench_report report = {0};
    cf_stages stages = {0};
    cf_interrupt_catch();
    cf_status status = measure(args, &self, &report, &stages, error);
    cf_progress_clear(&self.progress);
    cf_stages_free(&stages);
    cf_session_free(self.session);
    cf_dealloc(self.ids);
    cf_dealloc(self.logits);
    cf_dealloc(self.seconds);
    cf_model_close(self.model);
    return status;
}

static int run(int argc, char **argv)
{
    bench_args args = {0};
    int code = cf_options_parse(&cf_command_bench, argc, argv, &args);
    if (code != CF_OPTIONS_RUN)
        return code;
    size_t n_prompt = largest(&args.prompts), n_generated = largest(&args.generations) + 1;
    size_t n_most = largest(&args.depths) + n_generated;
    size_t needed = n_prompt > n_most ? n_prompt : n_most;
    if (args.model.n_context == 0)
        args.model.n_context = needed;
    if (args.model.n_context < needed)
        return cf_report_usage("--context: expected at least %zu, found %zu", needed,
                               args.model.n_context);
    if (args.stages && args.format == CF_BENCH_CSV)
        return cf_report_usage("--stages: expected --format table or json");
    if (args.model.n_threads == 0)
        args.model.n_threads = count_processors();
    cf_error error;
    return open_and_measure(&args, &error) == CF_STATUS_OK ? CF_EXIT_OK : cf_report_error(&error);
}

const cf_command cf_command_bench = {
    .name = "bench",
    .summary = "measure the speed of prompts and generation",
    .synopsis = "[-m DIR] [-p 128,512] [-n 64,128] [-d 0] [-r 5] [OPTION]...",
    .description =
        "Times prompts and generations of the given lengths, each some times after one\n"
        "run that is not timed, and prints mean and standard deviation of tokens a second\n"
        "and milliseconds a token, beside what bounds them, measured in the same run with\n"
        "as many threads: for generation, the bytes of weights and KV cache that a token\n"
        "reads, against reading memory; for prompts, the operations of their matrix\n"
        "products, against the BLAS doing nothing else. A model that fits the processor's\n"
        "caches can be faster than memory. Prompts are random, and the same each time.\n"
        "\n"
        "On a GPU, --stages and --trace say where a token's time goes: the token at the\n"
        "largest depth is evaluated once more, with a clock running in the kernel.\n",
    .options = bench_options,
    .examples =
        "  clusterfusion bench\n"
        "  clusterfusion bench -m pythia-160m -t 2 -p 128,512 -n 64 -r 10\n"
        "  clusterfusion bench -p 0 -n 128 --format csv >> results.csv\n"
        "  clusterfusion bench -m pythia-2.8b --backend cuda -p 0 -n 64 -d 32,2016 --stages\n"
        "  clusterfusion bench -m pythia-2.8b --backend cuda -p 0 -n 64 --trace token.json\n",
    .run = run,
};
